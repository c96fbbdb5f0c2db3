"""The images of a server, or of several on one machine, as files in a folder."""

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path

import anyio

from langchain_image_variation.server.store.folder_answers import FolderAnswers
from langchain_image_variation.server.store.image_store import (
    BYTES_PER_PIXEL,
    DEFAULT_SIDE,
    IMAGE_SUFFIX,
    MAX_IMAGE_BYTES,
    ImageStore,
)
from langchain_image_variation.server.store.limited_folder import LimitedFolder, Reservation

__all__ = ["FolderStore"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

_MAX_CHECKED_FILES = 1000
"""How many intact files to remember, because checking a file of 2 MB takes 2 ms."""


class FolderStore(ImageStore):
    """Keeps images in a folder that outlives the process. The folder contains the signing key.

    Args:
        directory: The folder. See `LimitedFolder`.
        ttl: For how many seconds a URL works.
        max_bytes: The maximum total size of the files in the store, in bytes.

    Raises:
        OutputError: If the folder cannot be used.
    """

    def __init__(self, directory: Path, *, ttl: float, max_bytes: int) -> None:
        super().__init__(ttl=ttl)
        self.folder = LimitedFolder(directory, max_bytes=max_bytes, tidy_seconds=self.tidy_seconds)
        """Where the images are."""
        self._checked_files: set[tuple[object, ...]] = set()

    @asynccontextmanager
    async def reserve(self, count: int, side: int) -> AsyncIterator[None]:
        """Reserve room on the disk for square images of this side, until the block ends.

        Raises:
            ServiceUnavailableError: If there is no room.
        """
        reservation = Reservation(count * side * side * BYTES_PER_PIXEL)
        try:
            await anyio.to_thread.run_sync(self.folder.reserve, reservation)
            yield
        finally:
            self.folder.release(reservation)

    def has_room(self) -> bool:
        """Return whether there is room for the images of a request without optional fields."""
        return self.folder.has_room(DEFAULT_SIDE**2 * BYTES_PER_PIXEL)

    def tidy(self) -> None:
        """Remove expired files."""
        self.folder.tidy()

    def sign(self, text: str) -> str:
        """Return an HMAC of a text with the folder's key, in hex."""
        return self.folder.sign(text)

    def answer_records(self, engine: str) -> FolderAnswers:
        """Return the records of the answers of an engine."""
        return FolderAnswers(self.folder, engine)

    def _store(self, name: str, png: bytes, milliseconds: int, *, keep: Container[str]) -> None:
        self.folder.store(
            f"{name}{IMAGE_SUFFIX}",
            png,
            expiry=milliseconds / 1000,
            is_intact=partial(self._is_intact, name=name),
            keep=keep,
        )

    def _open(self, name: str, milliseconds: int) -> tuple[BufferedReader, int] | None:
        file = self.folder.open(f"{name}{IMAGE_SUFFIX}")
        if file is None:
            return None
        if self._is_intact(file, name=name):
            return file, os.fstat(file.fileno()).st_size
        file.close()
        return None

    def _is_intact(self, file: BufferedReader, *, name: str) -> bool:
        """Return whether a file has the content that its name promises."""
        status = os.fstat(file.fileno())
        # Any change of a file changes its ctime.
        times = (status.st_mtime_ns, status.st_ctime_ns)
        identity = (name, status.st_dev, status.st_ino, status.st_size, *times)
        if identity in self._checked_files:
            return True
        is_intact = (
            status.st_size <= MAX_IMAGE_BYTES
            and hashlib.file_digest(file, "sha256").hexdigest() == name
        )
        if not is_intact:
            _LOGGER.warning(
                "The content of a file of the store was replaced: %s%s", name, IMAGE_SUFFIX
            )
            return False
        file.seek(0)
        if len(self._checked_files) >= _MAX_CHECKED_FILES:
            self._checked_files.clear()
        self._checked_files.add(identity)
        return True
