"""Answers that are sent before the body of the request has ended.

If a connection is closed while unread data is still arriving, it is reset, and many clients then
lose an answer that they have not read yet (RFC 9112, section 9.6). So the answer is sent, the rest
of the body is read and dropped for a while, and only then is the connection closed.
"""

import time

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EarlyAnswer"]

_MAX_BYTES = 32 * 1024 * 1024
_MAX_SECONDS = 10.0
_MAX_SILENT_SECONDS = 1.0


class EarlyAnswer:
    """An ASGI middleware that must wrap everything that can answer.

    Args:
        app: The app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        body_ended = False

        async def receive_and_watch() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = not message.get("more_body", False)
            return message

        async def send_and_drain(message: Message) -> None:
            if body_ended:
                await send(message)
            elif message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != b"connection"]
                await send({**message, "headers": [*headers, (b"connection", b"close")]})
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _drop_body(receive_and_watch)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive_and_watch, send_and_drain)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _drop_body(receive: Receive) -> None:
    """Read and drop the rest of a body, up to limits of length, time and silence."""
    bytes_left, deadline = _MAX_BYTES, time.monotonic() + _MAX_SECONDS
    while bytes_left > 0 and time.monotonic() < deadline:
        with anyio.move_on_after(_MAX_SILENT_SECONDS) as silence:
            message = await receive()
        if silence.cancelled_caught or not message.get("more_body", False):
            return
        bytes_left -= len(message.get("body", b""))
