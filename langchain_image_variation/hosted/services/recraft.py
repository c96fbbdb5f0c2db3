"""The engine `recraft`: Recraft's "Remix", which makes variations without a prompt.

The requests follow Recraft's documentation of `/images/variateImage`.
"""

from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_seed
from langchain_image_variation.engines.traits import check_model
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES, Budget
from langchain_image_variation.hosted.services.engine import ServiceEngine
from langchain_image_variation.hosted.services.request import create_images
from langchain_image_variation.hosted.services.seeds import image_seeds, sent_seed
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.http.flow import Flow
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.pixels import decode_png, encode_png, flatten_on_white

__all__ = ["MAX_RECRAFT_N", "RecraftEngine"]

MAX_RECRAFT_N = 6
"""The maximum number of images per call."""

_API = "https://external.api.recraft.ai/v1"
_PATH = "/images/variateImage"
_SIDE = 1024  # The square that all its raster models make.
_MIN_SENT_SIDE, _MAX_SENT_SIDE = 256, 4000  # Recraft takes 256 to 4096 pixels a side.
_RESERVED = ("image", "image_format", "n", "random_seed", "response_format", "size")


class RecraftEngine(ServiceEngine):
    """Asks Recraft for variations, without a prompt; billed, needs RECRAFT_API_TOKEN.

    One billed call makes up to six images. With a seed, each image is a call, so that image i
    of a seed is image 1 of the seed + i - 1. Images are drawn at 1024 pixels, and scaled down to
    the requested size. `ImageVariationClient` explains the arguments that are not listed here.

    Args:
        seed: The seed of the first image. None lets Recraft choose.
        extra_fields: Other form fields of the service.
        api_key: By default `RECRAFT_API_TOKEN`.
        max_billed_calls: The maximum number of billed calls of this engine and its copies.

    Raises:
        AuthenticationError: If there is no key, or a header cannot carry it.
        InvalidRequestError: If a setting is out of range.
    """

    has_costly_seeds = True
    """With a seed, a call makes one image instead of six, for the same price."""
    models = ("dall-e-2", "recraft")
    """The models that a request may name. The service chooses its own."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        extra_fields: Mapping[str, settings.FormValue] | None = None,
        base_url: str = _API,
        api_key: str | SecretStr | None = None,
        max_billed_calls: int | None = None,
        timeout: float | httpx.Timeout | None = 300.0,
        deadline: float | None = 600.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_retries: int = 2,
        resend_lost: bool = False,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        self.seed = None if seed is None else check_seed(seed)
        self._extra_fields = settings.check_extra_fields(extra_fields, _RESERVED)
        self._service = Service.open(
            "Recraft",
            key_variable="RECRAFT_API_TOKEN",
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
        """A hash of the fields and the address, but not of the key or `http_client`."""
        return digest(
            endpoint=self._service.endpoint.fingerprint,
            extra_fields=self._extra_fields,
            seed=self.seed,
        )

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask Recraft for variations.

        Raises:
            BillingLimitError: If `max_billed_calls` does not allow the request.
            ModelNotFoundError: If the model is neither "dall-e-2" nor "recraft".
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        check_model(request.model, self.models)
        form = {
            "size": f"{_SIDE}x{_SIDE}",
            "response_format": "b64_json",
            "image_format": "png",
            **self._extra_fields,
        }
        image_file = _image_to_send(request)
        calls = []
        if self.seed is not None:
            for seed in image_seeds(self.seed, request.n):
                fields = {**form, "n": "1", "random_seed": str(sent_seed(seed))}
                calls.append(_Call(self._service, image_file, fields, 1, seed))
        else:
            for first in range(0, request.n, MAX_RECRAFT_N):
                n = min(MAX_RECRAFT_N, request.n - first)
                calls.append(_Call(self._service, image_file, {**form, "n": str(n)}, n, None))
        return create_images(self._service, request, calls, "recraft")


class _Call:
    """One billed call, which makes up to six images."""

    def __init__(
        self,
        service: Service,
        image_file: bytes,
        form: Mapping[str, str],
        n: int,
        seed: int | None,
    ) -> None:
        self.n = n
        self._service = service
        self._image_file = image_file
        self._form = form
        self._seed = seed

    def flow(self, budget: Budget) -> Flow[ImagesResponse]:
        """Post the image, and return the images of the answer."""
        answer = yield from self._service.endpoint.post(
            _PATH,
            self._form,
            self._image_file,
            n=self.n,
            build_request=self._service.session.build_request,
            budget=budget,
        )
        for image in answer.data:
            if self._seed is not None:
                image.set_seed(self._seed)
        return answer

    def cancel_flow(self, budget: Budget) -> None:
        """Recraft has no way to cancel a call."""


def _image_to_send(request: CreateImageVariationRequest) -> bytes:
    """Return a PNG that Recraft takes: without alpha, with 256 to 4,000 pixels a side."""
    image = flatten_on_white(request.image)
    side = min(max(image.side, _MIN_SENT_SIDE), _MAX_SENT_SIDE)
    if side == image.side:
        return image.data
    return encode_png(decode_png(image).resize((side, side)))
