"""Fetching images from URLs, over a connection that was checked.

The host name is resolved once and all its addresses are checked. The connection then goes to one of
these addresses rather than to the name, so a DNS server cannot answer differently the second time.
TLS still verifies the name. Each redirect starts over.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic

import httpx

from langchain_image_variation import __version__
from langchain_image_variation.exceptions import DownloadError, ExpiredURLError, excerpt
from langchain_image_variation.http.address import CheckedURL, is_public, parse_url
from langchain_image_variation.http.deadline import call_with_timeout
from langchain_image_variation.http.flow import Flow, Send, Work
from langchain_image_variation.http.status import is_temporary
from langchain_image_variation.http.tls import describe_tls_failure
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["ImageBody", "OutageError", "RedirectError", "fetch"]


def fetch(url: str, policy: URLPolicy, *, deadline: float | None = None) -> Flow[bytes]:
    """Return a flow that fetches the content of a URL. Decoding decides whether it is an image.

    Requests carry no key, cookie or referrer, and use no proxy.

    Args:
        url: An https URL.
        policy: What is allowed.
        deadline: In seconds of `time.monotonic`. It counts if it ends before the policy's timeout.

    Raises:
        ExpiredURLError: If the server says that the signature of the URL has expired.
        OutageError: If the server cannot be reached now, is busy or fails.
        DownloadError: If the URL, a host or one of its addresses is not allowed, the server cannot
            be reached or verified, its status is not 200, its body is too long, compressed or
            declared as something other than an image, or the time is up.
    """
    start = monotonic()
    if deadline is not None and deadline < start + policy.timeout:
        policy = replace(policy, timeout=max(deadline - start, 0))
    target = parse_url(url)
    for _ in range(policy.max_redirects + 1):
        try:
            return (yield from _get(target, policy, start + policy.timeout))
        except RedirectError as redirect:
            target = target.follow(redirect.location)
    raise DownloadError(
        f"The URL redirects more than {policy.max_redirects} times; pass the final URL."
    )


def _get(target: CheckedURL, policy: URLPolicy, deadline: float) -> Flow[bytes]:
    """Send one request to the first address of the host that accepts a connection."""
    host = excerpt(target.host)
    if policy.hosts is not None and target.host not in policy.hosts:
        raise DownloadError(
            f"The host {host} is not allowed.",
            hint="If you trust it, add it to URLPolicy(hosts=[...]).",
        )
    addresses = yield Work(lambda: _resolve(target.host, policy, deadline))
    tls_failure = None
    for address in addresses:
        body = ImageBody(host, policy.max_bytes)
        request = _build_request(target, address)
        timeout = httpx.Timeout(policy.timeout)
        try:
            yield Send(request, body, timeout, deadline, direct=True, transport=policy.transport)
            return body.read()
        except httpx.TimeoutException:
            message = f"{host} took too long; the limit is {policy.timeout:.3g} seconds."
            raise OutageError(message) from None
        except httpx.ConnectError as error:
            tls_failure = tls_failure or describe_tls_failure(error)
        except httpx.RequestError:
            raise OutageError(f"The connection to {host} broke; try again.") from None
    if tls_failure is not None:
        raise DownloadError(f"{host} {tls_failure}")
    raise OutageError(f"{host} cannot be reached; try again later.")


def _resolve(host: str, policy: URLPolicy, deadline: float) -> list[str]:
    """Return the addresses of a host, all of them public."""
    not_found_error = DownloadError(f"The host {excerpt(host)} does not exist; check the URL.")
    try:
        # The resolver's own timeouts are much longer than ours.
        addresses = call_with_timeout(
            lambda: policy.resolve(host, 443), max(deadline - monotonic(), 0)
        )
    except TimeoutError:
        raise OutageError(
            f"The host name {excerpt(host)} was not resolved in time; try again."
        ) from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise OutageError(
                f"The host name {excerpt(host)} cannot be resolved now; check the network."
            ) from None
        raise not_found_error from None
    except (OSError, UnicodeError):
        raise not_found_error from None
    if not addresses:
        raise not_found_error
    if not all(is_public(address) for address in addresses):
        raise DownloadError(
            f"The host {excerpt(host)} has an address that is not public.",
            hint="Download the image yourself.",
        )
    return addresses


def _build_request(target: CheckedURL, address: str) -> httpx.Request:
    url = httpx.URL(scheme="https", host=address, port=443, raw_path=target.target.encode("ascii"))
    headers = {
        "Host": target.host,
        "User-Agent": f"langchain-image-variation/{__version__}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        # A shared transport keeps connections by address. Without this, another host at the same
        # address would be asked over a connection whose certificate was verified for this host.
        "Connection": "close",
    }
    extensions = {"sni_hostname": target.host}
    return httpx.Request("GET", url, headers=headers, extensions=extensions)


class RedirectError(DownloadError):
    """A redirect to the image. Raised by `ImageBody.start`."""

    def __init__(self, location: str) -> None:
        super().__init__("The image's URL redirects to another one.")
        self.location = location


class OutageError(DownloadError):
    """A failure that may pass: the server cannot be reached now, is busy, or fails.

    Args:
        message: What failed.
        headers: The headers of the answer, which may say when to try again.
    """

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}


class ImageBody:
    """A `Body` that receives an image and refuses everything else.

    Args:
        host: The name of the host in messages.
        max_bytes: The maximum size of the image, in bytes.
    """

    def __init__(self, host: str, max_bytes: int) -> None:
        self._host = host
        self._max_bytes = max_bytes
        self._length = 0
        self._pieces: list[bytes] = []
        self._is_forbidden = False

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers.

        Raises:
            RedirectError: If the response is a redirect.
            OutageError: If the server is busy or fails.
            DownloadError: If it is anything other than an image of allowed length.
        """
        headers = response.headers
        if response.status_code in (301, 302, 303, 307, 308) and "location" in headers:
            raise RedirectError(headers["location"])
        # A compressed piece may be a thousand times as long once it is decoded.
        is_plain = headers.get("content-encoding", "identity").lower() == "identity"
        if response.status_code == 403 and is_plain:
            self._is_forbidden = True
            return
        if response.status_code != 200:
            message = f"{self._host} answered with status {response.status_code}."
            if is_temporary(response.status_code):
                raise OutageError(message, headers)
            raise DownloadError(message)
        if not is_plain:
            raise DownloadError(f"{self._host} sent the image compressed, which is not supported.")
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not _IMAGE_TYPE.fullmatch(content_type):
            raise DownloadError(
                f"{self._host} sent {excerpt(content_type)} instead of an image; check the URL."
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) < _MAX_DIGITS and int(length) > self._max_bytes:
            raise self._too_long_error()

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body. Return False once enough of a 403 has been read.

        Raises:
            DownloadError: If the image is too long.
        """
        self._length += len(piece)
        if self._is_forbidden:
            self._pieces.append(piece)
            return self._length < _MAX_EXPLANATION_BYTES
        if self._length > self._max_bytes:
            raise self._too_long_error()
        self._pieces.append(piece)
        return True

    def read(self) -> bytes:
        """Return the image.

        Raises:
            ExpiredURLError: If the signature of the URL has expired.
            DownloadError: If the server refused for another reason (403).
        """
        data = b"".join(self._pieces)
        if not self._is_forbidden:
            return data
        if _EXPIRED.search(data[:_MAX_EXPLANATION_BYTES]):
            raise ExpiredURLError(f"The image's URL at {self._host} has expired; get a new one.")
        raise DownloadError(f"{self._host} answered with status 403.")

    def _too_long_error(self) -> DownloadError:
        return DownloadError(f"{self._host} sent more than the limit of {self._max_bytes:,} bytes.")


# Some object stores declare every file without a type as plain bytes. RFC 9110, section 8.3, also
# allows no type at all.
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+|(application|binary)/octet-stream|")

_MAX_DIGITS = 20
"""Longer numbers are not converted. The bytes are counted anyway."""

_MAX_EXPLANATION_BYTES = 4096
"""The maximum number of bytes to read from the body of a 403."""

# The wording of Azure Blob Storage (a shared access signature) and of S3 (a presigned URL).
_EXPIRED = re.compile(
    rb"<Code>(AuthenticationFailed|AccessDenied|ExpiredToken)</Code>.*"
    rb"(Signature not valid in the specified time frame|\bexpired\b)",
    re.DOTALL | re.IGNORECASE,
)
