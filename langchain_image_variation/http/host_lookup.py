"""Looks up the addresses of a host, as the system resolves its name."""

import socket
from ipaddress import ip_address

import httpcore

__all__ = ["is_ip_address", "look_up", "lookup_error"]


def is_ip_address(host: str) -> bool:
    """Return whether a host is an IP address, which needs no lookup."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def look_up(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, each once, in the order of the resolver.

    Raises:
        OSError: If the name cannot be resolved.
        UnicodeError: If the name cannot be encoded.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in infos))


def lookup_error(error: OSError | UnicodeError) -> Exception:
    """Return an error of `look_up`, or of waiting for it, as httpcore's error for connections."""
    if isinstance(error, TimeoutError):
        return httpcore.ConnectTimeout("the resolver is too slow")
    return httpcore.ConnectError("no such host")
