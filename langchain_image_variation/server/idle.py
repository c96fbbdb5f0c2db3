"""Connections that are closed when they are idle, or when there are too many of them.

uvicorn waits forever for the head of a request, and for a client that does not read its answer. Its
`limit_concurrency` is not used because it counts a connection only once a request has arrived, logs
a line for each refusal, and refuses in plain text without `Retry-After`, before the body is read.

A client that closes its sending side before it has the answer counts as gone. While the answer is
being made, the two cannot be told apart.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CROWDED_KEY", "Connection"]

CROWDED_KEY = "crowded"
"""A key in the state of requests that must be refused because there are too many connections."""

_MIN_BYTES = 64 * 1024
"""How much of an answer a client must read for the connection not to be idle."""


class Connection(H11Protocol):
    """A connection with a client.

    Args:
        max_connections: The maximum number of connections served at once. Requests on additional
            ones are marked as `CROWDED_KEY`. Connections that exceed the limit by 25 % are closed
            immediately.
        settings: What uvicorn passes.
    """

    def __init__(self, *, max_connections: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_connections = max_connections
        self._active_time = self.loop.time()
        self._last_cycle: object = None
        self._unsent_bytes = 0
        self._was_read = False
        self._is_crowded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Serve the connection, unless there are far too many."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._is_crowded = True
            self.app_state = {**self.app_state, CROWDED_KEY: True}
        if len(self.connections) > self._max_connections * 5 // 4:
            transport.abort()

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
