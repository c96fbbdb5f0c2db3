"""`Workers`: who does the work of a bulk run, whether processes or tasks."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from langchain_image_variation.batch.rows import Row
from langchain_image_variation.exceptions import EngineError

__all__ = ["CALLS", "Source", "Workers", "unexpected"]

CALLS = 8
"""How many calls at once of an engine that asks a server, unless the user says otherwise."""

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


def unexpected(error: BaseException) -> EngineError:
    """Return what is said of a source at which something failed as nothing should.

    Also if an engine asks its process to end, which would cost every other source in hand.
    """
    return EngineError(
        f"Unexpected {type(error).__name__}. This is a bug, in the engine or around it."
    )
