"""The engine `replicate`: FLUX Redux, and models with the same parameters, on Replicate.

The requests follow Replicate's documentation of predictions and the schema of
`black-forest-labs/flux-redux-dev`.
"""

from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_seed
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    EngineResponseError,
    ImageVariationError,
)
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES, Budget
from langchain_image_variation.hosted.services.engine import ServiceEngine
from langchain_image_variation.hosted.services.job import Job
from langchain_image_variation.hosted.services.model_input import (
    check_extra_input,
    check_job_id,
    check_model_path,
    chosen_model,
    image_data_url,
    image_seeds,
    sent_seed,
)
from langchain_image_variation.hosted.services.request import create_images
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.http.flow import Flow
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["DEFAULT_REPLICATE_MODEL", "ReplicateEngine"]

DEFAULT_REPLICATE_MODEL = "black-forest-labs/flux-redux-dev"

_API = "https://api.replicate.com/v1"
_SMALL_SIDE = 512  # Up to this side, a quarter of a megapixel is enough.
_HOLD_SECONDS = 5  # How long the server holds the first answer back, so that it has the result.
_FAILURES = ("failed", "canceled", "aborted")
_RESERVED = frozenset(
    {"aspect_ratio", "megapixels", "num_outputs", "output_format", "redux_image", "seed"}
)


class ReplicateEngine(ServiceEngine):
    """Asks FLUX Redux on Replicate for new images, without a prompt; billed, needs a token.

    Each image is one prediction, so image i of a seed is image 1 of the seed + i - 1. A call that
    is cancelled cancels its predictions. `ImageVariationClient` explains the arguments that are not
    listed here.

    Args:
        model: A model with the parameters `redux_image`, `aspect_ratio`, `num_outputs`, `seed`,
            `output_format` and `megapixels`, as "owner/name" or "owner/name:version".
        seed: The seed of the first image. None draws one for each request.
        extra_input: Other parameters of the model, such as ``{"guidance": 2.5}``.
        api_key: By default `REPLICATE_API_TOKEN`.
        max_billed_calls: The maximum number of billed calls of this engine and its copies. Each
            image is one call.

    Raises:
        AuthenticationError: If there is no key, or a header cannot carry it.
        InvalidRequestError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_REPLICATE_MODEL,
        seed: int | None = None,
        extra_input: Mapping[str, object] | None = None,
        base_url: str = _API,
        api_key: str | SecretStr | None = None,
        max_billed_calls: int | None = None,
        timeout: float | httpx.Timeout | None = 60.0,
        deadline: float | None = 600.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_retries: int = 2,
        resend_lost: bool = False,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        self.seed = None if seed is None else check_seed(seed)
        self._model = check_model_path(model)
        self._extra_input = check_extra_input(extra_input, _RESERVED)
        self._service = Service.open(
            "Replicate",
            key_variable="REPLICATE_API_TOKEN",
            default_url=_API,
            base_url=base_url,
            api_key=api_key,
            max_billed_calls=max_billed_calls,
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            result_urls=result_urls,
            http_client=http_client,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the model, its input and the address, but not of the key or `http_client`."""
        return digest(
            endpoint=self._service.endpoint.fingerprint,
            extra_input=self._extra_input,
            model=self._model,
            seed=self.seed,
        )

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the model for variations.

        Raises:
            BillingLimitError: If `max_billed_calls` does not allow the request.
            ContentPolicyError: If the model refuses the image or all results.
            ModelNotFoundError: If the service has no such model.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        model = chosen_model(request, self._model)
        model_input: dict[str, object] = {
            "redux_image": image_data_url(request),
            "aspect_ratio": "1:1",
            "num_outputs": 1,
            "output_format": "png",
            "megapixels": "0.25" if request.side <= _SMALL_SIDE else "1",
            **self._extra_input,
        }
        calls = [
            _Prediction(self._service, model, model_input, seed)
            for seed in image_seeds(self.seed, request.n)
        ]
        return create_images(self._service, request, calls, model)


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
