"""httpx's URLs and proxies in the form that httpcore takes."""

from typing import Any

import httpcore
import httpx

__all__ = ["core_url", "is_socks_proxy", "proxy_options"]


def core_url(url: httpx.URL) -> httpcore.URL:
    """Return a URL for httpcore."""
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


def is_socks_proxy(proxy: httpx.Proxy) -> bool:
    """Return whether connections go through httpcore's `SOCKSProxy`, not its `HTTPProxy`."""
    return proxy.url.scheme.startswith("socks5")


def proxy_options(proxy: httpx.Proxy) -> dict[str, Any]:
    """Return the arguments of httpcore's class for a proxy, sync or async."""
    options: dict[str, Any] = {"proxy_url": core_url(proxy.url), "proxy_auth": proxy.raw_auth}
    if not is_socks_proxy(proxy):
        options |= {"proxy_headers": proxy.headers.raw, "proxy_ssl_context": proxy.ssl_context}
    return options
