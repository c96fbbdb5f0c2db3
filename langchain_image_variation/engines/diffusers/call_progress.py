"""`CallProgress`: what a call reports while a model draws, and whether it was cancelled."""

from collections.abc import Callable

from langchain_image_variation.cancellation import cancelled_error
from langchain_image_variation.engines.context import ProgressReporter

__all__ = ["CallProgress"]


class CallProgress:
    """The progress of one call, and whether it was cancelled.

    Args:
        n: How many images the call makes.
        reporter: Where to report progress.
        is_cancelled: Returns whether the call was cancelled.
    """

    def __init__(
        self, n: int, reporter: ProgressReporter, is_cancelled: Callable[[], bool]
    ) -> None:
        self._n, self._reporter, self.is_cancelled = n, reporter, is_cancelled
        self._finished = 0

    def check(self) -> None:
        """Raise an error if the call was cancelled.

        Raises:
            EngineError: If the call was cancelled.
        """
        if self.is_cancelled():
            raise cancelled_error()

    def batch_step(self, size: int) -> Callable[[float], None]:
        """Return a function to call before each pass of a batch of `size` images.

        The function takes the share of the passes that are done, from 0 to 1. It raises an
        `EngineError` if the call was cancelled.
        """

        def step(share: float) -> None:
            self.check()
            self._reporter.work_done((self._finished + size * share) / self._n)

        return step

    def finish(self, count: int) -> None:
        """Report that `count` more images are drawn.

        Raises:
            EngineError: If the call was cancelled.
        """
        self.check()
        self._finished += count
        for _ in range(count):
            self._reporter.image_finished()
