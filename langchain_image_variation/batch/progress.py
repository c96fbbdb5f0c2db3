"""The progress of a run: records and counts its results, and says when it should stop."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.rows import OutputRow, single_line

__all__ = ["MAX_NAMED_FAILURES", "RunProgress", "RunSummary"]

MAX_NAMED_FAILURES = 10
"""The maximum number of failed sources that a summary names. `failed.jsonl` lists all of them."""

_MAX_PATH_LENGTH = 100
"""The maximum length of a path in a summary. Longer paths are cut at the left."""


@dataclass(slots=True)
class RunSummary:
    """The results of a run."""

    images_made: int = 0
    """The number of new images."""
    images_kept: int = 0
    """The number of images that already existed."""
    failures: Counter[str] = field(default_factory=Counter)
    """The number of failed sources, by the class of the error."""
    named_failures: list[str] = field(default_factory=list)
    """The first `MAX_NAMED_FAILURES` sources that failed, each with its error."""
    is_complete: bool = False
    """Whether every source was processed."""

    @property
    def is_empty(self) -> bool:
        """Whether no source was processed."""
        return not (self.images_made or self.images_kept or self.failures)

    def add(self, rows: Iterable[OutputRow]) -> None:
        """Count the rows of a source."""
        for row in rows:
            if row["error"] is not None:
                error_class, _, message = row["error"].partition(": ")
                self.failures[error_class] += 1
                if len(self.named_failures) < MAX_NAMED_FAILURES:
                    self.named_failures.append(_describe_failure(row["source_path"], message))
            elif row["milliseconds"] is None:
                self.images_kept += 1
            else:
                self.images_made += 1


def _describe_failure(path: str | None, message: str) -> str:
    if path is None:
        return message
    end = path[-_MAX_PATH_LENGTH:]
    return f"{'' if end == path else '…'}{single_line(end)}: {message}"


class RunProgress:
    """Records the results of a run, and decides when it should stop.

    Args:
        ledger: Records each result.
        advance: Called after each source.
        is_stopped: Returns True once no further source should be started.
        max_failures: The run stops once this many sources have failed. None means no limit.
        summary: Counts the results.
    """

    def __init__(
        self,
        ledger: Ledger,
        advance: Callable[[], object],
        is_stopped: Callable[[], bool],
        max_failures: int | None,
        summary: RunSummary,
    ) -> None:
        self.summary = summary
        self.ledger = ledger
        self.max_failures = max_failures
        """The run stops once this many sources have failed. None means no limit."""
        self._advance = advance
        self._is_stopped = is_stopped
        self._failures = 0

    def record(self, position: int, rows: list[OutputRow]) -> None:
        """Record the result of the source at a position.

        Raises:
            OutputError: If the ledger cannot be written.
        """
        self.ledger.record(position, rows)
        self.summary.add(rows)
        self._failures = self.summary.failures.total()
        self._advance()

    def should_stop(self) -> bool:
        """Return whether no further source should be started. It is thread-safe."""
        # The summary may be changing in the thread of the run, so this uses a separate counter.
        too_many = self.max_failures is not None and self._failures >= self.max_failures
        return too_many or self._is_stopped()
