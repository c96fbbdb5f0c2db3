"""Answers that are sent before the body of the request has ended.

If the key or path of a request is wrong, or the queue is full, the request is answered before its
body is read. If the body is short, the rest of it is then read, so that the connection can be kept.

Otherwise the connection is closed, but not at once. If a connection is closed while data is still
arriving, it is reset, and many clients lose an answer that they have not read yet (RFC 9112,
section 9.6). So the server sends the answer, reads and drops the rest of the body for a while, and
only then closes the connection.
"""

import math
import time

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EarlyAnswer"]

_MAX_KEPT_BYTES = 64 * 1024
"""The maximum length of a body that is read to the end. uvicorn buffers as much in any case."""
_MAX_KEPT_SECONDS = 1.0
_MAX_BYTES = 32 * 1024 * 1024
_MAX_SILENT_SECONDS = 5.0


class EarlyAnswer:
    """An ASGI middleware that makes sure clients can read an early answer.

    It must wrap everything that can answer.

    Args:
        app: The app inside.
        max_seconds: How many seconds the rest of a body is read after an answer.
    """

    def __init__(self, app: ASGIApp, *, max_seconds: float) -> None:
        self._app = app
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        length = _body_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self._app(scope, receive, send)
            return
        body_ended = is_early = False

        async def receive_and_watch() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = not message.get("more_body", False)
            return message

        async def send_and_drain(message: Message) -> None:
            nonlocal is_early
            if message["type"] == "http.response.start":
                if not body_ended and length <= _MAX_KEPT_BYTES:
                    with anyio.move_on_after(_MAX_KEPT_SECONDS):
                        while not body_ended:
                            await receive_and_watch()
                is_early = not body_ended
                if is_early:
                    headers = [p for p in message["headers"] if p[0].lower() != b"connection"]
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
                await send(message)
            elif not is_early or message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _drop_body(receive_and_watch, self._max_seconds)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive_and_watch, send_and_drain)


def _body_length(scope: Scope) -> float:
    """Return the length of a body in bytes, or infinity if it is sent in chunks."""
    length = 0.0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return math.inf
        if name == b"content-length":
            # uvicorn has checked it, but another server may be less strict.
            length = float(value) if value.isdigit() else math.inf
    return length


async def _drop_body(receive: Receive, max_seconds: float) -> None:
    """Read and drop the rest of a body, up to limits of length, time and silence."""
    bytes_left, deadline = _MAX_BYTES, time.monotonic() + max_seconds
    while bytes_left > 0 and time.monotonic() < deadline:
        with anyio.move_on_after(_MAX_SILENT_SECONDS) as silence:
            message = await receive()
        if silence.cancelled_caught or not message.get("more_body", False):
            return
        bytes_left -= len(message.get("body", b""))
