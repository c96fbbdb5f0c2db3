"""The files in a store's folder: which of them the server wrote, and which are removed first."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from langchain_image_variation.files.atomic import TEMPORARY_NAME
from langchain_image_variation.files.listing import list_files
from langchain_image_variation.server.store.answer_record import ANSWER_SUFFIX
from langchain_image_variation.server.store.image_store import IMAGE_SUFFIX

__all__ = ["StoredFile", "oldest_first", "server_files"]

_SUFFIXES = "|".join(re.escape(suffix) for suffix in (IMAGE_SUFFIX, ANSWER_SUFFIX))
# The files that the server writes. It never touches any other file in the folder.
_NAME = re.compile(rf"[0-9a-f]{{64}}(?:{_SUFFIXES})|{TEMPORARY_NAME.pattern}")
_WRITING_SECONDS = 600.0
"""How many seconds writing a file may take."""
_CLOCK_TOLERANCE = 600.0
"""How far the clock of a network drive may be ahead of this machine's, in seconds."""


class StoredFile(NamedTuple):
    """A file that the server wrote."""

    change_time: float
    """When it was stored or last renewed, in seconds since 1970."""
    expiry: float
    """When it may be removed, in seconds since 1970."""
    length: int
    """In bytes."""
    path: Path

    @property
    def is_unfinished(self) -> bool:
        """Whether it is being written. An empty file is the record of an answer in progress."""
        return not self.length or TEMPORARY_NAME.fullmatch(self.path.name) is not None


def server_files(folder: Path, owner: int) -> Iterator[StoredFile]:
    """Yield the files that the server wrote.

    Args:
        folder: The folder.
        owner: The user who owns the server's files.

    Raises:
        OSError: If the folder cannot be read.
    """
    for name, status in list_files(folder, _NAME.fullmatch):
        if status.st_uid == owner:
            # The mtime of a file that is being written is not its expiry yet.
            grace = _WRITING_SECONDS if TEMPORARY_NAME.fullmatch(name) else 0.0
            expiry = status.st_mtime + grace
            yield StoredFile(status.st_ctime, expiry, status.st_size, folder / name)


def oldest_first(files: Iterable[StoredFile], now: float) -> list[StoredFile]:
    """Return files in the order in which they make room for others.

    Args:
        files: The files.
        now: The time, in seconds since 1970.
    """

    def age(file: StoredFile) -> tuple[float, float]:
        if file.change_time > now + _CLOCK_TOLERANCE:
            # The clock was ahead when the file was stored. If it counted as new, images that are
            # stored now would be removed before it.
            return 0.0, -file.expiry
        return file.change_time, file.expiry

    return sorted(files, key=age)
