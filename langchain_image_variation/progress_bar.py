"""Progress bars on standard error."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["LOG_INTERVAL", "redraw_regularly", "show_progress", "terminal_width"]

LOG_INTERVAL = 300.0
"""Seconds between two progress lines in a log."""

_REDRAW_SECONDS = 0.2


@contextmanager
def show_progress(
    total: int, *, unit: str, quiet: bool = False, log_interval: float = LOG_INTERVAL
) -> Iterator[Callable[[], object]]:
    """Show progress on standard error: as a bar in a terminal, or elsewhere as occasional lines.

    Args:
        total: The number of items.
        unit: What the items are called.
        quiet: Whether to show nothing.
        log_interval: Seconds between two lines.

    Yields:
        A function to call after each item.
    """
    if quiet:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield _ProgressLog(total, unit, log_interval).advance
        return
    with (
        tqdm(
            desc=unit, total=total, file=sys.stderr, unit=f" {unit}", ncols=terminal_width()
        ) as bar,
        redraw_regularly(bar),
    ):
        yield bar.update


@contextmanager
def redraw_regularly(bar: "tqdm[Any]") -> Iterator[None]:
    """Redraw a bar regularly while the block runs, so that its clock advances between updates.

    Args:
        bar: The bar. If it is disabled, nothing is drawn.
    """
    if bar.disable:
        yield
        return
    end_event = threading.Event()

    def redraw() -> None:
        while not end_event.wait(_REDRAW_SECONDS):
            bar.refresh()

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end_event.set()
        thread.join()


def terminal_width() -> int | None:
    """Return a width for terminals that report none, as in a container, or None."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):
        return None


class _ProgressLog:
    def __init__(self, total: int, unit: str, interval: float) -> None:
        self._total = total
        self._unit = f" {unit}"
        self._interval = interval
        self._count = 0
        self._start = self._last_line = time.monotonic()

    def advance(self) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._last_line >= self._interval:
            self._last_line = now
            elapsed = now - self._start
            line = tqdm.format_meter(self._count, self._total, elapsed, ncols=0, unit=self._unit)
            print(line.strip(), file=sys.stderr, flush=True)
