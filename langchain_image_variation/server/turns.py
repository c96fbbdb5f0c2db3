"""Turns: how many requests use the engine at once, how many wait, and which one is next."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import anyio

from langchain_image_variation.exceptions import RateLimitError

__all__ = ["Turns"]

_FIRST_ESTIMATE = 1.0
_WEIGHT = 0.2
"""The weight of the latest turn in the estimate of how long a turn takes."""


@dataclass(eq=False, slots=True)
class _Place:
    """A place in the queue."""

    client: "_Client"
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled when another client gets the place."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that waits for a turn."""

    pixels: int
    place: _Place
    turn: "asyncio.Future[None]"
    """Done once it is the request's turn."""


@dataclass(eq=False, slots=True)
class _Client:
    """The requests of one client."""

    running_count: int = 0
    last_turn: int = 0
    """The number of its last turn."""
    places: list[_Place] = field(default_factory=list)
    waiters: deque[_Waiter] = field(default_factory=deque)


class Turns:
    """Gives out turns, and shares them fairly among clients.

    The next turn goes to the client with the fewest turns in progress. Among equals, it goes to the
    one whose last turn was longest ago. Requests of one client keep their order. So if a client
    sends many requests, others wait for its turns in progress, but not for its queue.

    When the queue is full, a request of a client with fewer waiting requests replaces the latest
    request of the client with the most.

    Args:
        workers: The maximum number of turns at once.
        queue: The maximum number of requests waiting.
        total_pixels: The maximum total pixels of the images whose turn it is. The next request
            waits until its image fits. A larger image gets a turn on its own.
    """

    def __init__(self, *, workers: int, queue: int, total_pixels: int) -> None:
        self.workers = workers
        """The maximum number of turns at once."""
        self._queue = queue
        self._total_pixels = total_pixels
        self._running_pixels = 0
        self._turn_number = 0
        self._clients: dict[str, _Client] = {}
        self._typical_seconds = _FIRST_ESTIMATE
        self.running_count = 0
        """The number of turns that are taken."""
        self.waiting_count = 0
        """The number of requests waiting."""

    @asynccontextmanager
    async def turn(self, client: str, pixels: int) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block ends.

        Args:
            client: A text that identifies the client.
            pixels: The number of pixels of the request's image.

        Raises:
            RateLimitError: If the queue is full, or another client takes the place in it.
                `retry_after` estimates when there will be room.
        """
        with self._use_client(client) as this_client:
            if self._next_client() is not None or not self._has_room(pixels):
                await self._wait(client, this_client, pixels)
            else:
                self._start(this_client, pixels)
            start = time.monotonic()
            try:
                yield
                seconds = time.monotonic() - start
                self._typical_seconds += _WEIGHT * (seconds - self._typical_seconds)
            finally:
                self._end(this_client, pixels)

    @contextmanager
    def queue_place(self, client: str) -> Iterator[_Place]:
        """Count as a waiting request until the block ends. The block must be cancellable.

        Args:
            client: A text that identifies the client.

        Raises:
            RateLimitError: See `turn`.
        """
        with self._use_client(client) as this_client:
            if self.waiting_count >= self._queue:
                largest = self._client_to_evict(this_client)
                if largest is None:
                    raise self._full_queue_error()
                evicted = largest.places[-1]
                self._leave(evicted)
                evicted.scope.cancel()
            place = _Place(this_client)
            this_client.places.append(place)
            self.waiting_count += 1
            try:
                with place.scope:
                    yield place
            finally:
                self._leave(place)
            if place.scope.cancelled_caught:
                raise self._full_queue_error()

    def check_queue(self, client: str) -> None:
        """Check that a request could take a turn or wait for one now.

        Args:
            client: A text that identifies the client.

        Raises:
            RateLimitError: See `turn`.
        """
        with self._use_client(client) as this_client:
            is_busy = self.running_count >= self.workers or self._next_client() is not None
            is_full = self.waiting_count >= self._queue
            if is_busy and is_full and self._client_to_evict(this_client) is None:
                raise self._full_queue_error()

    @contextmanager
    def _use_client(self, name: str) -> Iterator[_Client]:
        """Yield a client. It is forgotten once none of its requests waits or has a turn."""
        client = self._clients.setdefault(name, _Client())
        try:
            yield client
        finally:
            if not client.running_count and not client.places:
                self._clients.pop(name, None)

    async def _wait(self, name: str, client: _Client, pixels: int) -> None:
        with self.queue_place(name) as place:
            waiter = _Waiter(pixels, place, asyncio.get_running_loop().create_future())
            client.waiters.append(waiter)
            self._give_turns()
            try:
                await waiter.turn
            except asyncio.CancelledError:
                if waiter in client.waiters:
                    client.waiters.remove(waiter)
                    self._give_turns()
                else:
                    self._end(client, pixels)
                raise

    def _give_turns(self) -> None:
        """Give turns to the requests that are next, while there is room."""
        while (client := self._next_client()) is not None:
            waiter = client.waiters[0]
            if not self._has_room(waiter.pixels):
                return
            client.waiters.popleft()
            self._leave(waiter.place)
            self._start(client, waiter.pixels)
            waiter.turn.set_result(None)

    def _next_client(self) -> _Client | None:
        # A request that was cancelled or lost its place leaves once its task continues.
        waiting = [
            client
            for client in self._clients.values()
            if client.waiters and not client.waiters[0].turn.done()
        ]
        return min(waiting, key=lambda c: (c.running_count, c.last_turn), default=None)

    def _has_room(self, pixels: int) -> bool:
        fits = self._running_pixels + pixels <= self._total_pixels or not self.running_count
        return fits and self.running_count < self.workers

    def _start(self, client: _Client, pixels: int) -> None:
        self._turn_number += 1
        client.last_turn = self._turn_number
        client.running_count += 1
        self.running_count += 1
        self._running_pixels += pixels

    def _end(self, client: _Client, pixels: int) -> None:
        client.running_count -= 1
        self.running_count -= 1
        self._running_pixels -= pixels
        self._give_turns()

    def _leave(self, place: _Place) -> None:
        if place in place.client.places:
            place.client.places.remove(place)
            self.waiting_count -= 1

    def _client_to_evict(self, client: _Client) -> _Client | None:
        """Return the client with the most waiting requests, if this one has at least two fewer."""
        largest = max(self._clients.values(), key=lambda c: len(c.places))
        return largest if len(largest.places) > len(client.places) + 1 else None

    def _full_queue_error(self) -> RateLimitError:
        seconds = max(1, math.ceil(self._typical_seconds * (self.waiting_count + 1) / self.workers))
        count = self.waiting_count
        if count == 0:
            reason = "The server is busy, and queues no requests."
        else:
            waiting = "1 request is" if count == 1 else f"{count} requests are"
            reason = f"The queue is full: {waiting} waiting, which is the maximum."
        error = RateLimitError(f"{reason} Please try again in {seconds}s.")
        error.retry_after = float(seconds)
        return error
