"""How far a request is, across threads, and stopping all of them when one fails."""

import threading
from collections.abc import Callable

from langchain_image_variation.exceptions import EngineError

__all__ = ["Progress"]


class Progress:
    """Adds up what the threads of one request have done, and tells one listener, one at a time.

    Args:
        pictures: How many pictures the request asks for.
        listener: Called with the share of all work that is done: rising, never twice at once, 1.0
            at the end. What it raises stops the request.
        cancelled: Says whether the answer is still wanted; if not, the request stops too.
    """

    def __init__(
        self,
        pictures: int,
        listener: Callable[[float], None] | None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock = threading.Lock()
        self._done = [0.0] * pictures
        self._told = -1.0
        self._listener = listener
        self._cancelled = cancelled
        self.failure: BaseException | None = None
        """What stopped the request, if anything did."""

    def report(self, picture: int, done: float) -> None:
        """Say that of a picture this share is done.

        Raises:
            BaseException: What the listener raised, here or in another thread.
            EngineError: If the request was cancelled.
        """
        with self._lock:
            if self.failure is None and self._cancelled():
                self.failure = EngineError("The request was cancelled.")
            if self.failure is not None:
                raise self.failure
            self._done[picture] = max(self._done[picture], done)
            total = sum(self._done) / len(self._done)
            if self._listener is None or total <= self._told:
                return
            self._told = total
            try:
                self._listener(total)
            except BaseException as error:
                self.failure = error
                raise

    def stop(self, failure: BaseException) -> None:
        """Make the next report of every thread raise this failure, unless there was one before."""
        with self._lock:
            self.failure = self.failure or failure
