"""The memory for uploads, shared by all requests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio

from langchain_image_variation.exceptions import RateLimitError

__all__ = ["DEFAULT_TOTAL_UPLOAD_BYTES", "MemoryReservation", "UploadMemory"]

DEFAULT_TOTAL_UPLOAD_BYTES = 256 * 1024 * 1024
"""Room for 32 of the longest bodies. One client gets room for at most 16."""

_RETRY_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class MemoryReservation:
    """Memory for one upload."""

    client: str
    length: int
    """The size in bytes."""
    is_granted: "asyncio.Future[None]"
    """Done once the memory may be used."""


class UploadMemory:
    """Shares the memory for uploads, from their first byte to their answer.

    An upload that does not fit waits, and its client cannot send more until then. All memory for an
    upload is reserved before it is read, so that uploads never wait for each other halfway.
    One client gets at most half of the memory.

    Args:
        total_bytes: The maximum total size of the uploads, in bytes.
        queue_place: Entered while an upload waits. It raises an error if the upload must not wait.
    """

    def __init__(
        self, total_bytes: int, queue_place: Callable[[str], AbstractContextManager[object]]
    ) -> None:
        self._total_bytes = total_bytes
        self._queue_place = queue_place
        self._client_bytes = Counter[str]()
        self._waiting: list[MemoryReservation] = []
        self.held_bytes = 0
        """The total size of the reservations, in bytes."""

    @asynccontextmanager
    async def reserve(
        self, client: str, length: int, *, timeout: float
    ) -> AsyncIterator[MemoryReservation]:
        """Wait for the memory for an upload, and keep it until the block ends.

        Args:
            client: A text that identifies the client.
            length: The maximum size of the upload, in bytes.
            timeout: How many seconds to wait.

        Raises:
            RateLimitError: If the memory is not free in time, or if `queue_place` raises one.
        """
        reservation = MemoryReservation(client, length, asyncio.get_running_loop().create_future())
        self._waiting.append(reservation)
        self._grant()
        try:
            if not reservation.is_granted.done():
                await self._wait(reservation, timeout)
            yield reservation
        finally:
            if reservation in self._waiting:
                self._waiting.remove(reservation)
                self._grant()
            else:
                self.shrink(reservation, 0)

    def shrink(self, reservation: MemoryReservation, length: int) -> None:
        """Give back the memory that an upload does not need.

        Args:
            reservation: The upload's reservation.
            length: The size that it needs, in bytes.
        """
        self._hold(reservation.client, length - reservation.length)
        reservation.length = length
        self._grant()

    async def _wait(self, reservation: MemoryReservation, timeout: float) -> None:
        with self._queue_place(reservation.client), anyio.move_on_after(timeout):
            await reservation.is_granted
            return
        error = RateLimitError(
            f"The server cannot hold more uploads now. Please try again in {_RETRY_SECONDS:g}s."
        )
        error.retry_after = _RETRY_SECONDS
        raise error

    def _grant(self) -> None:
        for reservation in list(self._waiting):
            length, client = reservation.length, reservation.client
            if self.held_bytes + length > self._total_bytes:
                # A shorter upload might fit, but then a long one could wait forever.
                return
            if self._client_bytes[client] + length > self._total_bytes // 2:
                continue
            self._waiting.remove(reservation)
            self._hold(client, length)
            if not reservation.is_granted.done():
                reservation.is_granted.set_result(None)

    def _hold(self, client: str, length: int) -> None:
        self.held_bytes += length
        self._client_bytes[client] += length
        if not self._client_bytes[client]:
            del self._client_bytes[client]
