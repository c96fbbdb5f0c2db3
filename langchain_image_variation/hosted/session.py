"""An httpx client and the driver that runs flows on it, sync and async."""

import os
import threading
from http.cookiejar import Cookie, CookieJar
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import httpx
from anyio.lowlevel import RunVar

from langchain_image_variation import __version__
from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.http.deadline import DeadlineTransport
from langchain_image_variation.http.flow import AsyncDriver, Driver, Flow
from langchain_image_variation.http.proxy import PROXY_EXTENSION, find_proxy, find_proxy_variable
from langchain_image_variation.http.tls import ssl_context

__all__ = [
    "MAX_COOKIES",
    "MAX_COOKIE_LENGTH",
    "AsyncSession",
    "Session",
    "new_async_client",
    "new_client",
]

T = TypeVar("T")

_HEADERS = {
    "accept": "application/json",
    "user-agent": f"langchain-image-variation/{__version__}",
}


MAX_COOKIES = 50
"""The maximum number of cookies that a client keeps, as RFC 6265, section 6.1, recommends. Later
requests carry them, so without a limit a server could make each call longer than the one before."""

MAX_COOKIE_LENGTH = 4096
"""The maximum length of a cookie, in characters (RFC 6265, section 6.1)."""


class _Cookies(CookieJar):
    """The cookies of a server, within limits."""

    def set_cookie(self, cookie: Cookie) -> None:
        """Keep a cookie, or ignore it if it is too long or there are too many."""
        if len(self) < MAX_COOKIES and len(f"{cookie.name}={cookie.value}") <= MAX_COOKIE_LENGTH:
            super().set_cookie(cookie)


class Session:
    """Runs flows in the caller's thread.

    Args:
        base_url: The server that most requests go to.
        client: The caller's client, which `close` leaves open. By default a new one.

    Raises:
        InvalidRequestError: If `client` is not an `httpx.Client`.
    """

    def __init__(self, base_url: httpx.URL, client: httpx.Client | None) -> None:
        self.owns_client = client is None
        self._proxy_variable = find_proxy_variable(base_url) if client is None else None
        self._client = _check_client(client, httpx.Client) or new_client(base_url)
        self._base_url = base_url
        self._process_id = os.getpid()
        # Several threads may run flows after a fork. Without a fork, none of them takes the lock.
        self._lock = threading.Lock()

    def build_request(self, method: str, url: httpx.URL, **options: object) -> httpx.Request:
        """Return a request that includes the httpx client's own headers."""
        return _build_request(self._process_client(), self._proxy_variable, method, url, **options)

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, or until the call is cancelled."""
        return Driver(self._process_client()).run(flow)

    def close(self) -> None:
        """Close the connections of this process, unless they are the caller's."""
        if self.owns_client and not self._is_forked():
            self._client.close()

    def _process_client(self) -> httpx.Client:
        """Return the client of this process.

        A forked process has the sockets of its parent. If both sent on them, their requests and
        answers would mix.
        """
        if self.owns_client and self._is_forked():
            with self._lock:
                if self._is_forked():
                    self._client = new_client(self._base_url)
                    # Last, because other threads read it without the lock.
                    self._process_id = os.getpid()
        return self._client

    def _is_forked(self) -> bool:
        """Return whether a parent process opened the client."""
        return self._process_id != os.getpid()


class AsyncSession:
    """The async twin of `Session`. Connections belong to an event loop, so each loop has its own.

    Args:
        base_url: The server that most requests go to.
        client: The caller's client, which `close` leaves open. By default one for each loop.

    Raises:
        InvalidRequestError: If `client` is not an `httpx.AsyncClient`.
    """

    def __init__(self, base_url: httpx.URL, client: httpx.AsyncClient | None) -> None:
        self.owns_client = client is None
        self._proxy_variable = find_proxy_variable(base_url) if client is None else None
        self._callers_client = _check_client(client, httpx.AsyncClient)
        self._base_url = base_url
        # The first client is made here, so that a faulty environment fails immediately.
        self._first_client = new_async_client(base_url) if self.owns_client else None
        self._clients: WeakKeyDictionary[_EventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        # Several loops may run in threads at the same time.
        self._lock = threading.Lock()

    def build_request(self, method: str, url: httpx.URL, **options: object) -> httpx.Request:
        """Return a request that includes the httpx client's own headers."""
        return _build_request(self._client(), self._proxy_variable, method, url, **options)

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        return await AsyncDriver(self._client()).run(flow)

    async def close(self) -> None:
        """Close the connections of this event loop, unless they are the caller's."""
        if self.owns_client:
            await self._client().aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._callers_client is not None:
            return self._callers_client
        loop = _current_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                client = self._first_client or new_async_client(self._base_url)
                self._first_client = None
                self._clients[loop] = client
            return client


class _EventLoop:
    """Stands for an event loop of asyncio or trio, and lives as long as it does."""


_EVENT_LOOP: RunVar[_EventLoop] = RunVar("image-variation-event-loop")


def _current_loop() -> _EventLoop:
    try:
        return _EVENT_LOOP.get()
    except LookupError:
        loop = _EventLoop()
        _EVENT_LOOP.set(loop)
        return loop


def new_client(base_url: httpx.URL) -> httpx.Client:
    """Return a client that keeps deadlines. It uses the environment's proxy, if there is one.

    Raises:
        InvalidRequestError: If the environment names an invalid proxy or invalid certificates.
        MissingExtraError: If it names a SOCKS proxy, and the package for it is not installed.
    """
    transport = DeadlineTransport(ssl_context=_ssl_context(base_url), proxy=find_proxy(base_url))
    return httpx.Client(headers=_HEADERS, cookies=_Cookies(), transport=transport)


def new_async_client(
    base_url: httpx.URL, *, max_keepalive_connections: int = 20
) -> httpx.AsyncClient:
    """Return the async twin of `new_client`. Its flows keep the deadlines.

    Raises:
        InvalidRequestError: See `new_client`.
        MissingExtraError: See `new_client`.
    """
    transport = httpx.AsyncHTTPTransport(
        verify=_ssl_context(base_url),
        proxy=find_proxy(base_url),
        limits=httpx.Limits(
            max_connections=100, max_keepalive_connections=max_keepalive_connections
        ),
    )
    return httpx.AsyncClient(headers=_HEADERS, cookies=_Cookies(), transport=transport)


def _ssl_context(base_url: httpx.URL) -> SSLContext:
    # An http server needs no certificates. Loading none saves time, and trusts nobody.
    return ssl_context() if base_url.scheme == "https" else SSLContext(PROTOCOL_TLS_CLIENT)


def _build_request(
    client: httpx.Client | httpx.AsyncClient,
    proxy_variable: str | None,
    method: str,
    url: httpx.URL,
    **options: Any,
) -> httpx.Request:
    request = client.build_request(method, url, **options)
    request.extensions[PROXY_EXTENSION] = proxy_variable
    if "files" in options:
        # Otherwise, httpx would write each line of each part to the socket separately.
        request.read()
    return request


C = TypeVar("C", httpx.Client, httpx.AsyncClient)


def _check_client(client: C | None, kind: type[C]) -> C | None:
    if client is not None and not isinstance(client, kind):
        raise InvalidRequestError(
            f"http_client must be an httpx.{kind.__name__}, got {excerpt(client)}.",
            param="http_client",
        )
    return client
