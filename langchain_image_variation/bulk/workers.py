"""`Workers`: who does the work of a bulk run, whether processes or tasks."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from langchain_image_variation.batch_rows import Row

__all__ = ["Source", "Workers"]

Source: TypeAlias = Mapping[str, object]
"""The values of a source's row by column."""


class Workers(Protocol):
    """Who does the work of a run."""

    capacity: int
    """How many sources to have in hand, so that none of them waits for work."""

    def submit(self, source: Source) -> "Future[list[Row]]":
        """Begin with a source; what comes of it are its rows, or the error that ends the run."""
        ...

    def withdraw(self, future: "Future[list[Row]]") -> bool:
        """Take a source back, and say whether that could be: whether it was not begun."""
        ...

    def close(self) -> None:
        """End them, once nothing is in hand."""
        ...

    def stop(self) -> None:
        """End them at once, whatever is in hand."""
        ...
