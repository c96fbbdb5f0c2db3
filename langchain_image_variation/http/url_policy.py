"""Pictures by URL: fetched only from where a policy allows, over a connection that was checked.

The host's name is resolved once, every address it has is checked, and the connection goes to such
an address, not to the name: a DNS server that answers otherwise the next time is not asked again.
TLS still verifies the name. Each redirect starts over.
"""

import re
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import httpx

from langchain_image_variation import __version__
from langchain_image_variation.exceptions import (
    DownloadError,
    ExpiredURLError,
    InvalidRequestError,
    shown,
)
from langchain_image_variation.http.address import CheckedURL, host_name, is_public, parse_url
from langchain_image_variation.http.deadline import in_time
from langchain_image_variation.http.flow import Flow, Send, Transport, Work
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["Picture", "Redirected", "URLPolicy", "fetch"]


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class URLPolicy:
    """From where pictures may be fetched, and how much of them.

    Raises:
        InvalidRequestError: If a value is out of its range, or one of the hosts is no host name.
    """

    hosts: Collection[str] | None
    """The hosts that may be fetched from, each by its full name; subdomains are hosts of their own.
    None allows every host with public addresses, which suits URLs from a server one trusts."""
    max_bytes: int = 64 * 1024 * 1024
    """A picture may have at most this many bytes."""
    timeout: float = 30.0
    """Seconds that all of it may take, redirects included; at most 3600."""
    max_redirects: int = 3
    resolve: Callable[[str, int], list[str]] = _resolve
    """Returns the IP addresses of a host, given its name and port, or raises an `OSError`."""
    transport: Transport | None = None
    """What sends the requests: for sources a sync one. By default a new one for each request."""

    def __post_init__(self) -> None:
        if self.hosts is not None:
            object.__setattr__(self, "hosts", frozenset(_host_names(self.hosts)))
        check_whole_number("max_bytes", self.max_bytes, 1, 2**40, param="urls")
        check_number("timeout", self.timeout, 0, 3600, param="urls")
        check_whole_number("max_redirects", self.max_redirects, 0, 20, param="urls")


def fetch(url: str, policy: URLPolicy, *, deadline: float | None = None) -> Flow[bytes]:
    """Return the flow that fetches what a URL holds. Whether it is a picture is left to decoding.

    Requests carry no key, cookie or referrer, and go through no proxy.

    Args:
        url: An https URL.
        policy: What is allowed.
        deadline: In seconds of `time.monotonic`, where that is earlier than the policy's timeout.

    Raises:
        ExpiredURLError: If the server says that the URL was signed for a time that is over.
        DownloadError: If the URL, a host or one of its addresses is refused, the server cannot be
            reached or verified, answers with another status than 200, or with something that is
            too long, encoded, or declared to be no picture, or if the time is up.
    """
    start = monotonic()
    if deadline is not None and deadline < start + policy.timeout:
        policy = replace(policy, timeout=max(deadline - start, 0))
    target = parse_url(url)
    for _ in range(policy.max_redirects + 1):
        try:
            return (yield from _get(target, policy, start + policy.timeout))
        except Redirected as answer:
            target = target.redirected(answer.location)
    raise DownloadError(
        f"The URL redirects more than {policy.max_redirects} times; pass the address it ends at."
    )


def _get(target: CheckedURL, policy: URLPolicy, end: float) -> Flow[bytes]:
    """Send one request, to the first of a host's addresses that takes a connection."""
    host = shown(target.host)
    if policy.hosts is not None and target.host not in policy.hosts:
        raise DownloadError(
            f"The host {host} is not among those allowed; allow it if you trust it."
        )
    addresses = yield Work(lambda: _resolved(target.host, policy, end))
    for address in addresses:
        body = Picture(host, policy.max_bytes)
        request = _request(target, address)
        timeout = httpx.Timeout(policy.timeout)
        try:
            yield Send(request, body, timeout, end, direct=True, transport=policy.transport)
            return body.read()
        except httpx.TimeoutException:
            message = f"{host} took too long; the limit is {policy.timeout:.3g} seconds."
            raise DownloadError(message) from None
        except httpx.ConnectError:
            continue
        except httpx.RequestError:
            raise DownloadError(f"The connection to {host} broke off; try again.") from None
    raise DownloadError(f"{host} cannot be reached, or has no valid certificate.")


def _resolved(host: str, policy: URLPolicy, end: float) -> list[str]:
    """Resolve a name and return its addresses, all of them public.

    A resolver has timeouts of its own, much longer than ours: so it runs in a thread that is left
    behind when the time is up.
    """
    missing = DownloadError(f"There is no host {shown(host)}; check the URL.")
    try:
        addresses = in_time(lambda: policy.resolve(host, 443), max(end - monotonic(), 0))
    except TimeoutError:
        raise DownloadError(f"The name {shown(host)} could not be resolved in time.") from None
    except (OSError, UnicodeError):
        raise missing from None
    if not addresses:
        raise missing
    if not all(is_public(address) for address in addresses):
        raise DownloadError(f"{shown(host)} has an address that is not public; it is not fetched.")
    return addresses


def _request(target: CheckedURL, address: str) -> httpx.Request:
    pinned = httpx.URL(
        scheme="https", host=address, port=443, raw_path=target.target.encode("ascii")
    )
    headers = {
        "Host": target.host,
        "User-Agent": f"langchain-image-variation/{__version__}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        # A transport that is shared keeps connections by address. Another host of the same address
        # must not be asked over one whose certificate was verified for this host.
        "Connection": "close",
    }
    extensions = {"sni_hostname": target.host}
    return httpx.Request("GET", pinned, headers=headers, extensions=extensions)


class Redirected(DownloadError):
    """An answer that only says where the picture is; raised by `Picture.start`."""

    def __init__(self, location: str) -> None:
        super().__init__("The address of the picture redirects to another one.")
        self.location = location


class Picture:
    """A `Body` that takes a picture in, and refuses anything else by raising."""

    def __init__(self, host: str, max_bytes: int) -> None:
        self._host = host
        self._limit = max_bytes
        self._length = 0
        self._pieces: list[bytes] = []
        self._forbidden = False

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers."""
        headers = response.headers
        if response.status_code in (301, 302, 303, 307, 308) and "location" in headers:
            raise Redirected(headers["location"])
        # Of decoded bytes, one piece can be a thousand times as long as what came in.
        plain = headers.get("content-encoding", "identity").lower() == "identity"
        if response.status_code == 403 and plain:
            self._forbidden = True
            return
        if response.status_code != 200:
            raise DownloadError(f"{self._host} answered with status {response.status_code}.")
        if not plain:
            raise DownloadError(f"{self._host} sent the picture compressed, which is not read.")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not _PICTURE_TYPE.fullmatch(kind):
            raise DownloadError(f"{self._host} answered with {shown(kind)}, not with a picture.")
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) < _DIGITS and int(length) > self._limit:
            raise self._too_long()

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body."""
        self._length += len(piece)
        if self._forbidden:
            self._pieces.append(piece)
            return self._length < _EXPLANATION
        if self._length > self._limit:
            raise self._too_long()
        self._pieces.append(piece)
        return True

    def read(self) -> bytes:
        """Return the picture, or raise the error that was sent instead."""
        data = b"".join(self._pieces)
        if not self._forbidden:
            return data
        if _EXPIRED.search(data[:_EXPLANATION]):
            raise ExpiredURLError(f"The picture's URL at {self._host} has expired; get a new one.")
        raise DownloadError(f"{self._host} answered with status 403.")

    def _too_long(self) -> DownloadError:
        return DownloadError(f"{self._host} sent more than {self._limit:,} bytes, the limit.")


# Some object stores say of every file without a type that it is just bytes. No type at all is
# allowed by RFC 9110, section 8.3.
_PICTURE_TYPE = re.compile(r"image/[a-z0-9.+-]+|(application|binary)/octet-stream|")

_DIGITS = 20
"""A longer number is not converted: the bytes are counted anyway."""

_EXPLANATION = 4096
"""Bytes that are read of what comes with a 403."""

# As Azure Blob Storage (a shared access signature) and S3 (a presigned URL) put it.
_EXPIRED = re.compile(
    rb"<Code>(AuthenticationFailed|AccessDenied|ExpiredToken)</Code>.*"
    rb"(Signature not valid in the specified time frame|\bexpired\b)",
    re.DOTALL | re.IGNORECASE,
)


def _host_names(hosts: Any) -> list[str]:
    if isinstance(hosts, str) or not isinstance(hosts, Collection):
        raise InvalidRequestError("hosts must be a list of host names.", param="urls")
    try:
        return [host_name(str(host)) for host in hosts]
    except DownloadError as error:
        raise InvalidRequestError(f"hosts: {error}", param="urls") from None
