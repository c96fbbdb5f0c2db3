"""The policy for image URLs: which hosts may be fetched from, and how much."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from langchain_image_variation.exceptions import DownloadError, InvalidRequestError
from langchain_image_variation.http.address import host_name
from langchain_image_variation.http.flow import Transport
from langchain_image_variation.http.host_lookup import look_up
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["URLPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class URLPolicy:
    """Which hosts images may be fetched from, and how much of them.

    Raises:
        InvalidRequestError: If a value is out of range, or one of the hosts is not a host name.
    """

    hosts: Collection[str] | None
    """The hosts that may be fetched from, by their full names; a subdomain is another host. None
    allows every host whose addresses are public, which suits URLs from a server that you trust."""
    max_bytes: int = 64 * 1024 * 1024
    """The maximum size of an image, in bytes."""
    timeout: float = 30.0
    """Seconds for the whole fetch, including redirects; at most 3600."""
    max_redirects: int = 3
    resolve: Callable[[str, int], list[str]] = look_up
    """Returns the IP addresses of a host name and a port, or raises an `OSError`."""
    transport: Transport | None = None
    """Sends the requests. By default a new transport for each. Sources need a sync one."""

    def __post_init__(self) -> None:
        if self.hosts is not None:
            object.__setattr__(self, "hosts", frozenset(_check_hosts(self.hosts)))
        check_whole_number("max_bytes", self.max_bytes, 1, 2**40, param="urls")
        check_number("timeout", self.timeout, 0, 3600, param="urls")
        check_whole_number("max_redirects", self.max_redirects, 0, 20, param="urls")


def _check_hosts(hosts: Any) -> list[str]:
    if isinstance(hosts, str) or not isinstance(hosts, Collection):
        raise InvalidRequestError(
            "hosts must be a list of host names, such as ['www.example.com'].", param="urls"
        )
    try:
        return [host_name(str(host)) for host in hosts]
    except DownloadError as error:
        raise InvalidRequestError(f"hosts: {error}", param="urls") from None
