"""Idempotency: requests with the same key get the same answer for a day, and it is made once."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import anyio

from langchain_image_variation.exceptions import ConflictError, InvalidRequestError
from langchain_image_variation.server.form import VariationForm
from langchain_image_variation.server.store.answer_record import AnswerRecords, RecordedAnswer

__all__ = ["DAY", "MAX_ANSWER_BYTES", "MAX_KEY_LENGTH", "Answer", "Idempotency", "QueuePlace"]

QueuePlace = Callable[[], AbstractContextManager[object]]
"""Entered while a request waits. It raises an error if the request must not wait."""

MAX_KEY_LENGTH = 255
DAY = 24 * 3600.0
"""The longest time that an answer is remembered, in seconds."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The maximum size of all answers that a server remembers in memory together, in bytes."""
_MAX_ANSWERS = 10_000


@dataclass(slots=True)
class Answer:
    """The answer to all requests with one key."""

    digest: str = ""
    """A hash of what all requests with the key must have in common."""
    expires: float = 0.0
    body: bytes | None = None
    """None until the first request has made it."""
    finished_event: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first request has made the answer, or failed to."""


class Idempotency:
    """Remembers the answers to requests with an `Idempotency-Key`.

    Failures are not remembered, so clients can try again. If there are too many answers, or if they
    take too much memory, the oldest are forgotten.

    Args:
        max_bytes: The maximum total size of the answers in memory, in bytes.
        records: Shares answers with other processes. By default, they are not shared.
        clock: Returns the time in seconds. The URLs in answers must expire by the same clock.
    """

    def __init__(
        self,
        max_bytes: int,
        records: AnswerRecords | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_bytes = max_bytes
        self._records = records
        self._clock = clock
        self._bytes = 0
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    @asynccontextmanager
    async def answer(
        self,
        key: str | None,
        form: VariationForm,
        *,
        owner: str = "",
        queue_place: QueuePlace = nullcontext,
        seconds: float = DAY,
    ) -> AsyncIterator[Answer]:
        """Yield the answer to an earlier request with this key, or an empty one to fill.

        If the answer's `body` is None, the block must make it. Other requests with this key wait
        for it. If the block leaves it None, because it failed or its client went away, the next
        request gets an empty answer. After the block, `body` is the answer to send: another server
        may have made and recorded one in the meantime.

        Args:
            key: The key. Requests without one share nothing.
            form: The form of the request.
            owner: Only requests with an equal text may share an answer.
            queue_place: Entered while the request waits for the answer to another request.
            seconds: How long to remember the answer, at most a `DAY`.

        Raises:
            ConflictError: If the key was used for a different request.
            InvalidRequestError: If the key is longer than `MAX_KEY_LENGTH`.
            ImageVariationError: If `queue_place` refuses to let the request wait.
        """
        if not key:
            yield Answer()
            return
        if len(key) > MAX_KEY_LENGTH:
            raise InvalidRequestError(
                f"Idempotency-Key must have at most {MAX_KEY_LENGTH} characters, got {len(key)}."
            )
        key = json.dumps([owner, key])
        digest = _digest(form)
        earlier_answer = await self._earlier_answer(key, digest, queue_place)
        if earlier_answer is not None:
            yield earlier_answer
            return
        answer = self._answers[key] = Answer(digest, self._clock() + seconds)
        try:
            if self._records is None:
                yield answer
                return
            async with self._records.open(key, queue_place) as record:
                recorded_answer = record.answer
                if recorded_answer is None:
                    yield answer
                    if answer.body is not None:
                        first_answer = await anyio.to_thread.run_sync(
                            record.write, digest, answer.body, seconds
                        )
                        if first_answer is not None:
                            self._fill(answer, first_answer)
                    return
            self._fill(answer, recorded_answer)
            yield answer
        finally:
            if answer.body is None:
                del self._answers[key]
            else:
                self._bytes += len(answer.body)
            answer.finished_event.set()

    def _fill(self, answer: Answer, recorded_answer: RecordedAnswer) -> None:
        """Use an answer that another process has recorded.

        Raises:
            ConflictError: If that one is the answer to a different request.
        """
        answer.body = None
        if recorded_answer.digest != answer.digest:
            raise _conflict_error()
        answer.body = recorded_answer.body
        answer.expires = self._clock() + recorded_answer.seconds

    async def _earlier_answer(
        self, key: str, digest: str, queue_place: QueuePlace
    ) -> Answer | None:
        """Return the answer to an earlier request, waiting for it if it is being made."""
        while True:
            self._forget()
            answer = self._answers.get(key)
            if answer is None:
                return None
            if answer.body is not None and answer.expires <= self._clock():
                self._drop(key)
                return None
            if answer.digest != digest:
                raise _conflict_error()
            if answer.body is None:
                with queue_place():
                    await answer.finished_event.wait()
            if answer.body is not None:
                return answer

    def _forget(self) -> None:
        """Drop expired answers, and the oldest ones while there are too many."""
        now = self._clock()
        for key, answer in list(self._answers.items()):
            too_many = self._bytes > self._max_bytes or len(self._answers) > _MAX_ANSWERS
            if answer.expires > now and not too_many:
                break
            if answer.body is not None:
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._bytes -= len(self._answers.pop(key).body or b"")


def _conflict_error() -> ConflictError:
    return ConflictError(
        "This Idempotency-Key was used for a different request. Send this one with a new key."
    )


def _digest(form: VariationForm) -> str:
    request, options = form
    fields = json.dumps([request.image.sha256, request.to_form(), options], sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()
