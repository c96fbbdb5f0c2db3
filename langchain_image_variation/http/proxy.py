"""The proxy that the environment names."""

import os
from importlib.util import find_spec
from urllib.request import getproxies, proxy_bypass

import httpx

from langchain_image_variation.exceptions import InvalidRequestError, MissingExtraError

__all__ = ["PROXY_EXTENSION", "find_proxy", "find_proxy_variable"]

PROXY_EXTENSION = "image_variation_proxy"
"""The extension of an httpx request with the name of the variable of its proxy, or None."""

_SOCKS = ("socks5", "socks5h")


def find_proxy_variable(url: httpx.URL) -> str | None:
    """Return the name of the variable that sets the proxy for a server, or None if there is none.

    This reads the same environment variables as `urllib.request`: HTTP_PROXY, HTTPS_PROXY,
    ALL_PROXY and NO_PROXY, in upper or lower case. On Windows and macOS, the system's settings
    count too.
    """
    kind = next((kind for kind in (url.scheme, "all") if _address(kind)), None)
    if kind is None or proxy_bypass(url.host):
        return None
    name = f"{kind.upper()}_PROXY"
    return name if name in os.environ else name.lower()


def _address(kind: str) -> str:
    return getproxies().get(kind, "").strip()


def find_proxy(url: httpx.URL) -> httpx.Proxy | None:
    """Return the proxy for requests to a server, or None to connect to it directly.

    Raises:
        InvalidRequestError: If the proxy's address is not valid; `param` names the variable. The
            message does not show the address, which may contain a password.
        MissingExtraError: If it is a SOCKS proxy, and the package for it is not installed.
    """
    name = find_proxy_variable(url)
    if name is None:
        return None
    address = _address(name.lower().removesuffix("_proxy"))
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
        # Reading the host decodes it, which may fail.
        is_valid = bool(proxy.url.host) and 0 < (proxy.url.port or 1) < 65536
    # Such as `httpx.InvalidURL`, ValueError for an unknown scheme, and errors of IDNA.
    except (httpx.InvalidURL, ValueError):
        is_valid = False
    if not is_valid:
        raise InvalidRequestError(
            f"{name} must be the address of an http, https or socks5 proxy, such as "
            "'http://proxy.example:8080'. Correct it or unset it.",
            param=name,
        )
    if proxy.url.scheme in _SOCKS and find_spec("socksio") is None:
        raise MissingExtraError.for_package(f"The SOCKS proxy in {name}", "socksio", "httpx[socks]")
    return proxy
