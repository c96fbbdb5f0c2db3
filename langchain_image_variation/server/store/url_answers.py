"""Records of answers at a URL, which servers on several machines share.

There are no locks. If servers make an answer to the same `Idempotency-Key` at the same time, the
first one that they record counts, and all of them give it.
"""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Container
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Protocol

import anyio

from langchain_image_variation.files.shared_file_system import SharedFileSystem
from langchain_image_variation.server.store.answer_record import ANSWER_SUFFIX, RecordedAnswer

__all__ = ["ANSWER_NAME", "MAX_ANSWER_SECONDS", "URLAnswers"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

ANSWER_NAME = re.compile(rf"[0-9a-f]{{64}}{re.escape(ANSWER_SUFFIX)}")
MAX_ANSWER_SECONDS = 24 * 3600.0
"""The longest time that an answer is remembered, in seconds."""
_MAX_RECORD_BYTES = 64 * 1024 * 1024
"""A longer record cannot come from the server, and is not read. Ten of the longest images in base64
take 56 MB."""


class _AnswerStore(Protocol):
    """What the records need of their store."""

    @property
    def shared_files(self) -> SharedFileSystem:
        """The file system."""

    @property
    def max_bytes(self) -> int:
        """The maximum total size of the files, in bytes."""

    def make_room(self, length: int, *, keep: Container[str] = ()) -> None:
        """Before a file is written, remove other files if the store is full."""

    def sign(self, text: str) -> str:
        """Return an HMAC of a text, in hex."""


class URLAnswers:
    """The records of answers in a store at a URL.

    Args:
        store: The store.
        engine: A text that identifies the engine. Servers with different engines share no answers.
    """

    def __init__(self, store: _AnswerStore, engine: str) -> None:
        self._store = store
        self._engine = engine

    @asynccontextmanager
    async def open(
        self, key: str, queue_place: Callable[[], AbstractContextManager[object]]
    ) -> AsyncIterator["_URLAnswer"]:
        """Open the record of a key. See `AnswerRecords`. This waits for no other server."""
        record = _URLAnswer(self._store, self._store.sign(f"{self._engine}\n{key}"))
        await anyio.to_thread.run_sync(record.read)
        yield record


class _URLAnswer:
    """The record of one key: a file that is written once.

    Args:
        store: The store.
        name: The name of the file, without suffix.
    """

    def __init__(self, store: _AnswerStore, name: str) -> None:
        self._store = store
        self._name = name
        self._file_name = f"{name}{ANSWER_SUFFIX}"
        self.answer: RecordedAnswer | None = None
        """The answer, once the record was read."""

    def read(self) -> None:
        """Read the answer. If it is incomplete or expired, remove it."""
        try:
            files = self._store.shared_files.get()
            data = files.read(self._file_name, _MAX_RECORD_BYTES + 1)
            self.answer = None if data is None else self._parse(data)
            if data is not None and self.answer is None:
                files.remove(self._file_name)
        # A file system may raise any error of the library below it.
        except Exception as error:
            _warn(error)

    def write(self, digest: str, body: bytes, seconds: float) -> RecordedAnswer | None:
        """Write the answer, unless another server has recorded one. See `AnswerRecord`."""
        expires = str(int((time.time() + seconds) * 1000))
        signature = self._signature(digest, expires, body)
        data = f"{digest} {expires} {signature}\n".encode() + body
        if len(data) > min(self._store.max_bytes, _MAX_RECORD_BYTES):
            return None
        try:
            self._store.make_room(len(data))
            files = self._store.shared_files.get()
            if not files.write_in_folder("", lambda: files.create(self._file_name, data)):
                self.read()
        except Exception as error:
            _warn(error)
        return self.answer

    def _parse(self, data: bytes) -> RecordedAnswer | None:
        head, _, body = data.partition(b"\n")
        digest, _, rest = head.decode("ascii", "replace").partition(" ")
        expires, _, signature = rest.partition(" ")
        is_complete = hmac.compare_digest(
            signature.encode(), self._signature(digest, expires, body).encode()
        )
        seconds = int(expires) / 1000 - time.time() if is_complete else 0
        return RecordedAnswer(digest, body, seconds) if seconds > 0 else None

    def _signature(self, digest: str, expires: str, body: bytes) -> str:
        content = hashlib.sha256(body).hexdigest()
        return self._store.sign(f"{self._name}\n{digest}\n{expires}\n{content}")


def _warn(error: Exception) -> None:
    # The text of another library may contain the URL, and a key in it.
    _LOGGER.warning("Answers cannot be shared with other servers: %s", type(error).__name__)
