"""`Interrupts`: the first interrupt lets started sources finish, the second one stops the run."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Interrupts"]

_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""SIGHUP means that the terminal was closed. Windows does not have it."""

_MESSAGE = b"\nFinishing the images in progress. Interrupt again to stop immediately.\n"


class Interrupts:
    """Handles the signals that ask a run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first signal, or None so far."""

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP in the block. It must run in the main thread.

        Signals that were ignored before stay ignored, which `nohup` and background jobs rely on.

        Raises:
            KeyboardInterrupt: In the block, on the second signal.
        """
        signals = [getattr(signal, name) for name in _SIGNAL_NAMES if hasattr(signal, name)]
        numbers = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
        handlers = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        # print() is not reentrant, and the signal may interrupt another print(). The terminal may
        # be gone.
        with suppress(OSError):
            os.write(2, _MESSAGE)
