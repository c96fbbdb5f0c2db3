"""The pictures of an answer: looked at, downloaded where they are addresses, and made PNG."""

import base64
import binascii
from collections.abc import Callable

import httpx

from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.exceptions import (
    DownloadError,
    EngineResponseError,
    ExpiredURLError,
    ImageVariationError,
    OutputError,
)
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.http.flow import Flow, Send
from langchain_image_variation.http.url_policy import Picture, Redirected, URLPolicy, fetch
from langchain_image_variation.images.pixels import as_png

__all__ = ["download", "normalize", "use_data_urls"]


def download(
    image: Image,
    endpoint: Endpoint,
    *,
    policy: URLPolicy,
    build: Callable[..., httpx.Request],
    deadline: float,
) -> Flow[None]:
    """Make `image.read` return the picture's bytes, or raise what hindered that.

    A result is not lost over another one's failure, nor its address over a failed download; so
    nothing is raised here.

    Args:
        image: A result; changed in place.
        endpoint: The server that answered. What is on itself is fetched whatever its address.
        policy: How other hosts are fetched from.
        build: `build_request` of the client that asked.
        deadline: In seconds of `time.monotonic`.
    """
    url = image.url or ""
    try:
        if image.b64_json or url.startswith("data:"):
            _check(image)
        elif _on(endpoint, url):
            image._downloaded = yield from _own(url, endpoint, policy, build, deadline)
        elif url.startswith(("https://", "http://")):
            image._downloaded = yield from _other(url, policy, deadline)
        elif url:
            raise OutputError(
                "The server answered with the path of a file on itself; ask for response_format "
                "'b64_json'."
            )
    except ImageVariationError as error:
        # Its traceback would hold on to what had been read.
        image._failure = error.with_traceback(None)


def normalize(answer: ImagesResponse, side: int) -> None:
    """Turn every picture of an answer into PNG of `side` pixels, in place and in its own form.

    One that cannot be decoded says so when it is read, and does not cost the others.
    """
    for image in answer.data:
        try:
            data = image.read()
            png, _ = as_png(data, side)
        except ImageVariationError as error:
            image._failure = error.with_traceback(None)
            continue
        if png is data:
            continue
        if image._downloaded is not None:
            image._downloaded = png
        elif image.b64_json:
            image.b64_json = base64.b64encode(png).decode("ascii")
        else:
            image.url = _data_url(png)


def use_data_urls(answer: ImagesResponse) -> None:
    """Give every picture of an answer as a `data:` URL, for whom asked for `url`, in place."""
    for image in answer.data:
        if image._failure is None:
            image.url, image.b64_json = _data_url(image.read()), None


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _other(url: str, policy: URLPolicy, deadline: float) -> Flow[bytes]:
    """Fetch a result from another host."""
    try:
        return (yield from fetch(url, policy, deadline=deadline))
    except DownloadError as error:
        if not isinstance(error, ExpiredURLError):
            error.message += " Or ask for response_format 'b64_json'."
            error.args = (error.message,)
        raise


def _own(
    url: str,
    endpoint: Endpoint,
    policy: URLPolicy,
    build: Callable[..., httpx.Request],
    deadline: float,
) -> Flow[bytes]:
    """Fetch a result from the server that made it, without the key: the address is enough."""
    host = endpoint.base_url.host
    here = httpx.URL(url)
    for _ in range(policy.max_redirects + 1):
        body = Picture(host, policy.max_bytes)
        headers = {"accept": "image/*", "accept-encoding": "identity"}
        request = build("GET", here, headers=headers)
        try:
            yield Send(request, body, endpoint.timeout, deadline)
            return body.read()
        except Redirected as answer:
            here = here.join(answer.location)
            if not _on(endpoint, str(here)):
                return (yield from _other(str(here), policy, deadline))
        except httpx.HTTPError:
            raise DownloadError(
                f"The picture cannot be fetched from {host}; try its url yourself, soon."
            ) from None
    raise DownloadError(f"The picture's address at {host} redirects more than it may.")


def _on(endpoint: Endpoint, url: str) -> bool:
    """Say whether an address is on the server itself."""
    try:
        there = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    here = endpoint.base_url
    if (there.scheme, there.port) != (here.scheme, here.port):
        return False
    return there.host == here.host or {there.host, here.host} <= _THIS_MACHINE


_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}


def _check(image: Image) -> None:
    """Refuse a result whose base64 does not begin as a PNG, JPEG or WebP file does."""
    text = image.b64_json or image.url or ""
    if text.startswith("data:"):
        text = text[text.find(",", 0, 200) + 1 :][:64]
    try:
        head = base64.b64decode("".join(text[:64].split())[:24])
    except (binascii.Error, ValueError):
        head = b""
    if not head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) and (
        head[:4] != b"RIFF" or head[8:12] != b"WEBP"
    ):
        raise EngineResponseError("A result is not a PNG, JPEG or WebP picture in base64.")
