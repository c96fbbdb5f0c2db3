"""The client: image variations from any server that speaks `POST /images/variations`.

`ImageVariationClient` and `AsyncImageVariationClient` are engines, and also take calls in the shape
of the vendor's SDK: ``client.images.create_variation(image=open("image.png", "rb"), n=2)``.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from pydantic import SecretStr

from langchain_image_variation.contract import (
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
    Size,
)
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.images.png import SquarePNG

if TYPE_CHECKING:
    import httpx

    from langchain_image_variation.hosted.settings import FormValue
    from langchain_image_variation.http.url_policy import URLPolicy
    from langchain_image_variation.source import ImageSource, Source

    # Anything `load_source` takes or returned, or the SDK's (file name, bytes or file[, type]).
    SDKImage = SquarePNG | Source | ImageSource | tuple[object, ...]

__all__ = ["AsyncImageVariationClient", "AsyncImages", "ImageVariationClient", "Images"]

H = TypeVar("H", "httpx.Client", "httpx.AsyncClient")


class _Client(Generic[H]):
    """What the sync and the async client share: the settings."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        organization: str | None = None,
        project: str | None = None,
        model: str | None = None,
        timeout: "float | httpx.Timeout | None" = 300.0,
        deadline: float | None = 600.0,
        max_retries: int = 2,
        resend_lost: bool = False,
        extra_fields: "Mapping[str, FormValue] | None" = None,
        normalize: bool = False,
        urls: "URLPolicy | None" = None,
        result_urls: "URLPolicy | None" = None,
        http_client: H | None = None,
    ) -> None:
        # httpx takes longer to import than the rest of a program's start-up, so only its use does.
        from langchain_image_variation.hosted import settings
        from langchain_image_variation.hosted.endpoint import Endpoint
        from langchain_image_variation.hosted.variations import Variations

        api_key = settings.secret(api_key, "OPENAI_API_KEY")
        base_url = base_url if base_url is not None else settings.environment("OPENAI_BASE_URL")
        if base_url is None:
            raise InvalidRequestError(_NO_SERVER, param="base_url")
        endpoint = Endpoint.configured(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            resend_lost=resend_lost,
        )
        self._variations = Variations(
            endpoint,
            model=model,
            extra_fields=extra_fields,
            normalize=normalize,
            result_urls=result_urls,
        )
        self._urls = urls
        self._open(endpoint.base_url, http_client)

    def _open(self, base_url: "httpx.URL", http_client: H | None) -> None:
        raise AssertionError("each client opens its own session")

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._variations.endpoint.shown_url

    @property
    def fingerprint(self) -> str:
        """A hash of server, model and fields; neither the key nor `http_client` counts."""
        return self._variations.fingerprint

    def __repr__(self) -> str:
        # One that was not made has no address, and shows in the tracebacks that say why.
        made = f"base_url={self.base_url!r}" if "_variations" in vars(self) else "not made"
        return f"{type(self).__name__}({made})"


_NO_SERVER = (
    "There is no default server for image variations: the vendor removed its own in May 2026. Pass "
    "base_url or set OPENAI_BASE_URL to a server that speaks the path, or use the engine "
    "'gpt-image' (a hosted model, needs a key) or 'local' (on this machine)."
)


class ImageVariationClient(_Client["httpx.Client"]):
    """Asks a server for variations. An engine; safe to share between threads.

    There is no default server, since the vendor's is gone: pass `base_url` or set
    `OPENAI_BASE_URL`. Results given as addresses are downloaded at once, since they soon expire;
    `Image.read` returns their bytes, or raises what hindered the download.

    Args:
        base_url: Up to and without "/images/variations"; by default `OPENAI_BASE_URL`.
        api_key: Sent as a bearer token; by default `OPENAI_API_KEY`. "" sends none.
        organization: By default `OPENAI_ORG_ID`. "" sends none.
        project: By default `OPENAI_PROJECT_ID`. "" sends none.
        model: The model of requests that name none, or "dall-e-2".
        timeout: Seconds of silence from the server, or an `httpx.Timeout`; None waits for ever.
            Connecting may take at most 10 of them.
        deadline: Seconds for a call in all: every attempt, wait and download; None for no limit.
        max_retries: How many times a request is sent again after 408, 409, 429, 5xx, or a
            connection that failed or broke before any answer. All attempts carry one
            `Idempotency-Key`.
        resend_lost: Whether to send again, too, when the server did not answer in time or its
            answer was cut short. A server that ignores `Idempotency-Key` then bills twice.
        extra_fields: Further form fields that a server takes.
        normalize: Whether to turn results into PNG of exactly the size that was asked for, which
            whoever uses the client as an engine should.
        urls: The hosts from which `images.create_variation` may fetch a picture to vary.
        result_urls: How results given as addresses of another host are downloaded; by default from
            any public https host.
        http_client: A client of one's own, for proxies, certificates or tests; it is not closed.
            While it waits for the headers of an answer, only `timeout` bounds each read.

    Raises:
        InvalidRequestError: If there is no `base_url`, or a setting is out of range.
        AuthenticationError: If the key cannot be sent in a header.
    """

    fingerprint = _Client.fingerprint

    def _open(self, base_url: "httpx.URL", http_client: "httpx.Client | None") -> None:
        from langchain_image_variation.hosted.session import Session

        self._session = Session(base_url, http_client)
        self.images = Images(self)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the server for variations.

        Raises:
            InvalidRequestError: If the server refuses the request; its subclasses say why:
                `ModelNotFoundError`, `ContentPolicyError`, `BillingLimitError` among them.
            AuthenticationError: If the key is missing or wrong (401).
            PermissionDeniedError: If the key may not do this (403).
            EndpointRemovedError: If the host has no image variations (404 without a reason).
            NotFoundError: If the server knows no such thing (404).
            ConflictError: If another request stands in the way (409).
            PayloadTooLargeError: If the server takes no body of this length (413).
            RateLimitError: If there are still too many requests after all attempts (429);
                `QuotaExceededError` if waiting does not help.
            EngineTimeoutError: If the server did not answer in time.
            EngineConnectionError: If it cannot be reached, or hung up.
            EngineResponseError: If what it answered is no answer, is cut short or too long.
            ServiceUnavailableError: If it is not ready (503).
            EngineError: If it failed otherwise (5xx).
            ImageVariationError: If it redirects (3xx): a picture is sent nowhere else unasked.
        """
        flow = self._variations.flow(request, self._session.build)
        return self._session.run(flow, _gone())

    def close(self) -> None:
        """Close the connections, but not those of an `http_client` of the caller's."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncImageVariationClient(_Client["httpx.AsyncClient"]):
    """The async twin of `ImageVariationClient`, on asyncio or trio, with the same settings.

    Connections belong to an event loop: each loop has its own, and `close` closes those of the loop
    that it is called on. An `http_client` belongs to the loop of its first call.

    Raises:
        InvalidRequestError: If there is no `base_url`, or a setting is out of range.
        AuthenticationError: If the key cannot be sent in a header.
    """

    fingerprint = _Client.fingerprint

    def _open(self, base_url: "httpx.URL", http_client: "httpx.AsyncClient | None") -> None:
        from langchain_image_variation.hosted.session import AsyncSession

        self._session = AsyncSession(base_url, http_client)
        self.images = AsyncImages(self)

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the server for variations.

        Raises:
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        return await self._session.run(self._variations.flow(request, self._session.build))

    async def close(self) -> None:
        """Close the connections of this loop, but not those of an `http_client` of the caller's."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Images:
    """The call in the shape of the vendor's SDK, as `client.images`."""

    def __init__(self, client: ImageVariationClient) -> None:
        self._client = client

    def create_variation(
        self,
        *,
        image: "SDKImage",
        model: str | None = None,
        n: int | None = None,
        response_format: ResponseFormat | None = None,
        size: Size | None = None,
        user: str | None = None,
    ) -> ImagesResponse:
        """Ask the server for variations of a picture, which is cropped to a square if need be.

        Args:
            image: A path, bytes, an open binary file, a `data:` URL, an https URL of a host that
                `urls` allows, a PIL image, what `load_source` returned, or a tuple as the SDK takes
                it.
            model: The model; by default that of the client.
            n: How many variations, 1 to 10; by default 1.
            response_format: "url" (the default) or "b64_json".
            size: Width x height in pixels; by default "1024x1024".
            user: An identifier of the end user.

        Raises:
            SourceError: If the picture cannot be read.
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        client = self._client
        fields = _given(model, n, response_format, size, user)
        flow = client._variations.sdk_flow(
            lambda: _square_png(image, client._urls), fields, client._session.build
        )
        return client._session.run(flow, _gone())


class AsyncImages:
    """The call in the shape of the vendor's async SDK, as `client.images`."""

    def __init__(self, client: AsyncImageVariationClient) -> None:
        self._client = client

    async def create_variation(
        self,
        *,
        image: "SDKImage",
        model: str | None = None,
        n: int | None = None,
        response_format: ResponseFormat | None = None,
        size: Size | None = None,
        user: str | None = None,
    ) -> ImagesResponse:
        """Ask the server for variations of a picture; arguments and errors are those of `Images`.

        Raises:
            SourceError: If the picture cannot be read.
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        client = self._client
        fields = _given(model, n, response_format, size, user)
        flow = client._variations.sdk_flow(
            lambda: _square_png(image, client._urls), fields, client._session.build
        )
        return await client._session.run(flow)


def _given(
    model: str | None,
    n: int | None,
    response_format: ResponseFormat | None,
    size: Size | None,
    user: str | None,
) -> dict[str, object]:
    return {
        "model": model,
        "n": n,
        "response_format": response_format,
        "size": size,
        "user": user,
    }


def _gone() -> Callable[[], bool]:
    from langchain_image_variation.engines.context import cancellation

    return cancellation()


def _square_png(image: "SDKImage", urls: "URLPolicy | None") -> SquarePNG:
    from langchain_image_variation.source import Source, load_source

    if isinstance(image, SquarePNG):
        return image
    if isinstance(image, Source):
        return image.png
    if isinstance(image, tuple):
        if len(image) < 2:
            raise InvalidRequestError("image as a tuple needs a name and a content.", param="image")
        return load_source(image[1], urls=urls).png  # type: ignore[arg-type]  # it checks what it is given
    return load_source(image, urls=urls).png
