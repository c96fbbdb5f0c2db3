"""An image of the store as a response: all of it, a part of it, or 304.

Starlette's `FileResponse` is not used because it opens the file after it has sent the headers, so
an eviction in between would cut the answer short; because it answers HEAD with 206 and an unknown
range unit with 400, against RFC 9110, section 14.2; and because its 400 and 416 are plain text.
"""

import re

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server.store.image_store import StoredImage

__all__ = ["ImageFileResponse"]

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII | re.IGNORECASE)


class ImageFileResponse(Response):
    """Sends a stored image and closes its file.

    Handles `If-None-Match`, `If-Range` and a single range of bytes (RFC 9110, sections 13.1.2,
    13.1.5 and 14.1.2). Any other `Range` is ignored, as the RFC allows. A name stands for the
    content, so it is the ETag, and there is no `Last-Modified`.

    Args:
        request: The request.
        image: The image.
        name: The name of its file.
    """

    def __init__(self, request: Request, image: StoredImage, *, name: str) -> None:
        etag = f'"{name}"'
        headers = {
            "accept-ranges": "bytes",
            "cache-control": f"private, max-age={image.seconds}, immutable",
            "etag": etag,
            "x-content-type-options": "nosniff",
        }
        self._file = image.file
        self._start, self._end = 0, image.length
        status, body, media_type = 200, None, "image/png"
        match = _RANGE.fullmatch(_range_header(request, etag))
        if _matches_etag(request.headers.get("if-none-match", ""), etag):
            status, self._end = 304, 0
        elif match is not None and (part := _byte_range(match[1], match[2], image.length)):
            self._start, self._end = part
            if self._start >= image.length:
                status, media_type = 416, "application/json"
                headers["content-range"] = f"bytes */{image.length}"
                body = _unsatisfiable_range(image.length)
                self._end = self._start
            else:
                status = 206
                headers["content-range"] = f"bytes {self._start}-{self._end - 1}/{image.length}"
        super().__init__(body, status, headers, media_type)
        if status in (200, 206):
            self.headers["content-length"] = str(self._end - self._start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._file:
            if scope["method"] == "HEAD" or self._start >= self._end:
                await super().__call__(scope, receive, send)
                return
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            await anyio.to_thread.run_sync(self._file.seek, self._start)
            bytes_left = self._end - self._start
            while bytes_left:
                size = min(_CHUNK_BYTES, bytes_left)
                chunk = await anyio.to_thread.run_sync(self._file.read, size)
                if not chunk:
                    raise EOFError("the file of an image became shorter")
                bytes_left -= len(chunk)
                message = {"type": "http.response.body", "body": chunk, "more_body": bytes_left > 0}
                await send(message)


def _range_header(request: Request, etag: str) -> str:
    """Return the `Range` that applies: only to GET, and only if `If-Range` matches."""
    if request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return ""
    return request.headers.get("range", "")


def _matches_etag(header: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in header.split(","))


def _byte_range(first: str, last: str, length: int) -> tuple[int, int] | None:
    """Return the start and end of a range, or None if it is invalid.

    The start of an unsatisfiable range is the length or more.
    """
    if first:
        start, end = int(first), min(int(last) + 1, length) if last else length
        return (start, end) if start < end or start >= length else None
    if last:
        return (max(length - int(last), 0) if int(last) else length), length
    return None


def _unsatisfiable_range(length: int) -> str:
    error = InvalidRequestError(
        f"The range starts beyond the end of the image, which has {length:,} bytes."
    )
    return ErrorResponse.from_exception(error).to_json()
