"""`Stopping`: an interrupt ends a run when what is in hand is finished, a second one at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopping"]

_SAID = b"\nFinishing what is in hand; interrupt once more to stop at once.\n"


class Stopping:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take interrupts and SIGTERM for the block, in the main thread.

        Raises:
            KeyboardInterrupt: In the block, at the second signal.
        """
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        # Not by print: the signal may have come amid another.
        os.write(2, _SAID)
