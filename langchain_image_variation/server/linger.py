"""An answer that comes before its request's body has ended: it is not lost, and the reading ends.

Closing a connection on which something unread arrives breaks it, and many clients then lose the
answer that they had not read yet (RFC 9112, section 9.6). So the answer goes out whole, what still
comes is read and dropped for a while, and only then the connection is closed.
"""

import time

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Linger"]

_MOST_BYTES = 32 * 1024 * 1024
_MOST_SECONDS = 10.0
_MOST_SILENCE = 1.0


class Linger:
    """An ASGI middleware, outside of whatever answers.

    Args:
        app: What is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        ended = False

        async def receive_marked() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def send_marked(message: Message) -> None:
            if ended:
                await send(message)
            elif message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if pair[0].lower() != b"connection"]
                await send({**message, "headers": [*others, (b"connection", b"close")]})
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _drop(receive_marked)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive_marked, send_marked)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _drop(receive: Receive) -> None:
    """Read and drop what still comes, within limits of length, time and silence."""
    left, until = _MOST_BYTES, time.monotonic() + _MOST_SECONDS
    while left > 0 and time.monotonic() < until:
        with anyio.move_on_after(_MOST_SILENCE) as silence:
            message = await receive()
        if silence.cancelled_caught or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
