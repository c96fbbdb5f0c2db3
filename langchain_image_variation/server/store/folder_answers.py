"""Records of answers in the store's folder, which all processes that share the folder can read.

The record of an `Idempotency-Key` is a file. The process that makes the answer locks the file until
it has written the answer. If that process ends early for any reason, the system frees the lock, and
another process makes the answer.
"""

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress

import anyio

from langchain_image_variation.files.lock import try_lock
from langchain_image_variation.server.store.answer_record import ANSWER_SUFFIX, RecordedAnswer
from langchain_image_variation.server.store.limited_folder import LimitedFolder

__all__ = ["FolderAnswers"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

_MAX_SECONDS_TO_ANSWER = 24 * 3600.0
"""How long the file of an answer in progress is kept. Only the lock says whether the answer is
still being made, so this matters only for files that killed processes leave behind."""
_FIRST_WAIT = 0.02
_LONGEST_WAIT = 0.5
"""Seconds between checks whether another process has finished its answer: the first pause, and the
longest. A lock gives no notice when it becomes free."""


class FolderAnswers:
    """The records of answers in a store's folder.

    Args:
        folder: The folder.
        engine: A text that identifies the engine. Servers with different engines share no answers.
    """

    def __init__(self, folder: LimitedFolder, engine: str) -> None:
        self._folder = folder
        self._engine = engine

    @asynccontextmanager
    async def open(
        self, key: str, queue_place: Callable[[], AbstractContextManager[object]]
    ) -> AsyncIterator["_FolderAnswer"]:
        """Open the record of a key, and keep other processes away from it until the block ends.

        If another process is making the answer, this waits for it. See `AnswerRecords`.
        """
        name = self._folder.sign(f"{self._engine}\n{key}")
        record = _FolderAnswer(self._folder, name)
        try:
            try:
                if not await anyio.to_thread.run_sync(record.try_open):
                    with queue_place():
                        await _wait(record)
            except OSError as error:
                _LOGGER.warning("Answers cannot be shared with other processes: %s", error.strerror)
            yield record
        finally:
            record.close()


class _FolderAnswer:
    """The record of one key.

    Threads may use the record while another one closes it, because a cancelled request cannot stop
    its threads.

    Args:
        folder: The folder of its file.
        name: The name of its file, without suffix.
    """

    def __init__(self, folder: LimitedFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._path = folder.path / f"{name}{ANSWER_SUFFIX}"
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._has_answer = False
        self._is_closed = False
        self.answer: RecordedAnswer | None = None
        """The answer, once the record is open. None if there is none yet, or if it is incomplete or
        expired."""

    def try_open(self) -> bool:
        """Open, lock and read the file, unless another process has locked it.

        Returns:
            Whether it is open.

        Raises:
            OSError: If the folder cannot hold records now.
        """
        with self._lock:
            if self._is_closed:
                return True
            descriptor = self._folder.open_for_writing(self._path.name)
            try:
                if not try_lock(descriptor) or not self._is_file(descriptor):
                    return False
                if os.fstat(descriptor).st_size:
                    self.answer = self._read(descriptor)
                    self._has_answer = self.answer is not None
                else:
                    # The empty file keeps its place: see `StoredFile.is_unfinished`.
                    self._set_expiry(descriptor, time.time() + _MAX_SECONDS_TO_ANSWER)
                self._descriptor, descriptor = descriptor, -1
                return True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def write(self, digest: str, body: bytes, seconds: float) -> None:
        """Write the answer. See `AnswerRecord`."""
        with self._lock:
            if self._descriptor is None:
                return
            try:
                self._folder.make_room(len(body))
                os.ftruncate(self._descriptor, 0)
                with open(self._descriptor, "wb", closefd=False) as file:
                    file.seek(0)
                    file.write(f"{digest} {self._signature(digest, body)}\n".encode())
                    file.write(body)
                self._set_expiry(self._descriptor, time.time() + seconds)
                self._has_answer = True
            except OSError as error:
                _LOGGER.warning("Answers cannot be shared with other processes: %s", error.strerror)

    def close(self) -> None:
        """Let other processes open the record. If it has no answer, its file is removed."""
        with self._lock:
            self._is_closed = True
            if self._descriptor is None:
                return
            with suppress(OSError):
                if not self._has_answer and self._is_file(self._descriptor):
                    self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self, descriptor: int) -> RecordedAnswer | None:
        seconds = os.fstat(descriptor).st_mtime - time.time()
        with open(descriptor, "rb", closefd=False) as file:
            digest, _, signature = file.readline().decode("ascii", "replace").partition(" ")
            body = file.read()
        is_complete = hmac.compare_digest(
            signature.rstrip().encode(), self._signature(digest, body).encode()
        )
        return RecordedAnswer(digest, body, seconds) if is_complete and seconds > 0 else None

    def _is_file(self, descriptor: int) -> bool:
        """Return whether the record's file is still this one."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        return False

    def _set_expiry(self, descriptor: int, expiry: float) -> None:
        os.utime(descriptor if os.utime in os.supports_fd else self._path, (expiry, expiry))

    def _signature(self, digest: str, body: bytes) -> str:
        return self._folder.sign(f"{self._name}\n{digest}\n{hashlib.sha256(body).hexdigest()}")


async def _wait(record: _FolderAnswer) -> None:
    """Wait until another process has closed a record, and open it."""
    seconds = _FIRST_WAIT
    while not await anyio.to_thread.run_sync(record.try_open):
        await anyio.sleep(seconds)
        seconds = min(2 * seconds, _LONGEST_WAIT)
