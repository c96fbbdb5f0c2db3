"""`Progress`: what has come of a bulk run so far, told to the ledger and counted."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.rows import Row

__all__ = ["Progress", "Summary"]


@dataclass(slots=True)
class Summary:
    """What came of a run."""

    made: int = 0
    """Pictures made."""
    kept: int = 0
    """Pictures that were there."""
    failed: Counter[str] = field(default_factory=Counter)
    """Sources that failed, by the class of the error."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first error of each class."""
    complete: bool = False
    """Whether every source had its turn."""

    def add(self, rows: Iterable[Row]) -> None:
        """Count what came of a source."""
        for row in rows:
            if row["error"] is not None:
                kind, _, sentence = row["error"].partition(": ")
                self.failed[kind] += 1
                self.examples.setdefault(kind, sentence)
            elif row["milliseconds"] is None:
                self.kept += 1
            else:
                self.made += 1


class Progress:
    """A run between its start and its end.

    Args:
        ledger: Where each result is written down.
        step: Called after each source.
        stopped: Once it says True, no other source is begun.
        max_failures: After so many failed sources no other is begun.
    """

    def __init__(
        self,
        ledger: Ledger,
        step: Callable[[], object],
        stopped: Callable[[], bool],
        max_failures: int | None,
    ) -> None:
        self.summary = Summary()
        self.ledger = ledger
        self._step = step
        self._stopped = stopped
        self._failures = 0
        self.max_failures = max_failures
        """After so many failed sources no other is begun; None for no such limit."""

    def record(self, position: int, rows: list[Row]) -> None:
        """Write down what came of the source at a position.

        Raises:
            OutputError: If it cannot be written.
        """
        self.ledger.record(position, rows)
        self.summary.add(rows)
        self._failures = self.summary.failed.total()
        self._step()

    def is_over(self) -> bool:
        """Say whether no other source is to be begun, from any thread."""
        # Not the summary, which the run's own thread changes meanwhile.
        enough = self.max_failures is not None and self._failures >= self.max_failures
        return enough or self._stopped()
