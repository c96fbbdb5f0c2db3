"""The response that carries the answer to a request for variations."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["FAILED_IMAGES_HEADER", "AnswerResponse"]

FAILED_IMAGES_HEADER = "x-failed-images"
"""How many of the requested images the answer lacks. Answers with all of them do not have it."""

_PIECE_BYTES = 256 * 1024


class AnswerResponse(Response):
    """Sends the body of an answer piece by piece, as the client reads it.

    An answer can have 40 MB, and many requests with the same `Idempotency-Key` may share it. If an
    ASGI server gets the whole body at once, it keeps a copy for each client that does not read it.
    """

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        length = len(self.body)
        for first in range(0, length, _PIECE_BYTES):
            end = first + _PIECE_BYTES
            message = {"body": self.body[first:end], "more_body": end < length}
            await send({"type": "http.response.body", **message})
