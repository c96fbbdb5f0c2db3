"""Whose turn it is: so many engine calls at once, so many waiting, first come first served."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, Generic, TypeVar

import anyio

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)

__all__ = ["EngineQueue"]

T = TypeVar("T")


class EngineQueue:
    """Calls an engine for as many requests at once as it may, and lets a few more wait.

    Args:
        engine: What makes the variations.
        workers: The most calls at once.
        limit: The most requests that wait.
    """

    def __init__(
        self, engine: VariationEngine | AsyncVariationEngine, *, workers: int, limit: int
    ) -> None:
        self._engine = engine
        self.workers = workers
        """The most calls at once."""
        self._limit = limit
        self._slots = asyncio.Semaphore(workers)
        self._usual_seconds = 1.0
        self.running = 0
        """How many calls run."""
        self.waiting = 0
        """How many requests wait."""

    async def call(
        self, request: CreateImageVariationRequest, finish: Callable[[ImagesResponse], T]
    ) -> T:
        """Call the engine when it is this request's turn. Cancelling frees the place.

        Args:
            request: What to ask the engine.
            finish: Makes of the engine's answer what is returned, in the engine's thread: it works
                on whole pictures too.

        Raises:
            RateLimitError: At once, if as many requests wait already as may; `retry_after` is the
                seconds until there should be room.
            ImageVariationError: What the engine or `finish` raises.
        """
        if self._slots.locked():
            with self.seat():
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        self.running += 1
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        give_back = partial(loop.call_soon_threadsafe, self._release)
        turn = _Turn(self._engine, finish, give_back)
        try:
            await call_engine_async(turn, request)
        except (AuthenticationError, NotFoundError, PermissionDeniedError) as error:
            # Of a hosted engine: our clients' keys and addresses are all right.
            raise EngineError("The engine cannot be used as it is set up.") from error
        finally:
            if turn.leave():
                self._release()
        self._usual_seconds += 0.2 * (time.monotonic() - start - self._usual_seconds)
        return turn.finished

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Count as one that waits.

        Raises:
            RateLimitError: As `call`.
        """
        if self.waiting >= self._limit:
            raise self._full()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def check_room(self) -> None:
        """Do nothing if a call could run or wait now.

        Raises:
            RateLimitError: As `call`.
        """
        if self._slots.locked() and self.waiting >= self._limit:
            raise self._full()

    def _release(self) -> None:
        self.running -= 1
        self._slots.release()

    def _full(self) -> RateLimitError:
        seconds = max(1, math.ceil(self._usual_seconds * (self.waiting + 1) / self.workers))
        error = RateLimitError(
            f"{self.waiting} requests wait already, the most that may. Please try again in "
            f"{seconds}s."
        )
        error.retry_after = float(seconds)
        return error


class _Turn(Generic[T]):
    """One call of an engine that gives its slot back when it is over, in whatever thread.

    A cancelled caller goes at once, but the engine's thread only when it notices; until then its
    slot is taken.
    """

    def __init__(
        self,
        engine: VariationEngine | AsyncVariationEngine,
        finish: Callable[[ImagesResponse], T],
        give_back: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._finish = finish
        self._give_back = give_back
        self._lock = threading.Lock()
        self._runs = False
        self._left = False
        self.finished: T
        """What `finish` made of the answer."""

    def create_variation(self, request: CreateImageVariationRequest) -> Any:
        with self._lock:
            if self._left:
                raise asyncio.CancelledError
            self._runs = True
        try:
            answer: Any = self._engine.create_variation(request)
            if isawaitable(answer):
                return self._awaited(answer)
            self.finished = self._finish(answer)
            return answer
        finally:
            self._over()

    def leave(self) -> bool:
        """Say that nobody waits any more, and whether the slot is free: else it will be given back.

        This way a call that ends while it is waited for need not wake the loop once more.
        """
        with self._lock:
            self._left = True
            return not self._runs

    async def _awaited(self, answer: Any) -> ImagesResponse:
        # Not before: nothing would end what was left before it began.
        self._runs = True
        try:
            response: ImagesResponse = await answer
            # Not by asyncio's threads, which engines take.
            self.finished = await anyio.to_thread.run_sync(self._finish, response)
            return response
        finally:
            self._over()

    def _over(self) -> None:
        with self._lock:
            self._runs = False
            left = self._left
        if left:
            self._give_back()
