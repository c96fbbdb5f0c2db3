"""Which requests come from the same client."""

from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.requests import Request

__all__ = ["client_of"]

_SITE_BITS = 64
"""Addresses that share this many leading bits belong to one site (RFC 6177)."""


def client_of(request: Request) -> str:
    """Return a text that identifies the client of a request: its network address.

    All clients use the same API key, if any, so the key does not identify them. Headers such as
    `X-Forwarded-For` count only if the ASGI server is configured to trust the proxy that sends
    them.
    """
    host = request.client.host if request.client is not None else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Network((address, _SITE_BITS), strict=False))
    return str(address)
