"""The engine `replicate`: FLUX Redux, and models with the same parameters, on Replicate.

The requests follow Replicate's documentation of predictions and the schema of
`black-forest-labs/flux-redux-dev`.
"""

from collections.abc import Mapping

from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest, Image
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    EngineResponseError,
    ImageVariationError,
)
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.services.job import Job, check_job_id
from langchain_image_variation.hosted.services.job_engine import JobEngine
from langchain_image_variation.hosted.services.model_input import image_data_url
from langchain_image_variation.hosted.services.seeds import sent_seed
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.http.flow import Flow

__all__ = ["ReplicateEngine"]

_SMALL_SIDE = 512  # Up to this side, a quarter of a megapixel is enough.
_HOLD_SECONDS = 5  # How long the server holds the first answer back, so that it has the result.
_FAILURES = ("failed", "canceled", "aborted")


class ReplicateEngine(JobEngine):
    """Asks FLUX Redux on Replicate for new images, without a prompt; billed, needs a token.

    Each image is one prediction, so image i of a seed is image 1 of the seed + i - 1. A call that
    is cancelled cancels its predictions. `ImageVariationClient` explains the arguments that are not
    listed here.

    Args:
        model: A model with the parameters `redux_image`, `aspect_ratio`, `num_outputs`, `seed`,
            `output_format` and `megapixels`, as "owner/name" or "owner/name:version". By default
            "black-forest-labs/flux-redux-dev".
        seed: The seed of the first image. None draws one for each request.
        extra_input: Other parameters of the model, such as ``{"guidance": 2.5}``.
        api_key: By default `REPLICATE_API_TOKEN`.
        max_billed_calls: The maximum number of billed calls of this engine and its copies. Each
            image is one call.

    Raises:
        AuthenticationError: If there is no key, or a header cannot carry it.
        InvalidRequestError: If a setting is out of range.
    """

    _title = "Replicate"
    _key_variable = "REPLICATE_API_TOKEN"
    _default_url = "https://api.replicate.com/v1"
    _default_model = "black-forest-labs/flux-redux-dev"
    _reserved_input = frozenset(
        {"aspect_ratio", "megapixels", "num_outputs", "output_format", "redux_image", "seed"}
    )

    @property
    def fingerprint(self) -> str:
        """A hash of the model, its input and the address, but not of the key or `http_client`."""
        return self._digest_settings()

    def _model_input(self, request: CreateImageVariationRequest) -> dict[str, object]:
        return {
            "redux_image": image_data_url(request),
            "aspect_ratio": "1:1",
            "num_outputs": 1,
            "output_format": "png",
            "megapixels": "0.25" if request.side <= _SMALL_SIDE else "1",
        }

    def _new_job(self, model: str, model_input: Mapping[str, object], seed: int) -> Job:
        return _Prediction(self._service, model, model_input, seed)


class _Prediction(Job):
    """One prediction, which makes one image."""

    cancel_method = "POST"

    def __init__(
        self, service: Service, model: str, model_input: Mapping[str, object], seed: int
    ) -> None:
        super().__init__(service, model, seed)
        name, _, version = model.partition(":")
        self._create_path = "/predictions" if version else f"/models/{name}/predictions"
        self._body = {
            **({"version": version} if version else {}),
            "input": {**model_input, "seed": sent_seed(seed)},
        }

    def submit(self, budget: Budget) -> Flow[Image | None]:
        """Create the prediction, and wait a little for its result."""
        answer = yield from self.service.submit(
            self._create_path,
            budget,
            json=self._body,
            headers={"prefer": SecretStr(f"wait={_HOLD_SECONDS}")},
        )
        return self._read(answer)

    def poll(self, budget: Budget) -> Flow[Image | None]:
        """Ask for the result."""
        answer = yield from self.service.poll(str(self.path), budget)
        return self._read(answer)

    def _read(self, answer: Answer) -> Image | None:
        """Return the result, or None while the prediction runs."""
        content = answer.mapping()
        status, job_id, output = content.get("status"), content.get("id"), content.get("output")
        failure = _prediction_error(status, content.get("error"))
        # It may repeat the token, which the variables of a traceback must not show.
        del content
        if status in ("starting", "processing"):
            if check_job_id(job_id) is None:
                raise answer.redact_error(
                    EngineResponseError("Replicate accepted the prediction without its ID.")
                )
            self.path = f"/predictions/{job_id}"
            return None
        if status in ("succeeded", *_FAILURES):
            self.path = None
        url = output[0] if isinstance(output, list) and output else output
        if status == "succeeded" and isinstance(url, str) and url:
            return Image(url=url)
        raise answer.redact_error(failure)


def _prediction_error(status: object, reason: object) -> ImageVariationError:
    """Return the error of a prediction that has no image."""
    if status == "succeeded":
        return EngineResponseError("Replicate answered without an image.")
    if status not in _FAILURES:
        return EngineResponseError("Replicate answered with an unknown status of the prediction.")
    text = reason if isinstance(reason, str) else ""
    if "NSFW" in text or "safety" in text.lower():
        return ContentPolicyError(f"Replicate refused the image: {text}")
    return EngineError(f"The prediction ended as {status!r}{': ' if text else '.'}{text}")
