"""The context of a call, for its engine: whether to end it early, and where to report progress.

`call_engine` and `call_engine_async` set it for the length of a call, apart from `stop_request`,
which their caller sets. An engine reads it in `create_variation`, so its one method needs no
further parameters.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

from langchain_image_variation.cancellation import cancel_after, cancellation, stop_request

__all__ = [
    "Progress",
    "ProgressListener",
    "ProgressReporter",
    "call_context",
    "cancellation",
    "progress_reporter",
    "stop_request",
]


class Progress(NamedTuple):
    """How far an engine is with one request."""

    finished: int
    """How many images are finished."""
    n: int
    """How many images the request asks for."""
    share: float
    """How much of the whole work is done, from 0 to 1. It never falls."""
    activity: str | None = None
    """What the engine is doing before it makes images, such as "loading unet". Otherwise None."""


ProgressListener: TypeAlias = Callable[[Progress], None]


class ProgressReporter:
    """Passes an engine's progress on to the listener of the call, from any thread.

    The listener sees one report after another: `finished` and `share` never fall, and every number
    of finished images is reported once.

    Args:
        n: How many images the request asks for.
        listener: Called with each report. None ignores them.
    """

    def __init__(self, n: int, listener: ProgressListener | None = None) -> None:
        # Below every share, so that a first report of 0 counts.
        self._progress = Progress(0, n, -1.0)
        self._listener = listener
        self._lock = threading.RLock()
        self.listener_failed = False
        """Whether the listener has raised an error."""

    def image_finished(self) -> None:
        """Report that one more image is finished."""
        with self._lock:
            finished, n, share, _ = self._progress
            if finished < n:
                self._report(Progress(finished + 1, n, max(share, (finished + 1) / n)))

    def work_done(self, share: float) -> None:
        """Report how much of the whole work is done.

        Args:
            share: From 0 to 1. A share below an earlier one is ignored.
        """
        share = min(share, 1.0)
        with self._lock:
            if share > self._progress.share:
                self._report(self._progress._replace(share=share))

    def report_activity(self, activity: str) -> None:
        """Report what the engine is doing before it makes images.

        Args:
            activity: What users see, such as "loading unet".
        """
        with self._lock:
            progress = self._progress
            self._notify(progress._replace(share=max(progress.share, 0.0), activity=activity))

    def all_finished(self) -> None:
        """Report each image that has not been reported yet."""
        for _ in range(self._progress.n - self._progress.finished):
            self.image_finished()

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        self._notify(progress)

    def _notify(self, progress: Progress) -> None:
        if self._listener is None:
            return
        try:
            self._listener(progress)
        except BaseException:
            self.listener_failed = True
            raise


_reporter: ContextVar[ProgressReporter | None] = ContextVar("_reporter", default=None)


def progress_reporter() -> ProgressReporter:
    """Return the reporter of this call.

    For engines: call this once in `create_variation`. Call the methods of the reporter as the work
    proceeds, from any thread. They raise any error of the listener: let it propagate.
    """
    return _reporter.get() or ProgressReporter(0)


@contextmanager
def call_context(
    reporter: ProgressReporter, cancel_event: threading.Event | None = None
) -> Iterator[None]:
    """Set what `cancellation` and `progress_reporter` return in the block.

    Args:
        reporter: The reporter of the call.
        cancel_event: Set when the call is cancelled, and when the block ends. An engine that calls
            another engine passes its own cancellation on, even if this is None.
    """
    token = _reporter.set(reporter)
    try:
        with nullcontext() if cancel_event is None else cancel_after(cancel_event):
            yield
    finally:
        _reporter.reset(token)
