"""`Interrupts`: the first interrupt lets started work finish, the second one stops the run."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Interrupts"]

_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""SIGHUP means that the terminal was closed. Windows does not have it."""


class Interrupts:
    """Handles the signals that ask a run to stop.

    Args:
        plan: What the run does after the first signal, as a sentence for the user.
    """

    def __init__(self, plan: str = "Finishing the images in progress.") -> None:
        self.signal: int | None = None
        """The first signal, or None so far."""
        self._message = f"\n{plan} Interrupt again to stop immediately.\n".encode()

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP in the block.

        Signals that were ignored before stay ignored, which `nohup` and background jobs rely on.
        In a thread other than the main one, which gets no signals, this has no effect.

        Raises:
            KeyboardInterrupt: In the block, on the second signal.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
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
            os.write(2, self._message)
