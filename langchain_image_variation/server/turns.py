"""Turns: how many requests use the engine at once, and how many wait for it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from langchain_image_variation.exceptions import RateLimitError

__all__ = ["Turns"]

_FIRST_ESTIMATE = 1.0
_WEIGHT = 0.2
"""The weight of the latest turn in the estimate of how long a turn takes."""


class Turns:
    """Gives out turns, first come, first served.

    Args:
        workers: The maximum number of turns at once.
        queue: The maximum number of requests waiting for a turn.
    """

    def __init__(self, *, workers: int, queue: int) -> None:
        self.workers = workers
        """The maximum number of turns at once."""
        self._queue = queue
        self._slots = asyncio.Semaphore(workers)
        self._typical_seconds = _FIRST_ESTIMATE
        self.running_count = 0
        """The number of turns that are taken."""
        self.waiting_count = 0
        """The number of requests waiting for a turn."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block ends.

        Raises:
            RateLimitError: Immediately, if the queue is full. `retry_after` estimates when there
                will be room.
        """
        if self._slots.locked():
            with self.queue_place():
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        self.running_count += 1
        start = time.monotonic()
        try:
            yield
            seconds = time.monotonic() - start
            self._typical_seconds += _WEIGHT * (seconds - self._typical_seconds)
        finally:
            self.running_count -= 1
            self._slots.release()

    @contextmanager
    def queue_place(self) -> Iterator[None]:
        """Count as a waiting request until the block ends.

        Raises:
            RateLimitError: See `turn`.
        """
        if self.waiting_count >= self._queue:
            raise self._full_queue_error()
        self.waiting_count += 1
        try:
            yield
        finally:
            self.waiting_count -= 1

    def check_queue(self) -> None:
        """Check that a request could take a turn or wait for one now.

        Raises:
            RateLimitError: See `turn`.
        """
        if self._slots.locked() and self.waiting_count >= self._queue:
            raise self._full_queue_error()

    def _full_queue_error(self) -> RateLimitError:
        seconds = max(1, math.ceil(self._typical_seconds * (self.waiting_count + 1) / self.workers))
        error = RateLimitError(
            f"The queue is full: {self.waiting_count} requests are waiting, the most that this "
            f"server allows. Please try again in {seconds}s."
        )
        error.retry_after = float(seconds)
        return error
