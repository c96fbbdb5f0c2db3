"""The engine `gpt-image`: GPT Image through `/images/edits`.

When the vendor removed image variations in 2026, it documented an edit with the prompt "Create a
variation of this image" as the replacement.
"""

import copy
from collections.abc import Mapping
from typing import Literal, Self

import httpx
from pydantic import SecretStr

from langchain_image_variation.cancellation import delay_cancellation
from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    MAX_N,
    CreateImageVariationRequest,
    ImagesResponse,
    Usage,
)
from langchain_image_variation.engines.context import progress_reporter, stop_request
from langchain_image_variation.engines.failed_images import failed_images
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import (
    AuthenticationError,
    ImageVariationError,
    InvalidRequestError,
    excerpt,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import normalize_images, use_data_urls
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.download import download
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.session import Session
from langchain_image_variation.hosted.stop_errors import unsent_call_error
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.pixels import flatten_on_white
from langchain_image_variation.numbers import check_whole_number

__all__ = ["DEFAULT_GPT_IMAGE", "DEFAULT_PROMPT", "MAX_PROMPT", "GptImageEngine", "InputFidelity"]

DEFAULT_GPT_IMAGE = "gpt-image-2"
"""The vendor shuts down older models on 2026-12-01, but not this one."""

DEFAULT_PROMPT = "Create a variation of this image"
"""The vendor's own prompt for this migration."""

MAX_PROMPT = 32_000
"""The maximum length of a prompt, in characters."""

InputFidelity = Literal["low", "high"]

_VENDOR_HOST = "api.openai.com"
_PATH = "/images/edits"
_SIDE = 1024  # The smallest square that the models make.
_FIDELITIES: dict[str, tuple[str, ...]] = {
    "gpt-image-1.5": ("low", "high"),
    "gpt-image-1-mini": ("low",),
}
_RESERVED = (
    "image",
    "input_fidelity",
    "model",
    "n",
    "prompt",
    "response_format",
    "size",
    "user",
)


class GptImageEngine:
    """Asks GPT Image, a hosted model that is billed; needs OPENAI_API_KEY.

    The image is sent as it looks on a white page, without metadata and without alpha, which the
    models would take for a mask. Sizes 256 and 512 are made at 1024, the smallest size of the
    models, and scaled down. `ImageVariationClient` explains the arguments that are not listed here.

    Args:
        prompt: The instruction for the model.
        model: The model of requests that name none, or "dall-e-2".
        input_fidelity: How closely to follow the image, if the model has this setting: "low" or
            "high" for gpt-image-1.5, "low" for gpt-image-1-mini.
        n_per_call: The maximum number of images per call. A request for more is split into several
            calls. If a later call fails, the images of the earlier ones are kept.
        base_url: By default `OPENAI_BASE_URL`, or the vendor's address if that is not set.
        extra_fields: Form fields beyond the contract, such as ``{"quality": "low"}``.

    Raises:
        AuthenticationError: If the vendor's server is used without a key, or a header cannot carry
            the key.
        InvalidRequestError: If a setting is out of range.
    """

    variation_kind = "new images of the same subject"
    """What its variations are."""

    def __init__(
        self,
        *,
        prompt: str = DEFAULT_PROMPT,
        model: str = DEFAULT_GPT_IMAGE,
        input_fidelity: InputFidelity | None = None,
        n_per_call: int = MAX_N,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | httpx.Timeout | None = 300.0,
        deadline: float | None = 600.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_retries: int = 2,
        resend_lost: bool = False,
        extra_fields: Mapping[str, settings.FormValue] | None = None,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        api_key = settings.check_key(api_key, "OPENAI_API_KEY")
        self._n_per_call = check_whole_number("n_per_call", n_per_call, 1, MAX_N)
        if base_url is None:
            base_url = settings.read_environment("OPENAI_BASE_URL") or f"https://{_VENDOR_HOST}/v1"
        self._endpoint = Endpoint.from_settings(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            service_host=_VENDOR_HOST,
        )
        if not api_key and self._endpoint.base_url.host == _VENDOR_HOST:
            raise AuthenticationError(
                "The vendor's server needs a key: pass api_key or set OPENAI_API_KEY."
            )
        self.prompt = _check_prompt(prompt)
        self._result_urls = result_urls or URLPolicy(hosts=None)
        self._model = settings.check_model(model) or DEFAULT_GPT_IMAGE
        self._input_fidelity = input_fidelity
        self._extra_fields = settings.check_extra_fields(extra_fields, _RESERVED)
        self._session = Session(self._endpoint.base_url, http_client)

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._endpoint.display_url

    @property
    def fingerprint(self) -> str:
        """A hash of prompt, model, fields and server, but not of the key or `http_client`."""
        return digest(
            endpoint=self._endpoint.fingerprint,
            extra_fields=self._extra_fields,
            input_fidelity=self._input_fidelity,
            model=self._model,
            prompt=self.prompt,
        )

    def with_options(self, *, prompt: str | None = None) -> Self:
        """Return a copy with another prompt, which shares the connections. None keeps the prompt.

        Raises:
            InvalidRequestError: If the prompt is empty or too long.
        """
        engine = copy.copy(self)
        if prompt is not None:
            engine.prompt = _check_prompt(prompt)
        return engine

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the model for variations.

        Raises:
            InvalidRequestError: If the model does not support the `input_fidelity` that is set, or
                the server rejects the request.
            ContentPolicyError: If the model rejects the image.
            PermissionDeniedError: If the organization is not verified for the model.
            RateLimitError: If there are still too many requests, or images per minute, after all
                attempts.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        return self._session.run(self._flow(request))

    def close(self) -> None:
        """Close the connections. An `http_client` that you passed stays open."""
        self._session.close()

    def _flow(self, request: CreateImageVariationRequest) -> Flow[ImagesResponse]:
        budget = self._endpoint.new_budget()
        form = self._form(request)
        image_file = yield Work(lambda: flatten_on_white(request.image).data)
        answers: list[ImagesResponse] = []
        failure: ImageVariationError | None = None
        reporter, is_stopped = progress_reporter(), stop_request()
        for first in range(0, request.n, self._n_per_call):
            n = min(request.n - first, self._n_per_call)
            try:
                if is_stopped():
                    raise unsent_call_error(self._endpoint.base_url.host)
                answer = yield from self._endpoint.post(
                    _PATH,
                    {**form, "n": str(n)},
                    image_file,
                    n=n,
                    build_request=self._session.build_request,
                    budget=budget,
                )
            except ImageVariationError as error:
                if not answers:
                    raise
                # The earlier images are paid for.
                failure = error
                break
            answers.append(answer)
            for _ in answer.data:
                reporter.image_finished()
        response = _merge(answers)
        response.model = form["model"]
        with delay_cancellation():
            for image in response.data:
                yield from download(
                    image,
                    self._endpoint,
                    policy=self._result_urls,
                    build_request=self._session.build_request,
                    budget=budget,
                )
            yield from normalize_images(response, request.side, budget)
        if failure is not None:
            response.data += failed_images(request.n - len(response.data), failure)
        response.size, response.output_format = request.size, "png"
        if request.response_format == "url":
            use_data_urls(response)
        return response

    def _form(self, request: CreateImageVariationRequest) -> dict[str, str]:
        model = self._model if request.model == DEFAULT_MODEL else request.model
        form = {
            "model": model,
            "prompt": self.prompt,
            "n": str(request.n),
            "size": f"{_SIDE}x{_SIDE}",
        }
        if self._input_fidelity is not None:
            form["input_fidelity"] = _check_fidelity(self._input_fidelity, model)
        if request.user is not None:
            form["user"] = request.user
        return form | self._extra_fields


def _check_prompt(prompt: object) -> str:
    if isinstance(prompt, str) and 0 < len(prompt) <= MAX_PROMPT:
        return prompt
    raise InvalidRequestError(
        f"prompt must be a string of 1 to {MAX_PROMPT:,} characters.", param="prompt"
    )


def _check_fidelity(fidelity: str, model: str) -> str:
    choices = next((values for name, values in _FIDELITIES.items() if model.startswith(name)), ())
    if fidelity not in choices:
        choice_text = f"only {' or '.join(map(repr, choices))}" if choices else "no value"
        raise InvalidRequestError(
            f"{excerpt(model)} supports {choice_text} as input_fidelity, got {excerpt(fidelity)}.",
            param="input_fidelity",
        )
    return fidelity


def _merge(answers: list[ImagesResponse]) -> ImagesResponse:
    """Merge the answers of several calls into the first one, and add up their tokens."""
    first, *rest = answers
    for answer in rest:
        first.data.extend(answer.data)
        if first.usage is not None and answer.usage is not None:
            first.usage = Usage.model_validate(
                _add_up(first.usage.model_dump(), answer.usage.model_dump())
            )
    return first


def _add_up(first: dict[str, object], second: dict[str, object]) -> dict[str, object]:
    total = dict(first)
    for key, value in second.items():
        subtotal = total.get(key)
        if isinstance(subtotal, dict) and isinstance(value, dict):
            total[key] = _add_up(subtotal, value)
        elif isinstance(subtotal, int) and isinstance(value, int):
            total[key] = subtotal + value
        elif subtotal is None:
            total[key] = value
    return total
