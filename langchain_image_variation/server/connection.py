"""A client's connection, which is closed when the client does not go on.

uvicorn itself waits for ever for the rest of a request's head, and for a client that does not read.
A client that ends its sending side before it has the answer counts as gone: nothing tells the two
apart while the answer is made.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CROWDED", "Connection"]

CROWDED = "crowded"
"""In the state of requests whose connection is one too many; they are to be refused."""

_LEAST_BYTES = 64 * 1024


class Connection(H11Protocol):
    """One connection of so many.

    Args:
        most: The most connections at once. What comes beyond is told so, and what comes beyond
            those by a quarter is closed at once.
        settings: What uvicorn passes.
    """

    def __init__(self, *, most: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._most = most
        self._since = self.loop.time()
        self._answered: object = None
        self._unsent = 0
        self._moved = False
        self._crowded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Begin, unless there are far too many."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._crowded = True
            self.app_state = {**self.app_state, CROWDED: True}
        if len(self.connections) > self._most * 5 // 4:
            transport.abort()

    def resume_writing(self) -> None:
        """Go on when the client has read some of the answer."""
        self._moved = True
        super().resume_writing()

    def check(self, patience: float) -> None:
        """Close the connection if the client is to blame that nothing moved for so many seconds.

        Either it has not sent the head of a request, or it takes less than 64 KB of an answer. The
        body of a request has a limit of its own.
        """
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        waits = unsent > 0 or self.cycle is None or self.cycle.response_complete
        if (
            not waits
            or self._moved
            or self.cycle is not self._answered
            or (unsent > 0) != (self._unsent > 0)
            or unsent + _LEAST_BYTES <= self._unsent
        ):
            self._since, self._unsent, self._answered, self._moved = now, unsent, self.cycle, False
            return
        self._unsent = max(unsent, self._unsent)
        if now - self._since > (patience / 10 if self._crowded else patience):
            self.transport.abort()
