"""The exit codes of the commands, besides 0 (success) and 130 (interrupted)."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_image_variation.cli.interrupts import Interrupts

__all__ = ["FAILED", "INVALID", "SOME_FAILED", "exit_after_signal", "signal_code"]

FAILED = 1
"""An engine failed, or a result could not be written."""

INVALID = 2
"""The input or the usage is invalid. argparse uses the same code."""

SOME_FAILED = 3
"""Some of several images failed, or some of the variations of an image."""


def signal_code(number: int) -> int:
    """Return the exit code of a program that a signal ended, as shells report it."""
    return 128 + number


@contextmanager
def exit_after_signal(interrupts: "Interrupts") -> Iterator[None]:
    """Exit the process with the code of the first signal if the block cannot continue after it.

    Either there was a second signal, or the first one took standard output away: a terminal was
    closed, or Ctrl-C ended the program that reads the output too. A normal exit would wait for
    threads that wait for servers. Files are written atomically, so there is nothing to clean up.

    Args:
        interrupts: Handles the signals in the block.
    """
    try:
        yield
    except (KeyboardInterrupt, OSError):
        if interrupts.signal is None:
            raise
        print("image-variation: interrupted; no file is half-written.", file=sys.stderr, flush=True)
        os._exit(signal_code(interrupts.signal))
