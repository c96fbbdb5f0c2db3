"""Downloads of results, made as soon as an answer arrives because their URLs soon expire."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace

import httpx

from langchain_image_variation.contract import Image
from langchain_image_variation.exceptions import (
    DownloadError,
    EngineResponseError,
    ExpiredURLError,
    ImageVariationError,
    OutputError,
)
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.retry import retry_after
from langchain_image_variation.http.fetch import ImageBody, OutageError, RedirectError, fetch
from langchain_image_variation.http.flow import Flow, Send, Wait
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.formats import recognize_supported

__all__ = ["download"]


def download(
    image: Image,
    endpoint: Endpoint,
    *,
    policy: URLPolicy,
    build_request: Callable[..., httpx.Request],
    budget: Budget,
    outlast_outages: bool = False,
) -> Flow[None]:
    """Download a result, so that `image.read` returns its bytes or raises the error.

    The image may be paid for, so the download is repeated while its host cannot be reached, is busy
    or fails.

    This raises nothing itself, because one failed download must not cost the other results, and the
    caller still has the URL. A failed download does not count against the budget, because none of
    its bytes are kept.

    Args:
        image: The result to download, changed in place. If it is in base64, it is only checked.
        endpoint: The server that answered. Its own URLs are fetched even if their address is not
            public.
        policy: The policy for URLs of other hosts.
        build_request: `build_request` of the session.
        budget: The time and the bytes that are left to the call.
        outlast_outages: Whether to repeat the download until the deadline, instead of as often as
            the endpoint repeats its calls.
    """
    url = image.url or ""
    try:
        if image.b64_json or url.startswith("data:"):
            _check_format(image)
        elif url[:8].lower().startswith(("https://", "http://")):
            policy = _limit_policy(policy, budget)
            attempt = 0
            while True:
                try:
                    data = yield from _fetch(url, endpoint, policy, build_request, budget.deadline)
                    break
                except OutageError as outage:
                    error = DownloadError(outage.message)
                    error.retry_after = retry_after(outage.headers, "")
                    delay = endpoint.retries.delay(error, attempt, until_deadline=outlast_outages)
                    if delay is None or delay >= budget.seconds_left:
                        raise error from None
                yield Wait(delay)
                attempt += 1
            budget.kept_bytes += len(data)
            image.set_downloaded(data)
        elif url:
            raise OutputError(
                "The server returned a path on its own disk; ask for response_format 'b64_json'."
            )
    except ImageVariationError as error:
        image.set_failure(error)


def _limit_policy(policy: URLPolicy, budget: Budget) -> URLPolicy:
    """Return a policy that allows no more bytes than are left.

    Raises:
        DownloadError: If no time or no bytes are left.
    """
    if budget.seconds_left <= 0:
        raise DownloadError(
            "The deadline passed before the image was downloaded; raise deadline, or fetch its url "
            "yourself before it expires."
        )
    if budget.bytes_left <= 0:
        raise DownloadError(
            f"The images exceed the limit of {budget.max_bytes:,} bytes per call; raise "
            "max_answer_bytes, or fetch the url yourself before it expires."
        )
    return replace(policy, max_bytes=min(policy.max_bytes, budget.bytes_left))


def _fetch(
    url: str,
    endpoint: Endpoint,
    policy: URLPolicy,
    build_request: Callable[..., httpx.Request],
    deadline: float,
) -> Flow[bytes]:
    if _is_on_server(url, endpoint):
        return (yield from _fetch_from_server(url, endpoint, policy, build_request, deadline))
    return (yield from _fetch_from_other_host(url, policy, deadline))


def _fetch_from_other_host(url: str, policy: URLPolicy, deadline: float) -> Flow[bytes]:
    try:
        return (yield from fetch(url, policy, deadline=deadline))
    except DownloadError as error:
        if not isinstance(error, ExpiredURLError):
            error.message += " Or ask for response_format 'b64_json'."
            error.args = (error.message,)
        raise


def _fetch_from_server(
    url: str,
    endpoint: Endpoint,
    policy: URLPolicy,
    build_request: Callable[..., httpx.Request],
    deadline: float,
) -> Flow[bytes]:
    """Fetch a result from the server that made it, without the key, which the URL replaces."""
    host = endpoint.base_url.host
    target = httpx.URL(url)
    for _ in range(policy.max_redirects + 1):
        body = ImageBody(host, policy.max_bytes)
        headers = {"accept": "image/*", "accept-encoding": "identity"}
        request = build_request("GET", target, headers=headers)
        try:
            yield Send(request, body, endpoint.timeout, deadline)
            return body.read()
        except RedirectError as redirect:
            try:
                target = target.join(redirect.location)
            except httpx.InvalidURL:
                raise DownloadError(f"{host} redirects to an invalid URL.") from None
            if not _is_on_server(str(target), endpoint):
                return (yield from _fetch_from_other_host(str(target), policy, deadline))
        except (httpx.HTTPError, RuntimeError, UnicodeError) as error:
            message = (
                f"The image could not be downloaded from {host}; fetch its url yourself before it "
                "expires."
            )
            # Other errors, such as that of a client that is closed, would occur again.
            is_outage = isinstance(error, httpx.RequestError)
            raise (OutageError if is_outage else DownloadError)(message) from None
    raise DownloadError(
        f"The image's URL at {host} redirects more than {policy.max_redirects} times."
    )


def _is_on_server(url: str, endpoint: Endpoint) -> bool:
    try:
        result = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    server = endpoint.base_url
    if (result.scheme, result.port) != (server.scheme, server.port):
        return False
    # `host` decodes IDNA, and raises an error for an invalid name.
    hosts = {result.raw_host, server.raw_host}
    return len(hosts) == 1 or hosts <= _LOOPBACK_HOSTS


_LOOPBACK_HOSTS = {b"localhost", b"127.0.0.1", b"::1"}


def _check_format(image: Image) -> None:
    """Check that the base64 of a result starts like a PNG, JPEG or WebP file."""
    text = image.b64_json or image.url or ""
    if text.startswith("data:"):
        text = text[text.find(",", 0, 200) + 1 :][:64]
    try:
        head = base64.b64decode("".join(text[:64].split())[:24])
    except (binascii.Error, ValueError):
        head = b""
    if recognize_supported(head) not in ("PNG", "JPEG", "WEBP"):
        raise EngineResponseError("A result is not a PNG, JPEG or WebP image in base64.")
