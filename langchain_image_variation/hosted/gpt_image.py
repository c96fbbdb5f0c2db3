"""The `gpt-image` engine: GPT Image through `/images/edits`, as the vendor advises since 2026.

The vendor documents an edit with the prompt "Create a variation of this image" as the replacement
of the endpoint that it removed.
"""

import time
from collections.abc import Mapping
from typing import Literal

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    MAX_N,
    CreateImageVariationRequest,
    ImagesResponse,
    Usage,
)
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    shown,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import normalize, use_data_urls
from langchain_image_variation.hosted.download import download
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.session import Session
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.pixels import on_white
from langchain_image_variation.numbers import check_whole_number

__all__ = ["DEFAULT_GPT_IMAGE", "DEFAULT_PROMPT", "MAX_PROMPT", "GptImageEngine", "InputFidelity"]

DEFAULT_GPT_IMAGE = "gpt-image-2"
"""Not among the models that the vendor shuts down on 2026-12-01."""

DEFAULT_PROMPT = "Create a variation of this image"
"""The vendor's own prompt for this migration."""

MAX_PROMPT = 32_000
"""A prompt may have at most this many characters."""

InputFidelity = Literal["low", "high"]

_VENDOR = "https://api.openai.com/v1"
_PATH = "/images/edits"
_SIDE = 1024  # The smallest square that the models make.
_FIDELITIES: dict[str, tuple[str, ...]] = {
    "gpt-image-1.5": ("low", "high"),
    "gpt-image-1-mini": ("low",),
}
_TAKEN = (
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

    A picture is sent as a person sees it on a white page: without alpha, in which the models see a
    mask, and without metadata. Pictures of 256 and 512 pixels are made at 1024, the least the
    models make, and scaled down. The arguments that `ImageVariationClient` has too are explained
    there.

    Args:
        prompt: What the model is told to do.
        model: The model of requests that name none, or "dall-e-2".
        input_fidelity: How closely to keep to the picture, where the model takes it: "low" or
            "high" with gpt-image-1.5, "low" with gpt-image-1-mini.
        n_per_call: The most pictures to ask for in one call; a request for more is split. If a
            later call fails, what the earlier ones made is lost, though billed.
        base_url: By default `OPENAI_BASE_URL`, or else the vendor's.
        extra_fields: Further form fields, such as ``{"quality": "low"}``.

    Raises:
        AuthenticationError: If there is no key for the vendor's server, or none that can be sent.
        InvalidRequestError: If a setting is out of range.
    """

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
        max_retries: int = 2,
        resend_lost: bool = False,
        extra_fields: Mapping[str, settings.FormValue] | None = None,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        api_key = settings.check_key(api_key, "OPENAI_API_KEY")
        if not isinstance(prompt, str) or not 0 < len(prompt) <= MAX_PROMPT:
            raise InvalidRequestError(
                f"prompt must be a text of 1 to {MAX_PROMPT:,} characters.", param="prompt"
            )
        self._n_per_call = check_whole_number("n_per_call", n_per_call, 1, MAX_N)
        if base_url is None:
            base_url = settings.read_environment("OPENAI_BASE_URL") or _VENDOR
        self._endpoint = Endpoint.from_settings(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            resend_lost=resend_lost,
        )
        if not api_key and self._endpoint.base_url.host == "api.openai.com":
            raise AuthenticationError(
                "The vendor's server needs a key: pass api_key or set OPENAI_API_KEY."
            )
        self._prompt = prompt
        self._result_urls = result_urls or URLPolicy(hosts=None)
        self._model = settings.check_model(model) or DEFAULT_GPT_IMAGE
        self._input_fidelity = input_fidelity
        self._extra_fields = settings.check_extra_fields(extra_fields, _TAKEN)
        self._session = Session(self._endpoint.base_url, http_client)

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._endpoint.shown_url

    @property
    def fingerprint(self) -> str:
        """A hash of prompt, model, fields and server; neither the key nor `http_client` counts."""
        return digest(
            endpoint=self._endpoint.fingerprint,
            extra_fields=self._extra_fields,
            input_fidelity=self._input_fidelity,
            model=self._model,
            prompt=self._prompt,
        )

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the model for variations.

        Raises:
            InvalidRequestError: If the model does not take the `input_fidelity` that was set, or
                the server refuses the request.
            ContentPolicyError: If the model refuses the picture.
            PermissionDeniedError: If the organisation is not verified for the model.
            RateLimitError: If there are still too many requests, or pictures a minute, after all
                attempts.
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        return self._session.run(self._flow(request), cancellation())

    def close(self) -> None:
        """Close the connections, but not those of an `http_client` of the caller's."""
        self._session.close()

    def _flow(self, request: CreateImageVariationRequest) -> Flow[ImagesResponse]:
        deadline = time.monotonic() + self._endpoint.deadline
        form = self._form(request)
        picture = yield Work(lambda: on_white(request.image).data)
        answers = []
        reporter = progress_reporter()
        left = request.n
        while left > 0:
            n = min(left, self._n_per_call)
            left -= n
            answer = yield from self._endpoint.post(
                _PATH,
                {**form, "n": str(n)},
                picture,
                build=self._session.build_request,
                deadline=deadline,
            )
            answers.append(answer)
            for _ in answer.data:
                reporter.image_finished()
        merged = _merged(answers)
        for image in merged.data:
            yield from download(
                image,
                self._endpoint,
                policy=self._result_urls,
                build=self._session.build_request,
                deadline=deadline,
            )
        yield Work(lambda: normalize(merged, request.side))
        merged.size, merged.output_format = request.size, "png"
        if request.response_format == "url":
            use_data_urls(merged)
        return merged

    def _form(self, request: CreateImageVariationRequest) -> dict[str, str]:
        model = self._model if request.model == DEFAULT_MODEL else request.model
        form = {
            "model": model,
            "prompt": self._prompt,
            "n": str(request.n),
            "size": f"{_SIDE}x{_SIDE}",
        }
        if self._input_fidelity is not None:
            form["input_fidelity"] = _checked_fidelity(self._input_fidelity, model)
        if request.user is not None:
            form["user"] = request.user
        return form | self._extra_fields


def _checked_fidelity(fidelity: str, model: str) -> str:
    taken = next((taken for name, taken in _FIDELITIES.items() if model.startswith(name)), ())
    if fidelity not in taken:
        known = f"only {' or '.join(map(repr, taken))}" if taken else "none"
        raise InvalidRequestError(
            f"{shown(model)} takes {known} as input_fidelity, got {shown(fidelity)}.",
            param="input_fidelity",
        )
    return fidelity


def _merged(answers: list[ImagesResponse]) -> ImagesResponse:
    """Return the answers of the calls as one, with the tokens of all of them."""
    first, *others = answers
    for other in others:
        first.data.extend(other.data)
        if first.usage is not None and other.usage is not None:
            first.usage = Usage.model_validate(
                _sum(first.usage.model_dump(), other.usage.model_dump())
            )
    return first


def _sum(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    total = dict(one)
    for key, value in other.items():
        known = total.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            total[key] = _sum(known, value)
        elif isinstance(known, int) and isinstance(value, int):
            total[key] = known + value
        elif known is None:
            total[key] = value
    return total
