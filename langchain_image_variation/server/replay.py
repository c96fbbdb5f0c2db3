"""Idempotency: the same key and request within a day get the same answer, made once."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import ConflictError, InvalidRequestError

__all__ = ["DAY", "MAX_KEY_LENGTH", "Replay"]

MAX_KEY_LENGTH = 255
DAY = 24 * 3600.0
"""Seconds for which an answer is remembered at most."""

_MAX_ANSWERS = 10_000


@dataclass(slots=True)
class _Entry:
    digest: str
    until: float
    answer: "asyncio.Future[bytes]"
    size: int = 0


class Replay:
    """Remembers the answers of requests that carried an `Idempotency-Key`.

    Failures are not remembered, so that a client may try again. The oldest answers are forgotten
    when there are too many or they take too much memory.

    Args:
        max_bytes: The most bytes that all remembered answers together may have.
        wait: What a request is in while it waits for another's answer; may refuse it.
        clock: What tells the seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        wait: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._wait = wait
        self._clock = clock
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def answer(
        self,
        key: str | None,
        request: CreateImageVariationRequest,
        make: Callable[[], Awaitable[bytes]],
        *,
        seconds: float = DAY,
    ) -> bytes:
        """Return the answer of an earlier request with this key, or make it.

        It is remembered for so many seconds, at most a `DAY`.

        A request that comes while the first one is made waits for it; if that one fails or its
        client goes away, the next one makes its own.

        Raises:
            ConflictError: If the key was used for another request.
            InvalidRequestError: If the key is longer than `MAX_KEY_LENGTH`.
            ImageVariationError: What `make` or `wait` raises.
        """
        if not key:
            return await make()
        if len(key) > MAX_KEY_LENGTH:
            raise InvalidRequestError(
                f"Idempotency-Key must have at most {MAX_KEY_LENGTH} characters, got {len(key)}."
            )
        digest = _digest(request)
        while True:
            self._forget()
            entry = self._entries.get(key)
            if entry is not None and entry.answer.done() and entry.until <= self._clock():
                self._drop(key)
                entry = None
            if entry is None:
                return await self._made(key, digest, make, seconds)
            if entry.digest != digest:
                raise ConflictError("This Idempotency-Key was used for another request.")
            if entry.answer.done():
                return entry.answer.result()
            try:
                with self._wait():
                    return await asyncio.shield(entry.answer)
            except asyncio.CancelledError:
                # Either we are cancelled ourselves, or the first one was, and it is our turn.
                task = asyncio.current_task()
                if not entry.answer.cancelled() or (task is not None and task.cancelling()):
                    raise

    async def _made(
        self, key: str, digest: str, make: Callable[[], Awaitable[bytes]], seconds: float
    ) -> bytes:
        until = self._clock() + seconds
        entry = _Entry(digest, until, asyncio.get_running_loop().create_future())
        self._entries[key] = entry
        try:
            answer = await make()
        except BaseException:
            del self._entries[key]
            entry.answer.cancel()
            raise
        entry.answer.set_result(answer)
        entry.size = len(answer)
        self._bytes += entry.size
        return answer

    def _forget(self) -> None:
        """Forget answers whose time is over, and the oldest of what is too much."""
        now = self._clock()
        for key, entry in list(self._entries.items()):
            too_much = self._bytes > self._max_bytes or len(self._entries) > _MAX_ANSWERS
            if entry.until > now and not too_much:
                break
            if entry.answer.done():
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._bytes -= self._entries.pop(key).size


def _digest(request: CreateImageVariationRequest) -> str:
    fields = json.dumps([request.image.sha256, request.to_form()], sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()
