"""Whose turn it is: so many engine calls at once, so many waiting, first come first served."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import (
    AsyncVariationEngine,
    VariationEngine,
    call_engine_async,
)
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)

__all__ = ["EngineQueue"]


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

    async def call(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Call the engine when it is this request's turn. Cancelling frees the place.

        Raises:
            RateLimitError: At once, if as many requests wait already as may; `retry_after` is the
                seconds until there should be room.
            ImageVariationError: What the engine raises.
        """
        if self._slots.locked() and self.waiting >= self._limit:
            raise self._full()
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        turn = _Turn(self._engine, lambda: loop.call_soon_threadsafe(self._release))
        try:
            answer = await call_engine_async(turn, request)
        except (AuthenticationError, NotFoundError, PermissionDeniedError) as error:
            # Of a hosted engine: our clients' keys and addresses are all right.
            raise EngineError("The engine cannot be used as it is set up.") from error
        finally:
            turn.abandon()
        self._usual_seconds += 0.2 * (time.monotonic() - start - self._usual_seconds)
        return answer

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


class _Turn:
    """One call of an engine that gives its slot back when it is over, in whatever thread.

    A cancelled caller goes at once, but the engine's thread only when it notices; until then its
    slot is taken.
    """

    def __init__(
        self, engine: VariationEngine | AsyncVariationEngine, release: Callable[[], object]
    ) -> None:
        self._engine = engine
        self._release: Callable[[], object] | None = release
        self._lock = threading.Lock()
        self._begun = False

    def create_variation(self, request: CreateImageVariationRequest) -> Any:
        with self._lock:
            if self._release is None:
                raise asyncio.CancelledError
            self._begun = True
        answer = None
        try:
            answer = self._engine.create_variation(request)
        finally:
            if not isawaitable(answer):
                self._over()
        return self._awaited(answer) if isawaitable(answer) else answer

    def abandon(self) -> None:
        """Give the slot back if the call has not begun, and never will."""
        with self._lock:
            begun = self._begun
        if not begun:
            self._over()

    async def _awaited(self, answer: Any) -> ImagesResponse:
        try:
            response: ImagesResponse = await answer
            return response
        finally:
            self._over()

    def _over(self) -> None:
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()
