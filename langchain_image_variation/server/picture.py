"""A picture of the store as an answer: whole, in part, or not at all if the client has it."""

import re
from typing import BinaryIO

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["PictureAnswer"]

_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII | re.IGNORECASE)


class PictureAnswer(Response):
    """Sends an open file and closes it.

    What is asked for is that of RFC 9110: `If-None-Match` (section 13.1.2), `If-Range` (13.1.5) and
    one range of bytes (14.1.2). Any other `Range` is ignored, as it may be. Addresses name what the
    picture holds, so the name is its ETag, and there is no date.

    Args:
        request: What is answered.
        file: The picture, open.
        length: Its bytes.
        name: What no other picture is called.
        seconds: For so long the address works.
    """

    def __init__(
        self, request: Request, file: BinaryIO, *, length: int, name: str, seconds: int
    ) -> None:
        tag = f'"{name}"'
        headers = {
            "accept-ranges": "bytes",
            "cache-control": f"private, max-age={seconds}, immutable",
            "etag": tag,
            "x-content-type-options": "nosniff",
        }
        self._file = file
        self._first, self._end = 0, length
        status, body, media_type = 200, None, "image/png"
        # Only of GET is it defined what part of it would be.
        asked = request.headers.get("range", "") if request.method == "GET" else ""
        wanted = _RANGE.fullmatch(asked)
        if _names(request.headers.get("if-none-match", ""), tag):
            status, self._end = 304, 0
        elif wanted and request.headers.get("if-range", tag) == tag:
            self._first, self._end = _part(wanted[1], wanted[2], length)
            if self._first >= length:
                status, media_type = 416, "application/json"
                headers["content-range"] = f"bytes */{length}"
                body = _no_such_part(length)
                self._end = self._first
            elif self._first < self._end:
                status = 206
                headers["content-range"] = f"bytes {self._first}-{self._end - 1}/{length}"
            else:
                self._first, self._end = 0, length
        super().__init__(body, status, headers, media_type)
        if status in (200, 206):
            self.headers["content-length"] = str(self._end - self._first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file:
            if scope["method"] == "HEAD" or self._first >= self._end:
                await super().__call__(scope, receive, send)
                return
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            await anyio.to_thread.run_sync(self._file.seek, self._first)
            left = self._end - self._first
            while left:
                piece = await anyio.to_thread.run_sync(self._file.read, min(_PIECE, left))
                if not piece:
                    raise EOFError("a picture became shorter")
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})


def _names(header: str, tag: str) -> bool:
    tags = (part.strip().removeprefix("W/") for part in header.split(","))
    return any(given in ("*", tag) for given in tags)


def _part(first: str, last: str, length: int) -> tuple[int, int]:
    """Return where a range begins and ends; an empty one is none."""
    if first:
        return int(first), min(int(last) + 1, length) if last else length
    if last:
        return (max(length - int(last), 0) if int(last) else length), length
    return 0, 0


def _no_such_part(length: int) -> str:
    error = InvalidRequestError(f"The picture has no such part; it has {length:,} bytes.")
    return ErrorResponse.from_exception(error).to_json()
