"""How far a request is, across threads, and stopping all of them when one fails."""

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from langchain_image_variation.exceptions import EngineError

__all__ = ["LOOK_EVERY", "Progress", "Step", "untold"]

Step: TypeAlias = Callable[[float], None]
"""Called between the steps of some work with the share of it that is done, up to 1. What it raises
ends the work."""

LOOK_EVERY = 0.1
"""Seconds after which whoever waits looks whether the answer is still wanted."""

_BACKLOG = 4
"""So many shares are kept for a listener that is slower than the work; older ones are left out."""


def untold(share: float) -> None:
    """Tell nobody."""


class Progress:
    """Adds up what the threads of one request have done, for whoever waits for them.

    Only the thread that waits tells the listener: the others serve all requests of the process, and
    must not wait for one's listener. Of what stopped the request nothing is kept but the fact, as
    a kept exception would keep all that its frames hold.

    Args:
        pictures: How many pictures the request asks for.
        listener: Called with the share of all work that is done: rising, 1.0 at the end.
        cancelled: Says whether the answer is no longer wanted; then the request stops.
        finished: Called each time a picture is finished.
    """

    def __init__(
        self,
        pictures: int,
        listener: Callable[[float], None] | None,
        cancelled: Callable[[], bool] = lambda: False,
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()
        self._done = [0.0] * pictures
        self._latest = -1.0
        self._untold: deque[float] = deque(maxlen=_BACKLOG)
        self._news = threading.Event()
        self._listener = listener
        self._finished = finished
        self._unsaid: deque[int] = deque()
        self._cancelled = cancelled
        self._stopped = False

    def report(self, picture: int, done: float) -> None:
        """Say, from any thread, that of a picture this share is done.

        Raises:
            EngineError: If the request was cancelled or stopped.
        """
        self.check()
        with self._lock:
            self._done[picture] = max(self._done[picture], done)
            total = sum(self._done) / len(self._done)
            if total <= self._latest:
                return
            self._latest = total
            self._untold.append(total)
        self._news.set()

    def finish(self, picture: int) -> None:
        """Say, from any thread, that a picture is finished.

        Raises:
            EngineError: If the request was cancelled or stopped.
        """
        self._unsaid.append(picture)
        self.report(picture, 1.0)
        self._news.set()

    def check(self) -> None:
        """Raise an `EngineError` if the request was cancelled or stopped."""
        if self._stopped:
            raise EngineError("The request was stopped.")
        if self._cancelled():
            raise EngineError("The request was cancelled.")

    def stop(self) -> None:
        """Make the next report of every thread raise."""
        self._stopped = True

    def wake(self) -> None:
        """Make whoever waits look again."""
        self._news.set()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Tell the listener all there is to tell until `ready`, asked at each `wake`, says True.

        Raises:
            BaseException: What the listener or `ready` raised.
            EngineError: If the request was cancelled.
        """
        while True:
            # In this order: what happens after the look is news, and all before it is told.
            self._news.clear()
            last = ready()
            self._tell()
            if last:
                return
            self._news.wait(LOOK_EVERY)
            self.check()

    def _tell(self) -> None:
        while self._unsaid:
            self._unsaid.popleft()
            self._finished()
        while self._untold:
            share = self._untold.popleft()
            if self._listener is not None:
                self._listener(share)
