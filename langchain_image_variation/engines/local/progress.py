"""Tracks the progress of one request's threads, and stops all of them when one fails."""

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from langchain_image_variation.engines.context import ProgressReporter
from langchain_image_variation.exceptions import EngineError

__all__ = ["POLL_SECONDS", "RequestProgress", "Step", "ignore_step"]

Step: TypeAlias = Callable[[float], None]
"""Called between the steps of some work with the share of it that is done, up to 1. An error that
it raises ends the work."""

POLL_SECONDS = 0.1
"""How often a thread that waits checks whether the request was cancelled."""

_BACKLOG = 4
"""How many shares are kept for a listener that is slower than the work. Older ones are dropped."""


def ignore_step(share: float) -> None:
    """Do nothing: the `Step` of work whose progress nobody follows."""


class RequestProgress:
    """Adds up what the threads of one request have done, for the thread that waits for them.

    Only the waiting thread calls the listener. The others serve all requests of the process, so
    they must not wait for the listener of one.

    It remembers that a request was stopped, but not the exception: a stored exception would keep
    alive everything that its frames hold.

    Args:
        images: How many images the request asks for.
        reporter: Takes the progress of the request.
        is_cancelled: Returns whether the answer is no longer wanted. The request then stops.
    """

    def __init__(
        self,
        images: int,
        reporter: ProgressReporter,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock = threading.Lock()
        self._shares = [0.0] * images
        self._latest_total = -1.0
        self._unreported_totals: deque[float] = deque(maxlen=_BACKLOG)
        self._unreported_images: deque[int] = deque()
        self._change_event = threading.Event()
        self._reporter = reporter
        self._is_cancelled = is_cancelled
        self._is_stopped = False

    def report(self, image: int, share: float) -> None:
        """Record, from any thread, how much of an image is done.

        Raises:
            EngineError: If the request was cancelled or stopped.
        """
        self.check()
        with self._lock:
            self._shares[image] = max(self._shares[image], share)
            total = sum(self._shares) / len(self._shares)
            if total <= self._latest_total:
                return
            self._latest_total = total
            self._unreported_totals.append(total)
        self._change_event.set()

    def finish(self, image: int) -> None:
        """Record, from any thread, that an image is finished.

        Raises:
            EngineError: If the request was cancelled or stopped.
        """
        self._unreported_images.append(image)
        self.report(image, 1.0)
        self._change_event.set()

    def check(self) -> None:
        """Raise an `EngineError` if the request was cancelled or stopped."""
        if self._is_stopped:
            raise EngineError("The request was stopped.")
        if self._is_cancelled():
            raise EngineError("The request was cancelled.")

    def stop(self) -> None:
        """Make the next `report` of every thread raise."""
        self._is_stopped = True

    def wake(self) -> None:
        """Make `wait_until` look at its condition again."""
        self._change_event.set()

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Pass reports to the listener until a condition is true. Each `wake` checks it again.

        Raises:
            BaseException: What the listener or `is_ready` raised.
            EngineError: If the request was cancelled.
        """
        while True:
            # The order matters. A change after this line wakes the next wait, and `_tell_listener`
            # passes on every change before it.
            self._change_event.clear()
            ready = is_ready()
            self._tell_listener()
            if ready:
                return
            self._change_event.wait(POLL_SECONDS)
            self.check()

    def _tell_listener(self) -> None:
        while self._unreported_images:
            self._unreported_images.popleft()
            self._reporter.image_finished()
        while self._unreported_totals:
            self._reporter.work_done(self._unreported_totals.popleft())
