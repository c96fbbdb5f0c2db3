"""Connections to one server, for answers that are passed on while they arrive."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import httpcore
import httpx
from anyio.lowlevel import EventLoopToken, current_token

from langchain_image_variation.http.host_lookup import is_ip_address, look_up, lookup_error
from langchain_image_variation.http.httpcore_values import core_url, is_socks_proxy, proxy_options
from langchain_image_variation.http.proxy import find_proxy
from langchain_image_variation.http.tls import ssl_context

__all__ = ["Connections"]

_Value = TypeVar("_Value")
_KEEP_ALIVE_SECONDS = 3.0
"""How long an unused connection is kept. Common servers close theirs after 5 seconds (uvicorn,
Node). A request that is sent just then fails, and cannot be sent again."""
_MAX_IDLE_CONNECTIONS = 100
"""How many unused connections are kept."""
_MAX_LOOKUPS = 8
"""How many names are resolved at once. A resolver that hangs keeps this many threads."""


class _PerLoop(Generic[_Value]):
    """A value that works in one event loop only. Another loop gets a new one.

    The old one is dropped, because nothing can be awaited once its loop has ended.

    Args:
        make: Makes the value.
    """

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._latest: tuple[EventLoopToken, _Value] | None = None

    def get(self) -> _Value:
        """Return the value of the running loop."""
        loop = current_token()
        latest = self._latest
        if latest is None or latest[0] != loop:
            latest = self._latest = (loop, self._make())
        return latest[1]


class Connections:
    """Keeps connections to one server open for the next request. No request is sent twice.

    httpcore's pool looks at all of its connections for each request: with 50 streams at once, this
    took a third of the time. Here, the connection that was used last is used next.

    Args:
        url: The server's address. It decides about TLS and about the environment's proxy.

    Raises:
        InvalidRequestError: If the environment names a proxy or certificates that cannot be used.
        MissingExtraError: If it names a SOCKS proxy, and the package for it is not installed.
    """

    def __init__(self, url: httpx.URL) -> None:
        self._pool = _open_pool(url)
        self._origin = core_url(url).origin
        self._idle = _PerLoop(deque[httpcore.AsyncConnectionInterface])

    @asynccontextmanager
    async def send(self, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """Send a request and yield the answer, whose body has not been read yet.

        If the block ends before the body does, the connection is closed.

        Raises:
            httpcore.NetworkError: If the connection fails. Other classes are ProtocolError,
                ProxyError and TimeoutException.
        """
        connection = await self._take()
        try:
            answer = await connection.handle_async_request(request)
            try:
                yield answer
            finally:
                await answer.aclose()
        finally:
            await self._put_back(connection)

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        idle = self._idle.get()
        while idle:
            await idle.pop().aclose()

    async def _take(self) -> httpcore.AsyncConnectionInterface:
        idle = self._idle.get()
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            await _close(connection)
        return self._pool.create_connection(self._origin)

    async def _put_back(self, connection: httpcore.AsyncConnectionInterface) -> None:
        idle = self._idle.get()
        if connection.is_available():
            idle.append(connection)
        else:
            await _close(connection)
        # The first one has been idle for the longest time.
        while len(idle) > _MAX_IDLE_CONNECTIONS or (idle and idle[0].has_expired()):
            await _close(idle.popleft())


async def _close(connection: httpcore.AsyncConnectionInterface) -> None:
    """Close a connection even if the task is being cancelled."""
    with anyio.CancelScope(shield=True):
        await connection.aclose()


def _open_pool(url: httpx.URL) -> httpcore.AsyncConnectionPool:
    """Return a pool that can make connections to a server, through a proxy if need be."""
    proxy = find_proxy(url)
    options: dict[str, Any] = {
        "ssl_context": ssl_context() if url.scheme == "https" else None,
        "keepalive_expiry": _KEEP_ALIVE_SECONDS,
        "network_backend": _Backend(),
    }
    if proxy is None:
        return httpcore.AsyncConnectionPool(**options)
    is_socks = is_socks_proxy(proxy)
    pool_class = httpcore.AsyncSOCKSProxy if is_socks else httpcore.AsyncHTTPProxy
    return pool_class(**options, **proxy_options(proxy))


class _Backend(httpcore.AsyncNetworkBackend):
    """Resolves names in separate threads.

    asyncio resolves them in its default threads. On the server, engines compute there for minutes.
    """

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()
        self._limiter = _PerLoop(lambda: anyio.CapacityLimiter(_MAX_LOOKUPS))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Try the addresses of a host in turn. Each gets its share of the time that remains."""
        deadline = float("inf") if timeout is None else monotonic() + timeout
        addresses = await self._resolve(host, port, timeout)
        failure: Exception = httpcore.ConnectError("no address")
        for index, address in enumerate(addresses):
            seconds = max(deadline - monotonic(), 0) / (len(addresses) - index)
            try:
                return await self._backend.connect_tcp(
                    address,
                    port,
                    None if timeout is None else seconds,
                    local_address,
                    socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts to connect."""
        await self._backend.sleep(seconds)

    async def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        if is_ip_address(host):
            return [host]
        try:
            with anyio.fail_after(timeout):
                return await anyio.to_thread.run_sync(
                    lambda: look_up(host, port), abandon_on_cancel=True, limiter=self._limiter.get()
                )
        except (OSError, UnicodeError) as error:
            raise lookup_error(error) from None
