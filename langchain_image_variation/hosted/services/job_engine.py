"""`JobEngine`: what the engines whose service runs one job per image have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_seed
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.services.engine import ServiceEngine
from langchain_image_variation.hosted.services.job import Job
from langchain_image_variation.hosted.services.model_input import (
    check_extra_input,
    check_model_path,
    chosen_model,
)
from langchain_image_variation.hosted.services.request import create_images
from langchain_image_variation.hosted.services.seeds import image_seeds
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["JobEngine"]


class JobEngine(ServiceEngine, ABC):
    """Asks a model of a service for one job per image; billed, needs a key.

    Image i of a seed is image 1 of the seed + i - 1. A call that is cancelled cancels its jobs. The
    subclasses explain the arguments. Each also defines `fingerprint`, because an inherited one does
    not count.

    Raises:
        AuthenticationError: If there is no key, or a header cannot carry it.
        InvalidRequestError: If a setting is out of range.
    """

    _title: ClassVar[str]
    """What errors call the service."""
    _key_variable: ClassVar[str]
    """The environment variable of the key."""
    _key_scheme: ClassVar[str] = "Bearer"
    """The scheme of the authorization header."""
    _default_url: ClassVar[str]
    """The service's real address."""
    _default_model: ClassVar[str]
    """The model that is asked if neither the engine nor the request names one."""
    _reserved_input: ClassVar[frozenset[str]]
    """The parameters of the model that `extra_input` must not contain."""

    def __init__(
        self,
        *,
        model: str | None = None,
        seed: int | None = None,
        extra_input: Mapping[str, object] | None = None,
        base_url: str | None = None,
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
        self._model = self._default_model if model is None else check_model_path(model)
        self._extra_input = check_extra_input(extra_input, self._reserved_input)
        self._service = Service.open(
            self._title,
            key_variable=self._key_variable,
            key_scheme=self._key_scheme,
            default_url=self._default_url,
            base_url=self._default_url if base_url is None else base_url,
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

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the model for variations.

        Raises:
            BillingLimitError: If `max_billed_calls` does not allow the request.
            ContentPolicyError: If the model refuses the image or all results.
            ModelNotFoundError: If the service has no such model.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        model = chosen_model(request, self._model)
        model_input = {**self._model_input(request), **self._extra_input}
        calls = [
            self._new_job(model, model_input, seed) for seed in image_seeds(self.seed, request.n)
        ]
        return create_images(self._service, request, calls, model)

    @abstractmethod
    def _model_input(self, request: CreateImageVariationRequest) -> dict[str, object]:
        """Return the input of the model for one image, without its seed and `extra_input`."""

    @abstractmethod
    def _new_job(self, model: str, model_input: Mapping[str, object], seed: int) -> Job:
        """Return the job that makes one image."""

    def _digest_settings(self) -> str:
        return digest(
            endpoint=self._service.endpoint.fingerprint,
            extra_input=self._extra_input,
            model=self._model,
            seed=self.seed,
        )
