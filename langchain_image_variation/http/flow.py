"""Flows and their drivers: what a client does is written once, and driven sync or async.

A flow is a generator. It yields steps; a driver performs each and sends back its result, or throws
its error; what the flow returns is the result. This is how httpx itself writes `Auth`.
"""

import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from ssl import SSLContext
from typing import Any, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
import httpx

from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.http.deadline import DeadlineTransport, deadline_at, timeouts

__all__ = ["AsyncDriver", "Body", "Driver", "Flow", "Send", "Transport", "Wait", "Work"]

Transport = httpx.BaseTransport | httpx.AsyncBaseTransport

T = TypeVar("T")


class Body(Protocol):
    """What takes an answer as it comes in. Either method may raise to end the reading."""

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers."""
        ...

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the decoded body; return False if no more is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and read its answer into `body`.

    The driver throws an `httpx.TransportError` if that fails, an `httpx.TimeoutException` once the
    deadline has passed, and whatever `body` raises.
    """

    request: httpx.Request
    body: Body
    timeout: httpx.Timeout
    deadline: float
    """In seconds of `time.monotonic`."""
    direct: bool = False
    """Whether to go around the caller's client: no proxy, cookie, header or log line of its own."""
    transport: Transport | None = None
    """With `direct`, the transport to use; by default a new one, closed afterwards."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Call a function that blocks or computes, and return what it returns."""

    function: Callable[[], Any]


Flow = Generator[Send | Wait | Work, Any, T]
"""A generator of steps that returns a `T`."""


class Driver:
    """Performs the steps of flows in the caller's thread.

    Args:
        client: What sends requests that are not `direct`.
        gone: Says whether nobody waits for the result any more; the next step is an error then.
    """

    def __init__(
        self, client: httpx.Client | None, gone: Callable[[], bool] = lambda: False
    ) -> None:
        self._client = client
        self._gone = gone

    def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end and return its result."""
        try:
            step = next(flow)
            while True:
                failure = None
                try:
                    result = self._perform(step)
                except Exception as error:  # The flow decides what an error means.
                    failure = error
                # Not in the handler, or the flow's own errors would carry this one with them.
                step = flow.send(result) if failure is None else flow.throw(failure)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # StopIteration has no type parameter
        finally:
            flow.close()

    def _perform(self, step: Send | Wait | Work) -> Any:
        if self._gone():
            raise _nobody_waits()
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Wait):
            return self._wait(step.seconds)
        return step.function()

    def _send(self, step: Send) -> None:
        step.request.extensions["timeout"] = timeouts(step.timeout, step.deadline)
        with deadline_at(step.deadline):
            if step.direct:
                self._send_directly(step)
                return
            assert self._client is not None
            response = self._client.send(step.request, stream=True, follow_redirects=False)
            _read(step, response)

    def _send_directly(self, step: Send) -> None:
        transport = step.transport or DeadlineTransport(ssl_context=_ssl_context())
        assert isinstance(transport, httpx.BaseTransport)
        try:
            _read(step, transport.handle_request(step.request))
        finally:
            if step.transport is None:
                transport.close()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._gone():
                raise _nobody_waits()
            time.sleep(min(left, _NAP))


class AsyncDriver:
    """Performs the steps of flows on an event loop of asyncio or trio.

    Args:
        client: What sends requests that are not `direct`.
    """

    def __init__(self, client: httpx.AsyncClient | None) -> None:
        self._client = client

    async def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end and return its result."""
        try:
            step = next(flow)
            while True:
                failure = None
                try:
                    result = await self._perform(step)
                except Exception as error:  # The flow decides what an error means.
                    failure = error
                # Not in the handler, or the flow's own errors would carry this one with them.
                step = flow.send(result) if failure is None else flow.throw(failure)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # StopIteration has no type parameter
        finally:
            flow.close()

    async def _perform(self, step: Send | Wait | Work) -> Any:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Wait):
            return await anyio.sleep(step.seconds)
        return await anyio.to_thread.run_sync(step.function, abandon_on_cancel=True)

    async def _send(self, step: Send) -> None:
        step.request.extensions["timeout"] = timeouts(step.timeout, step.deadline)
        try:
            with anyio.fail_after(max(step.deadline - time.monotonic(), 0) + _GRACE):
                if step.direct:
                    await self._send_directly(step)
                    return
                assert self._client is not None
                response = await self._client.send(
                    step.request, stream=True, follow_redirects=False
                )
                await _read_async(step, response)
        except TimeoutError:
            raise httpx.ReadTimeout("deadline") from None

    async def _send_directly(self, step: Send) -> None:
        transport = step.transport or httpx.AsyncHTTPTransport(verify=_ssl_context())
        assert isinstance(transport, httpx.AsyncBaseTransport)
        try:
            await _read_async(step, await transport.handle_async_request(step.request))
        finally:
            if step.transport is None:
                await transport.aclose()


_GRACE = 0.1
"""Seconds after the deadline at which an async step is cut off: what times out by itself until then
closes its connection, and httpcore does not when it is cancelled in a TLS handshake."""

_NAP = 0.2
"""Seconds after which a waiting thread looks whether anybody still waits for it."""


def _nobody_waits() -> EngineError:
    return EngineError("Nobody waits for the answer any more.")


def _read(step: Send, response: httpx.Response) -> None:
    try:
        step.body.start(response)
        for piece in response.iter_bytes():
            if time.monotonic() > step.deadline:
                raise httpx.ReadTimeout("deadline")
            if not step.body.feed(piece):
                break
    finally:
        response.close()


async def _read_async(step: Send, response: httpx.Response) -> None:
    try:
        step.body.start(response)
        # Left to the garbage collector, a generator that is not at its end would trouble trio.
        async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_bytes())) as pieces:
            async for piece in pieces:
                if not step.body.feed(piece):
                    break
    finally:
        await response.aclose()


@lru_cache(maxsize=1)
def _ssl_context() -> SSLContext:
    return httpx.create_ssl_context()
