"""Flows and their drivers: a client's logic is written once and runs sync or async.

A flow is a generator that yields steps. A driver performs each step and sends its result back into
the flow, or throws its error into it. httpx writes its `Auth` classes in the same way.
"""

import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
import httpx

from langchain_image_variation.cancellation import (
    cancel_after,
    check_cancellation,
    ignore_cancellation,
    stop_request,
)
from langchain_image_variation.http.deadline import DeadlineTransport, phase_timeouts, use_deadline
from langchain_image_variation.http.tls import ssl_context

__all__ = ["AsyncDriver", "Body", "Driver", "Flow", "Send", "Transport", "Wait", "Work"]

Transport = httpx.BaseTransport | httpx.AsyncBaseTransport

T = TypeVar("T")


class Body(Protocol):
    """Receives a response piece by piece. Either method may raise to stop the reading."""

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers."""
        ...

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the decoded body. Return False to stop the reading."""
        ...


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and read the response into `body`.

    The driver throws an `httpx.TransportError` if this fails, an `httpx.TimeoutException` once the
    deadline has passed, and any error that `body` raises.
    """

    request: httpx.Request
    body: Body
    timeout: httpx.Timeout
    deadline: float
    """In seconds of `time.monotonic`."""
    direct: bool = False
    """Whether to bypass the httpx client, with its proxy, cookies, headers and log lines."""
    keep_waiting: bool = False
    """Whether a thread whose call is cancelled still waits for the answer. Only the answer says how
    to cancel what the request started."""
    transport: Transport | None = None
    """The transport of a direct request. By default a new one, which is closed afterwards."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Pause the flow for a number of seconds."""

    seconds: float
    until_stopped: bool = False
    """Whether the pause ends early if the call in a thread is stopped; see `stop_request`."""


@dataclass(frozen=True, slots=True)
class Work:
    """Call a function that blocks or computes, and send its return value back."""

    function: Callable[[], Any]


Flow = Generator[Send | Wait | Work, Any, T]
"""A generator of steps. Its return value is the result."""


class Driver:
    """Performs the steps of flows in the caller's thread.

    Once the call is cancelled (see `cancellation`), the next step raises an error.

    Args:
        client: Sends the requests that are not direct. None if all of them are.
    """

    def __init__(self, client: httpx.Client | None) -> None:
        self._client = client

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        try:
            step = next(flow)
            while True:
                failure = None
                try:
                    result = self._perform(step)
                except Exception as error:  # The flow decides what an error means.
                    failure = error
                # Outside the handler, so that the flow's own errors do not chain this one.
                step = flow.send(result) if failure is None else flow.throw(failure)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # StopIteration has no type parameter
        finally:
            flow.close()
            # The error's frames would hold it.
            failure = None

    def _perform(self, step: Send | Wait | Work) -> Any:
        check_cancellation()
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Wait):
            return self._wait(step)
        return step.function()

    def _send(self, step: Send) -> None:
        step.request.extensions["timeout"] = phase_timeouts(step.timeout, step.deadline)
        stay = ignore_cancellation() if step.keep_waiting else nullcontext()
        with use_deadline(step.deadline), stay:
            if step.direct:
                self._send_directly(step)
                return
            assert self._client is not None
            response = self._client.send(step.request, stream=True, follow_redirects=False)
            _read(step, response)

    def _send_directly(self, step: Send) -> None:
        transport = step.transport or DeadlineTransport(ssl_context=ssl_context())
        assert isinstance(transport, httpx.BaseTransport)
        try:
            _read(step, transport.handle_request(step.request))
        finally:
            if step.transport is None:
                transport.close()

    def _wait(self, step: Wait) -> None:
        is_stopped = stop_request()
        end = time.monotonic() + step.seconds
        while (time_left := end - time.monotonic()) > 0:
            check_cancellation()
            if step.until_stopped and is_stopped():
                return
            time.sleep(min(time_left, _POLL_INTERVAL))


class AsyncDriver:
    """Performs the steps of flows on an event loop of asyncio or trio.

    Args:
        client: Sends the requests that are not direct. None if all of them are.
    """

    def __init__(self, client: httpx.AsyncClient | None) -> None:
        self._client = client

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        try:
            step = next(flow)
            while True:
                failure = None
                try:
                    result = await self._perform(step)
                except Exception as error:  # The flow decides what an error means.
                    failure = error
                # Outside the handler, so that the flow's own errors do not chain this one.
                step = flow.send(result) if failure is None else flow.throw(failure)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # StopIteration has no type parameter
        finally:
            flow.close()
            # The error's frames would hold it.
            failure = None

    async def _perform(self, step: Send | Wait | Work) -> Any:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Wait):
            return await anyio.sleep(step.seconds)
        with cancel_after():
            return await anyio.to_thread.run_sync(step.function, abandon_on_cancel=True)

    async def _send(self, step: Send) -> None:
        step.request.extensions["timeout"] = phase_timeouts(step.timeout, step.deadline)
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
        transport = step.transport or httpx.AsyncHTTPTransport(verify=ssl_context())
        assert isinstance(transport, httpx.AsyncBaseTransport)
        try:
            await _read_async(step, await transport.handle_async_request(step.request))
        finally:
            if step.transport is None:
                await transport.aclose()


_GRACE = 0.1
"""How many seconds after the deadline an async step is cancelled. Until then it may time out by
itself, which closes the connection. Cancelling a TLS handshake does not make httpcore close it."""

_POLL_INTERVAL = 0.2
"""How often a waiting thread checks whether its call was cancelled, in seconds."""


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
        # trio warns about a generator that the garbage collector has to finish.
        async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_bytes())) as pieces:
            async for piece in pieces:
                # Only a step that waits can be cancelled, and there may be none.
                if time.monotonic() > step.deadline:
                    raise httpx.ReadTimeout("deadline")
                if not step.body.feed(piece):
                    break
    finally:
        await response.aclose()
