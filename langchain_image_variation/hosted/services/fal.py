"""The engine `fal`: FLUX Redux, and models with the same parameters, on fal.ai.

The requests follow fal's documentation of its queue and of `fal-ai/flux-1/dev/redux`.
"""

from collections.abc import Mapping
from typing import Any

from langchain_image_variation.cancellation import delay_cancellation
from langchain_image_variation.contract import CreateImageVariationRequest, Image
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineResponseError,
)
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.services.job import Job, check_job_id
from langchain_image_variation.hosted.services.job_engine import JobEngine
from langchain_image_variation.hosted.services.model_input import image_data_url
from langchain_image_variation.hosted.services.seeds import sent_seed
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.http.flow import Flow

__all__ = ["FalEngine"]

_MIN_SIDE = 512  # Smaller images are drawn at this side, and scaled down.
_NAMESPACES = ("comfy", "workflows")


class FalEngine(JobEngine):
    """Asks FLUX Redux on fal.ai for new images, without a prompt; billed, needs FAL_KEY.

    Each image is one job in fal's queue, so image i of a seed is image 1 of the seed + i - 1.
    A call that is cancelled cancels its jobs. Results come back in the answer, so fal does not keep
    them. `ImageVariationClient` explains the arguments that are not listed here.

    Args:
        model: A model with the parameters `image_url`, `image_size`, `num_images`, `seed`,
            `output_format` and `sync_mode`. By default "fal-ai/flux-1/dev/redux".
        seed: The seed of the first image. None draws one for each request.
        extra_input: Other parameters of the model, such as ``{"num_inference_steps": 40}``.
        api_key: By default `FAL_KEY`.
        max_billed_calls: The maximum number of billed calls of this engine and its copies. Each
            image is one call.

    Raises:
        AuthenticationError: If there is no key, or a header cannot carry it.
        InvalidRequestError: If a setting is out of range.
    """

    _title = "fal.ai"
    _key_variable = "FAL_KEY"
    _key_scheme = "Key"
    _default_url = "https://queue.fal.run"
    _default_model = "fal-ai/flux-1/dev/redux"
    _reserved_input = frozenset(
        {"image_size", "image_url", "num_images", "output_format", "seed", "sync_mode"}
    )

    @property
    def fingerprint(self) -> str:
        """A hash of the model, its input and the address, but not of the key or `http_client`."""
        return self._digest_settings()

    def _model_input(self, request: CreateImageVariationRequest) -> dict[str, object]:
        side = max(request.side, _MIN_SIDE)
        return {
            "image_url": image_data_url(request),
            "image_size": {"width": side, "height": side},
            "num_images": 1,
            "output_format": "png",
            "sync_mode": True,
        }

    def _new_job(self, model: str, model_input: Mapping[str, object], seed: int) -> Job:
        return _QueuedJob(self._service, model, model_input, seed)


class _QueuedJob(Job):
    """One job in the queue, which makes one image."""

    cancel_method = "PUT"

    def __init__(
        self, service: Service, model: str, model_input: Mapping[str, object], seed: int
    ) -> None:
        super().__init__(service, model, seed)
        self._input = {**model_input, "seed": sent_seed(seed)}

    def submit(self, budget: Budget) -> Flow[None]:
        """Put the job into the queue."""
        answer = yield from self.service.submit(f"/{self.model}", budget, json=self._input)
        self.path = self._read_path(answer)

    def poll(self, budget: Budget) -> Flow[Image | None]:
        """Ask whether the job is done, and if so, for its result."""
        path = self.path
        answer = yield from self.service.poll(f"{path}/status", budget)
        if not _is_completed(answer):
            return None
        with delay_cancellation():
            answer = yield from self.service.poll(str(path), budget)
        self.path = None
        return _read_image(answer)

    def _read_path(self, answer: Answer) -> str:
        job_id = check_job_id(answer.mapping().get("request_id"))
        if job_id is None:
            raise answer.redact_error(
                EngineResponseError("fal.ai accepted the job without its ID.")
            )
        # The queue knows a job by its app, without the rest of the model's name.
        parts = self.model.split("/")
        app = "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])
        return f"/{app}/requests/{job_id}"


def _is_completed(answer: Answer) -> bool:
    status = answer.mapping().get("status")
    if status not in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"):
        raise answer.redact_error(
            EngineResponseError("fal.ai answered with an unknown status of the job.")
        )
    return bool(status == "COMPLETED")


def _read_image(answer: Answer) -> Image:
    content = answer.mapping()
    url, refusals = _first_url(content.get("images")), content.get("has_nsfw_concepts")
    # It may repeat the key, which the variables of a traceback must not show.
    del content
    if isinstance(refusals, list) and True in refusals:
        # The image is black, or left out.
        raise answer.redact_error(
            ContentPolicyError("fal.ai's safety checker refused the image that the model drew.")
        )
    if url is None:
        raise answer.redact_error(EngineResponseError("fal.ai answered without an image."))
    return Image(url=url)


def _first_url(images: Any) -> str | None:
    first = images[0] if isinstance(images, list) and images else None
    url = first.get("url") if isinstance(first, dict) else None
    return url if isinstance(url, str) and url else None
