"""A client of httpx and the drivers on it, sync and async."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import httpx
from anyio.lowlevel import RunVar

from langchain_image_variation import __version__
from langchain_image_variation.exceptions import InvalidRequestError, shown
from langchain_image_variation.http.deadline import DeadlineTransport
from langchain_image_variation.http.flow import AsyncDriver, Driver, Flow

__all__ = ["AsyncSession", "Session", "new_client"]

T = TypeVar("T")

_HEADERS = {
    "accept": "application/json",
    "user-agent": f"langchain-image-variation/{__version__}",
}


class Session:
    """Drives flows in the caller's thread.

    Args:
        base_url: The server that most requests go to.
        client: The caller's own client, which `close` leaves open; by default a new one.

    Raises:
        InvalidRequestError: If `client` is no `httpx.Client`.
    """

    def __init__(self, base_url: httpx.URL, client: httpx.Client | None) -> None:
        self._own = client is None
        self._client = _checked(client, httpx.Client) or new_client(base_url)

    def build(self, method: str, url: httpx.URL, **options: object) -> httpx.Request:
        """Return a request with the client's own headers in it."""
        return _built(self._client, method, url, **options)

    def run(self, flow: Flow[T], gone: Callable[[], bool]) -> T:
        """Drive a flow to its end; `gone` says whether nobody waits for it any more."""
        return Driver(self._client, gone).run(flow)

    def close(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._own:
            self._client.close()


class AsyncSession:
    """Drives flows on event loops; the async twin of `Session`.

    Connections belong to a loop, so each loop has a client of httpx of its own.
    """

    def __init__(self, base_url: httpx.URL, client: httpx.AsyncClient | None) -> None:
        self._given = _checked(client, httpx.AsyncClient)
        # What is wrong with the environment is told at once.
        self._unused = [] if self._given else [_new_async_client()]
        self._own: WeakKeyDictionary[_Loop, httpx.AsyncClient] = WeakKeyDictionary()
        # Loops run in threads of their own.
        self._lock = threading.Lock()

    def build(self, method: str, url: httpx.URL, **options: object) -> httpx.Request:
        """Return a request with the client's own headers in it."""
        return _built(self._client(), method, url, **options)

    async def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end."""
        return await AsyncDriver(self._client()).run(flow)

    async def close(self) -> None:
        """Close the connections of this loop, unless they are the caller's."""
        if self._given is None:
            await self._client().aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._given is not None:
            return self._given
        loop = _loop()
        with self._lock:
            client = self._own.get(loop)
            if client is None:
                client = self._unused.pop() if self._unused else _new_async_client()
                self._own[loop] = client
            return client


class _Loop:
    """Stands for an event loop, of asyncio or trio, as long as there is that loop."""


_LOOP: RunVar[_Loop] = RunVar("image-variation-loop")


def _loop() -> _Loop:
    try:
        return _LOOP.get()
    except LookupError:
        loop = _Loop()
        _LOOP.set(loop)
        return loop


def _new_async_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(headers=_HEADERS)


def _built(
    client: httpx.Client | httpx.AsyncClient, method: str, url: httpx.URL, **options: Any
) -> httpx.Request:
    request = client.build_request(method, url, **options)
    if "files" in options:
        # Else httpx writes each line of each part to the socket by itself. A `MultipartStream` is
        # sync and async.
        request.read()
    return request


C = TypeVar("C", httpx.Client, httpx.AsyncClient)


def _checked(client: C | None, kind: type[C]) -> C | None:
    if client is not None and not isinstance(client, kind):
        raise InvalidRequestError(
            f"http_client must be an httpx.{kind.__name__}, got {shown(client)}.",
            param="http_client",
        )
    return client


def new_client(base_url: httpx.URL) -> httpx.Client:
    """Return a client that keeps deadlines, through the proxy of the environment, if any."""
    proxies = getproxies()
    url = proxies.get(base_url.scheme) or proxies.get("all")
    if url is None or proxy_bypass(base_url.host):
        proxy = None
    else:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
        if proxy.url.scheme not in ("http", "https"):
            # SOCKS needs an extra of httpx, which knows how to ask for it.
            return httpx.Client(headers=_HEADERS)
    context = httpx.create_ssl_context() if base_url.scheme == "https" else None
    transport = DeadlineTransport(ssl_context=context, proxy=proxy)
    return httpx.Client(headers=_HEADERS, transport=transport)
