"""`client.images`: the call in the shape of the vendor's SDK.

As in the SDK: ``client.images.create_variation(image=open("image.png", "rb"), n=2)``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from langchain_image_variation.contract import ImagesResponse, ResponseFormat, Size
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted.not_given import NOT_GIVEN, NotGiven
from langchain_image_variation.images.png import SquarePNG

if TYPE_CHECKING:
    import httpx

    from langchain_image_variation.hosted.call_options import CallOptions
    from langchain_image_variation.hosted.client_flow import ClientFlow
    from langchain_image_variation.hosted.session import AsyncSession, Session
    from langchain_image_variation.http.url_policy import URLPolicy
    from langchain_image_variation.source import Source
    from langchain_image_variation.source.read import ImageSource

    # What `load_source` takes or returns, or the SDK's tuple (file name, bytes or file[, type]).
    SDKImage = SquarePNG | Source | ImageSource | tuple[object, ...]

__all__ = ["AsyncImages", "Images"]


class Images:
    """The call in the shape of the vendor's SDK, as `client.images`."""

    def __init__(self, flow: "ClientFlow", session: "Session", urls: "URLPolicy | None") -> None:
        self._flow = flow
        self._session = session
        self._urls = urls

    def create_variation(
        self,
        *,
        image: "SDKImage",
        model: str | None = None,
        n: int | None = None,
        response_format: ResponseFormat | None = None,
        size: Size | None = None,
        user: str | None = None,
        extra_headers: Mapping[str, str | SecretStr] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: "float | httpx.Timeout | NotGiven | None" = NOT_GIVEN,
    ) -> ImagesResponse:
        """Ask the server for variations of an image, which is cropped to a square if necessary.

        Args:
            image: A path, bytes, an open binary file, a `data:` URL, an https URL of a host that
                `urls` allows, a PIL image, a return value of `load_source`, or a tuple as the SDK
                takes it. For a source with `fit="keep"`, call `cut_back` on the response.
            model: The model. By default the client's.
            n: How many variations, 1 to 10. By default 1.
            response_format: "url" (the default) or "b64_json".
            size: Width x height in pixels. By default "1024x1024".
            user: An ID for the end user.
            extra_headers: Headers of this request. They take precedence over all others.
            extra_query: Query parameters of this request. They replace parameters of the same name.
            extra_body: Form fields of this request. They take precedence over the arguments and the
                client's `extra_fields`. A field of the contract must have a legal value.
            timeout: As the client's `timeout`, for this call. None sets no limit.

        Raises:
            SourceError: If the image cannot be read.
            InvalidRequestError: If an argument is out of range; `param` names it.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        options = _call_options(extra_headers, extra_query, extra_body, timeout)
        # They may contain keys, which the variables of a traceback must not show.
        del extra_headers, extra_query, extra_body
        flow = self._flow.sdk_call(
            lambda: _load_image(image, self._urls),
            _contract_fields(model, n, response_format, size, user),
            options,
            self._session.build_request,
        )
        return self._session.run(flow)


class AsyncImages:
    """The call in the shape of the vendor's async SDK, as `client.images`."""

    def __init__(
        self, flow: "ClientFlow", session: "AsyncSession", urls: "URLPolicy | None"
    ) -> None:
        self._flow = flow
        self._session = session
        self._urls = urls

    async def create_variation(
        self,
        *,
        image: "SDKImage",
        model: str | None = None,
        n: int | None = None,
        response_format: ResponseFormat | None = None,
        size: Size | None = None,
        user: str | None = None,
        extra_headers: Mapping[str, str | SecretStr] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: "float | httpx.Timeout | NotGiven | None" = NOT_GIVEN,
    ) -> ImagesResponse:
        """Ask the server for variations of an image, with the arguments and errors of `Images`.

        Raises:
            SourceError: If the image cannot be read.
            InvalidRequestError: If an argument is out of range; `param` names it.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        options = _call_options(extra_headers, extra_query, extra_body, timeout)
        # They may contain keys, which the variables of a traceback must not show.
        del extra_headers, extra_query, extra_body
        flow = self._flow.sdk_call(
            lambda: _load_image(image, self._urls),
            _contract_fields(model, n, response_format, size, user),
            options,
            self._session.build_request,
        )
        return await self._session.run(flow)


def _call_options(
    extra_headers: Mapping[str, str | SecretStr] | None,
    extra_query: Mapping[str, object] | None,
    extra_body: Mapping[str, object] | None,
    timeout: object,
) -> "CallOptions":
    from langchain_image_variation.hosted.call_options import CallOptions

    return CallOptions.from_arguments(
        extra_headers=extra_headers,
        extra_query=extra_query,
        extra_body=extra_body,
        timeout=timeout,
    )


def _contract_fields(
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


def _load_image(image: "SDKImage", urls: "URLPolicy | None") -> SquarePNG:
    from langchain_image_variation.source import Source, load_source

    if isinstance(image, SquarePNG):
        return image
    if isinstance(image, Source):
        return image.png
    content: Any = image
    if isinstance(image, tuple):
        if len(image) < 2:
            raise InvalidRequestError(
                "image must be (file name, content) if it is a tuple.", param="image"
            )
        content = image[1]
    return load_source(content, urls=urls).png
