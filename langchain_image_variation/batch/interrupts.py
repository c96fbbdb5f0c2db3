"""`Stopping`: an interrupt ends a run when what is in hand is finished, a second one at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopping"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The last one says that the terminal is gone; not every system has it."""

_SAID = b"\nFinishing what is in hand; interrupt once more to stop at once.\n"


class Stopping:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take interrupts, SIGTERM and SIGHUP for the block, in the main thread.

        One that was ignored before stays so, as `nohup` and shells without job control want it.

        Raises:
            KeyboardInterrupt: In the block, at the second signal.
        """
        known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        numbers = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
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
        # Not by print: the signal may have come amid another. Nobody may be there to read it.
        with contextlib.suppress(OSError):
            os.write(2, _SAID)
