"""An httpx transport that keeps a deadline, whatever the server does.

httpx limits each read and write, so a server that sends a byte now and then never times out. This
transport limits each operation to the time that remains until the deadline.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, TypeVar, cast

import httpcore
import httpx

from langchain_image_variation.cancellation import check_cancellation

__all__ = ["DeadlineTransport", "call_with_timeout", "phase_timeouts", "use_deadline"]

T = TypeVar("T")

_NEVER = float("inf")
_DEADLINE: ContextVar[float] = ContextVar("_DEADLINE", default=_NEVER)


@contextmanager
def use_deadline(deadline: float) -> Iterator[None]:
    """Set the deadline for everything that a `DeadlineTransport` does in the block.

    Args:
        deadline: In seconds of `time.monotonic`.
    """
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def phase_timeouts(timeout: httpx.Timeout, deadline: float) -> dict[str, float | None]:
    """Return httpx's request extension "timeout", with no phase longer than the time left."""
    time_left = max(deadline - monotonic(), 0.001)
    if time_left == _NEVER:
        return timeout.as_dict()
    return {
        phase: time_left if seconds is None else min(seconds, time_left)
        for phase, seconds in timeout.as_dict().items()
    }


def call_with_timeout(function: Callable[[], T], seconds: float | None) -> T:
    """Call a function that cannot be interrupted. If it is late, abandon its thread.

    Raises:
        TimeoutError: If the function takes longer than `seconds`.
    """
    outcomes = SimpleQueue[tuple[T | None, Exception | None]]()

    def call() -> None:
        try:
            outcomes.put((function(), None))
        except Exception as error:  # Raised again in the waiting thread.
            outcomes.put((None, error))

    Thread(target=call, daemon=True).start()
    try:
        result, failure = outcomes.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return cast(T, result)


class DeadlineTransport(httpx.BaseTransport):
    """A replacement for `httpx.HTTPTransport` that keeps the deadline of `use_deadline`.

    Args:
        ssl_context: For https. By default, httpcore's context.
        backend: Opens the connections. By default plain sockets.
        proxy: An http, https or socks5 proxy to go through. By default none.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        backend: httpcore.NetworkBackend | None = None,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "max_connections": 100,
            "max_keepalive_connections": 20,
            "keepalive_expiry": 5.0,
            "network_backend": _Backend(backend or httpcore.SyncBackend()),
        }
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
        elif proxy.url.scheme.startswith("socks5"):
            self._pool = httpcore.SOCKSProxy(
                proxy_url=_core_url(proxy.url), proxy_auth=proxy.raw_auth, **options
            )
        else:
            self._pool = httpcore.HTTPProxy(
                proxy_url=_core_url(proxy.url),
                proxy_auth=proxy.raw_auth,
                proxy_headers=proxy.headers.raw,
                proxy_ssl_context=proxy.ssl_context,
                **options,
            )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            httpx.TransportError: If the request fails. It is an `httpx.TimeoutException` once the
                deadline has passed.
        """
        assert isinstance(request.stream, httpx.SyncByteStream)
        core_request = httpcore.Request(
            method=request.method,
            url=_core_url(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _httpx_errors():
            response = self._pool.handle_request(core_request)
        assert isinstance(response.stream, Iterable)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Stream(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Try the addresses of a host in turn, each for the time that remains."""
        addresses = _resolve(host, port, _time_left(timeout, httpcore.ConnectTimeout))
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            time_left = _time_left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(
                    address, port, time_left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # In turns, because a server may think for minutes about a call that is soon cancelled.
        time_left = _time_left(timeout, httpcore.ReadTimeout)
        end = monotonic() + (_NEVER if time_left is None else time_left)
        while True:
            turn = min(max(end - monotonic(), 0.001), _CANCEL_INTERVAL)
            try:
                return self._stream.read(max_bytes, turn)
            except httpcore.ReadTimeout:
                check_cancellation()
                if monotonic() >= end:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: within one write, each read of a slow peer would start the timeout again.
        view = memoryview(buffer)
        for start in range(0, len(view), _PIECE):
            piece = bytes(view[start : start + _PIECE])
            self._stream.write(piece, _time_left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        time_left = _time_left(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, time_left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


_PIECE = 256 * 1024
_CANCEL_INTERVAL = 0.2
"""How often a waiting read checks whether its call was cancelled, in seconds."""


def _resolve(host: str, port: int, seconds: float | None) -> list[str]:
    """Return the addresses of a host. The resolver's own timeouts are much longer than ours."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass  # The host is a name, which must be resolved.
    try:
        infos = call_with_timeout(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), seconds
        )
    except TimeoutError:
        raise httpcore.ConnectTimeout("the resolver is too slow") from None
    except (OSError, UnicodeError):
        raise httpcore.ConnectError("no such host") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in infos))


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


def _time_left(timeout: float | None, error_class: type[httpcore.TimeoutException]) -> float | None:
    """Return the seconds that an operation may take, or raise if the deadline has passed."""
    time_left = _DEADLINE.get() - monotonic()
    if time_left <= 0:
        raise error_class("deadline")
    if time_left == _NEVER:
        return timeout
    return time_left if timeout is None else min(timeout, time_left)


# Subclasses come before their base classes, as in httpx.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
)


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(core_class for core_class, _ in _ERRORS) as error:
        for core_class, httpx_class in _ERRORS:
            if isinstance(error, core_class):
                raise httpx_class(str(error)) from error
        raise
