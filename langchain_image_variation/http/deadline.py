"""A transport of httpx that keeps a deadline, whatever the other side does.

httpx bounds each read and write, so a server that sends a byte now and then is never late. Here the
time left until the deadline bounds them all, and one of them that comes after it times out.
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

__all__ = ["DeadlineTransport", "deadline_at", "in_time", "timeouts"]

T = TypeVar("T")

_NEVER = float("inf")
_DEADLINE: ContextVar[float] = ContextVar("_DEADLINE", default=_NEVER)


@contextmanager
def deadline_at(deadline: float) -> Iterator[None]:
    """Hold what a `DeadlineTransport` does inside the block to a deadline.

    Args:
        deadline: In seconds of `time.monotonic`.
    """
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def timeouts(timeout: httpx.Timeout, deadline: float) -> dict[str, float | None]:
    """Return httpx's extension "timeout", in which no phase outlasts the deadline."""
    left = max(deadline - monotonic(), 0.001)
    if left == _NEVER:
        return timeout.as_dict()
    return {
        phase: left if seconds is None else min(seconds, left)
        for phase, seconds in timeout.as_dict().items()
    }


def in_time(function: Callable[[], T], seconds: float | None) -> T:
    """Call a function that cannot be interrupted, and leave it behind when the time is up.

    Raises:
        TimeoutError: If it takes longer.
    """
    answers = SimpleQueue[tuple[T | None, Exception | None]]()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:  # It is raised in the thread that waits.
            answers.put((None, error))

    Thread(target=call, daemon=True).start()
    try:
        result, failure = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return cast(T, result)


class DeadlineTransport(httpx.BaseTransport):
    """What `httpx.HTTPTransport` is, with every operation bounded by `deadline_at`.

    Args:
        ssl_context: For https; by default that of httpcore.
        backend: What opens connections; by default plain sockets.
        proxy: An http or https proxy to go through; by default none.
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
            httpx.TransportError: As `httpx.HTTPTransport`; a `httpx.TimeoutException` once the
                deadline has passed.
        """
        assert isinstance(request.stream, httpx.SyncByteStream)
        sent = httpcore.Request(
            method=request.method,
            url=_core_url(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _httpx_errors():
            answer = self._pool.handle_request(sent)
        assert isinstance(answer.stream, Iterable)
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Stream(answer.stream),
            extensions=answer.extensions,
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
        """Try one address of a host after the other, each for no longer than is left."""
        addresses = _addresses(host, port, _left(timeout, httpcore.ConnectTimeout))
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            left = _left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(
                    address, port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Deadlined(stream)
        raise failure


class _Deadlined(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces, since a peer that reads slowly would renew the time with each of its reads.
        view = memoryview(buffer)
        for start in range(0, len(view), _PIECE):
            piece = bytes(view[start : start + _PIECE])
            self._stream.write(piece, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Deadlined(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


_PIECE = 256 * 1024


def _addresses(host: str, port: int, seconds: float | None) -> list[str]:
    """Resolve a name in time. The resolver has timeouts of its own, much longer than ours."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass  # It is a name.
    try:
        found = in_time(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), seconds)
    except TimeoutError:
        raise httpcore.ConnectTimeout("the resolver is too slow") from None
    except (OSError, UnicodeError):
        raise httpcore.ConnectError("no such host") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    """Return the seconds an operation may take, or raise if the deadline has passed."""
    left = _DEADLINE.get() - monotonic()
    if left <= 0:
        raise late("deadline")
    if left == _NEVER:
        return timeout
    return left if timeout is None else min(timeout, left)


# The special before the general, as in httpx.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
)


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(ours for ours, _ in _ERRORS) as error:
        for ours, theirs in _ERRORS:
            if isinstance(error, ours):
                raise theirs(str(error)) from error
        raise
