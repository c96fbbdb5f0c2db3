"""The protocols of answer records, with which several servers share answers."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import NamedTuple, Protocol

__all__ = ["ANSWER_SUFFIX", "AnswerRecord", "AnswerRecords", "RecordedAnswer"]

ANSWER_SUFFIX = ".answer"
"""The suffix of the files of records, in each kind of store."""


class RecordedAnswer(NamedTuple):
    """An answer that this process or another one made."""

    digest: str
    """A hash of the request."""
    body: bytes
    seconds: float
    """For how many more seconds it is remembered."""


class AnswerRecord(Protocol):
    """The open record of one `Idempotency-Key`."""

    @property
    def answer(self) -> RecordedAnswer | None:
        """The answer, or None if there is none yet, or if it is incomplete or expired."""

    def write(self, digest: str, body: bytes, seconds: float) -> RecordedAnswer | None:
        """Write the answer. If there is no room for it, only this process remembers it.

        Args:
            digest: A hash of the request.
            body: The body of the answer.
            seconds: How long to remember it.

        Returns:
            The answer that another server has recorded in the meantime, or None.
        """


class AnswerRecords(Protocol):
    """Records of answers in a store."""

    def open(
        self, key: str, queue_place: Callable[[], AbstractContextManager[object]]
    ) -> AbstractAsyncContextManager[AnswerRecord]:
        """Open the record of a key until the block ends.

        If the store cannot hold records now, the record is empty and stays empty.

        Args:
            key: A text that all requests for this answer share.
            queue_place: Entered while this waits for another process. It raises an error if the
                request must not wait.
        """
