"""Connections: limits on what a client may cost before its request reaches the app.

A connection is closed if it is idle, if there are too many, or if its client sends a body in tiny
chunks or too many headers.

uvicorn waits forever for the head of a request, and for a client that does not read its answer. We
do not use its `limit_concurrency`, because it counts a connection only once a request has arrived,
logs a line for each refusal, and refuses in plain text without `Retry-After`, before the body is
read.

A client that closes its sending side before it has the answer counts as gone, because the two look
the same while the answer is being made.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = [
    "CROWDED_KEY",
    "FREE_CHUNKS",
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "MIN_MEAN_CHUNK_BYTES",
    "Connection",
]

CROWDED_KEY = "crowded"
"""Set in the state of requests that must be refused because there are too many connections."""

MIN_MEAN_CHUNK_BYTES = 64
"""The minimum average size of a body's chunks, in bytes, after the first `FREE_CHUNKS`.

h11 takes several microseconds per chunk, however small, and the server does nothing else meanwhile:
a few megabytes in one-byte chunks took 20 seconds. Clients send chunks of 8 KB or more. Even a
client that sends an image file line by line has 256 bytes per chunk."""

MAX_HEADERS = 100
"""The maximum number of headers of a request, as in Apache. Browsers send about 20."""
MAX_HEAD_BYTES = 16 * 1024
"""The maximum total length of a request's headers, in bytes: h11's own limit."""

FREE_CHUNKS = 1024
"""The number of chunks of a body that may have any size."""
# As h11 defines it. The line break before it ends the last header.
_HEAD_END = re.compile(rb"\n\r?\n")
_MIN_BYTES = 64 * 1024
"""How much of an answer a client must read for the connection not to be idle."""
_MAX_DROPPED_BYTES = 32 * 1024 * 1024
_MAX_DROPPING_SECONDS = 10.0


class Connection(H11Protocol):
    """A connection with a client.

    Args:
        max_connections: The maximum number of connections served at once. Requests on additional
            ones are marked as `CROWDED_KEY`. Connections that exceed the limit by 25 % are closed
            immediately.
        settings: What uvicorn passes.
    """

    conn: "_Parser"

    def __init__(self, *, max_connections: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.conn = _Parser(h11.SERVER)
        self._max_connections = max_connections
        self._active_time = self.loop.time()
        self._last_cycle: object = None
        self._unsent_bytes = 0
        self._was_read = False
        self._is_crowded = False
        self._is_refused = False
        self._dropped_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Serve the connection, unless the limit is far exceeded."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._is_crowded = True
            self.app_state = {**self.app_state, CROWDED_KEY: True}
        if len(self.connections) > self._max_connections * 5 // 4:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, or drop it if the client was refused."""
        if not self._is_refused:
            super().data_received(data)
            return
        self._dropped_bytes += len(data)
        if self._dropped_bytes > _MAX_DROPPED_BYTES:
            self.transport.abort()

    def handle_events(self) -> None:
        """Handle what the parser has found. Refuse a request that takes too long to parse."""
        super().handle_events()
        if self.conn.refusal is not None and not self._is_refused:
            self._refuse(self.conn.refusal)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP."""
        self._refuse(InvalidRequestError(msg))

    def _refuse(self, error: InvalidRequestError) -> None:
        """Answer a request that does not reach the app, and close the connection.

        The sending side is closed at once, for clients that read to the end. Further data is
        dropped for a while without being parsed. If the receiving side were closed too, the
        connection would be reset, and the client could lose the answer.
        """
        self._is_refused = True
        # An answer that has been started is not interrupted.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = ErrorResponse.from_exception(error).to_json().encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            reason = HTTPStatus(error.status_code).phrase.encode()
            response = h11.Response(status_code=error.status_code, headers=headers, reason=reason)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
            self.transport.write_eof()
        if self.cycle is not None:
            # For the app, the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        self.loop.call_later(_MAX_DROPPING_SECONDS, self.transport.abort)

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore a request for another protocol, as RFC 9110 allows, without two log lines."""

    def resume_writing(self) -> None:
        """Continue once the client has read some of the answer."""
        self._was_read = True
        super().resume_writing()

    def close_if_idle(self, idle_timeout: float) -> None:
        """Close the connection if the client has kept the server waiting for too long.

        The client is idle if it has not sent the whole head of a request, or has read less than
        64 KB of its answer. The time to send a body is limited elsewhere.

        Args:
            idle_timeout: The seconds that a client may be idle. A crowded connection gets a tenth.
        """
        now = self.loop.time()
        unsent_bytes = self.transport.get_write_buffer_size()
        is_waiting = unsent_bytes > 0 or self.cycle is None or self.cycle.response_complete
        if (
            not is_waiting
            or self._was_read
            or self.cycle is not self._last_cycle
            or (unsent_bytes > 0) != (self._unsent_bytes > 0)
            or unsent_bytes + _MIN_BYTES <= self._unsent_bytes
        ):
            self._active_time, self._unsent_bytes = now, unsent_bytes
            self._last_cycle, self._was_read = self.cycle, False
            return
        self._unsent_bytes = max(unsent_bytes, self._unsent_bytes)
        if now - self._active_time > (idle_timeout / 10 if self._is_crowded else idle_timeout):
            self.transport.abort()


class _Parser(h11.Connection):
    """Parses the requests of one connection, and stops at one that takes too long to parse."""

    refusal: InvalidRequestError | None = None
    """Why the parser has stopped."""
    _chunk_count = 0
    _body_bytes = 0

    def next_event(self) -> Any:
        """Return the next event, or `h11.PAUSED` once the parser has stopped."""
        if self.refusal is None and self.their_state is h11.IDLE:
            self._check_head()
        if self.refusal is not None:
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunk_count = self._body_bytes = 0
        elif isinstance(event, h11.Data):
            self._check_chunk(event)
        return event

    def _check_head(self) -> None:
        # h11 limits the length of a head only until its end has arrived.
        data = self.trailing_data[0]
        end = _HEAD_END.search(data)
        length = len(data) if end is None else end.start()
        if length > MAX_HEAD_BYTES or data.count(b"\n", 0, length) > MAX_HEADERS:
            self.refusal = InvalidRequestError(
                f"The request has more than {MAX_HEADERS} headers, or more than "
                f"{MAX_HEAD_BYTES:,} bytes of headers. Send fewer."
            )
            self.refusal.status_code = 431

    def _check_chunk(self, event: h11.Data) -> None:
        self._chunk_count += event.chunk_start
        self._body_bytes += len(event.data)
        if (self._chunk_count - FREE_CHUNKS) * MIN_MEAN_CHUNK_BYTES > self._body_bytes:
            self.refusal = InvalidRequestError(
                f"The body arrives in chunks of fewer than {MIN_MEAN_CHUNK_BYTES} bytes on average."
                " Send larger chunks, or a Content-Length."
            )
