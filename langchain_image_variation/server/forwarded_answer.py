"""Forwards one request, and passes the answer on while it arrives."""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import cast

import anyio
import httpcore
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from langchain_image_variation.exceptions import (
    EngineConnectionError,
    EngineTimeoutError,
    InvalidRequestError,
)
from langchain_image_variation.http.connections import Connections
from langchain_image_variation.http.tls import describe_tls_failure
from langchain_image_variation.server.disconnect import cancel_on_disconnect
from langchain_image_variation.server.forwarded_headers import answer_headers

__all__ = ["CONNECTION_ERRORS", "ForwardedAnswer", "connection_error"]

_LOGGER = logging.getLogger("langchain_image_variation.server")
CONNECTION_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
)
"""What httpcore raises if a connection fails."""

_HANG_UPS = (
    "Server disconnected without sending a response.",
    "peer closed connection without sending complete message body",
)
"""How the messages of httpcore and h11 begin if a server closes the connection too early. The class
of the error is the same if its answer is not valid HTTP."""


class ForwardedAnswer(Response):
    """The upstream's answer. The request is sent once the answer is awaited.

    Args:
        connections: The connections with the upstream.
        request: The client's request.
        url: Where it is forwarded.
        headers: The headers that are sent there.
        timeouts: The limits of httpcore, in seconds.
        upload_timeout: How many seconds the client may pause while it sends the body.
        running: The answers in progress. This one adds itself while it is.
    """

    def __init__(
        self,
        connections: Connections,
        request: Request,
        url: httpcore.URL,
        headers: list[tuple[bytes, bytes]],
        *,
        timeouts: dict[str, float],
        upload_timeout: float,
        running: "set[ForwardedAnswer]",
    ) -> None:
        super().__init__()
        self._connections = connections
        self._request = request
        self._body = _RequestBody(request, upload_timeout)
        self._core_request = httpcore.Request(
            request.method,
            url,
            headers=headers,
            content=self._body,
            extensions={"timeout": timeouts},
        )
        self._timeout = timeouts["read"]
        self._running = running
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the request, and then the answer.

        An answer that breaks off is not ended, so the server closes the connection, and the client
        can tell.

        Raises:
            EngineConnectionError: If the upstream does not answer.
            InvalidRequestError: If the client sends its body too slowly.
            ClientDisconnect: If the client is gone. The upstream's connection is then closed.
        """
        self._running.add(self)
        try:
            with cancel_on_disconnect(self._request, body_ended=self._body.ended):
                await self._exchange(send)
        except CONNECTION_ERRORS as error:
            wire_error = connection_error(error, self._timeout, is_started=self._is_started)
            if not self._is_started:
                raise wire_error from error
            line = {"request_id": self._request.state.request_id, "error": wire_error.message}
            _LOGGER.warning("request %(request_id)s failed: %(error)s", line)
        finally:
            self._running.discard(self)

    async def _exchange(self, send: Send) -> None:
        async with self._connections.send(self._core_request) as answer:
            # ASGI servers cannot send others. Nobody asked for a 101.
            if not 200 <= answer.status < 600:
                raise httpcore.RemoteProtocolError("the status is out of range")
            headers = answer_headers(answer.headers)
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            self._is_started = True
            assert isinstance(answer.stream, AsyncIterable)
            # Otherwise a generator that is left early would be closed at some later time.
            async with aclosing(cast(AsyncGenerator[bytes], aiter(answer.stream))) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _RequestBody:
    """The body of the client's request, as it arrives."""

    def __init__(self, request: Request, timeout: float) -> None:
        self._request = request
        self._timeout = timeout
        self.ended = anyio.Event()
        """Set once the body has been received. The next message says that the client is gone."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.ended.is_set():
            with anyio.move_on_after(self._timeout) as silence:
                message = await self._request.receive()
            if silence.cancelled_caught:
                error = InvalidRequestError(
                    f"The body of the request paused for more than {self._timeout:g} seconds."
                )
                error.status_code = 408
                raise error
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if not message.get("more_body", False):
                self.ended.set()
            if body := message.get("body", b""):
                yield body


def connection_error(
    error: Exception, timeout: float, *, is_started: bool = False
) -> EngineConnectionError:
    """Return the error for a failed connection with the upstream.

    Args:
        error: One of `CONNECTION_ERRORS`.
        timeout: How many seconds the upstream may be silent.
        is_started: Whether its answer had begun.
    """
    if isinstance(error, httpcore.ConnectTimeout | httpcore.ConnectError | httpcore.ProxyError):
        fault = describe_tls_failure(error)
        reason = f"The upstream {fault}" if fault else "The upstream cannot be reached."
        if isinstance(error, httpcore.ConnectTimeout):
            return EngineTimeoutError("The upstream cannot be reached in time.")
        return EngineConnectionError(reason)
    if isinstance(error, httpcore.WriteTimeout):
        return EngineTimeoutError("The upstream does not read the request.")
    if isinstance(error, httpcore.TimeoutException):
        return EngineTimeoutError(
            f"The upstream was silent for {timeout:g} seconds, the most that this server waits."
        )
    if isinstance(error, httpcore.LocalProtocolError):
        return EngineConnectionError("The request cannot be forwarded: it is not valid HTTP.")
    if isinstance(error, httpcore.RemoteProtocolError) and not str(error).startswith(_HANG_UPS):
        return EngineConnectionError(
            "The upstream's answer is not valid HTTP. Check the scheme and the port of its URL."
        )
    part = "in the middle of its answer" if is_started else "before it answered"
    return EngineConnectionError(f"The upstream closed the connection {part}.")
