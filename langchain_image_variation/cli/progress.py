"""The progress bar of `create`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from langchain_image_variation.engines.context import Progress
from langchain_image_variation.progress_bar import redraw_regularly, terminal_width

__all__ = ["ProgressBar", "show_progress_bar"]


class ProgressBar:
    """A bar on standard error for a series of engine calls.

    Args:
        bar: The bar, which has one unit for each call.
        descriptions: What the bar says during each call.
    """

    def __init__(self, bar: "tqdm[Any]", descriptions: Sequence[str]) -> None:
        self._bar = bar
        self._descriptions = descriptions
        self._calls_done = 0

    def start(self) -> Callable[[Progress], None]:
        """Begin the next call, and return the listener for its progress."""
        description = self._descriptions[self._calls_done]
        self._bar.set_description_str(description)

        def show(progress: Progress) -> None:
            self._bar.set_description_str(progress.activity or description, refresh=False)
            self._bar.update(self._calls_done + progress.share - self._bar.n)

        return show

    def finish(self) -> None:
        """Count a call as done, whether or not it succeeded."""
        self._calls_done += 1
        self._bar.update(self._calls_done - self._bar.n)

    @contextmanager
    def hide(self) -> Iterator[None]:
        """Remove the bar while the block prints."""
        with tqdm.external_write_mode(file=sys.stderr):
            yield


@contextmanager
def show_progress_bar(descriptions: Sequence[str], *, quiet: bool) -> Iterator[ProgressBar]:
    """Show a bar on a terminal while the block runs.

    Args:
        descriptions: What the bar says during each call that the block makes.
        quiet: Whether to show no bar even on a terminal.
    """
    with (
        tqdm(
            desc=descriptions[0],
            total=float(len(descriptions)),
            file=sys.stderr,
            disable=quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb",
            leave=False,
            ncols=terminal_width(),
            # Each report is drawn, but at most once every `mininterval` seconds.
            miniters=0,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}",
        ) as bar,
        redraw_regularly(bar),
    ):
        yield ProgressBar(bar, descriptions)
