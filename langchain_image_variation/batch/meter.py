"""The meter of a bulk run: how far it is, its rate and the time left, for a terminal or a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["LINE_EVERY", "meter"]

LINE_EVERY = 300.0
"""Seconds between two lines in a log."""


@contextmanager
def meter(total: int, *, of: str, line_every: float = LINE_EVERY) -> Iterator[Callable[[], object]]:
    """Show on standard error how far a run is: a bar on a terminal, elsewhere a line now and then.

    Args:
        total: How many there are.
        of: What is counted.
        line_every: Seconds between two lines.

    Yields:
        What to call after each.
    """
    if not sys.stderr.isatty():
        yield _Lines(total, of, line_every).step
        return
    with tqdm(desc=of, total=total, file=sys.stderr, unit=f" {of}", ncols=_columns()) as bar:
        yield bar.update


def _columns() -> int | None:
    """Return a width for a terminal that says it has none, as in a container, or None."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):
        return None


class _Lines:
    def __init__(self, total: int, of: str, every: float) -> None:
        self._total = total
        self._unit = f" {of}"
        self._every = every
        self._count = 0
        self._begun = self._told = time.monotonic()

    def step(self) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            elapsed = now - self._begun
            line = tqdm.format_meter(self._count, self._total, elapsed, ncols=0, unit=self._unit)
            print(line.strip(), file=sys.stderr, flush=True)
