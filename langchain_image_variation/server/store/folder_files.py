"""The files in a store's folder: which of them the server wrote, and which are removed first."""

import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from langchain_image_variation.files.atomic import TEMPORARY_NAME

__all__ = ["StoredFile", "list_files", "oldest_first"]

# The files that the server writes. It never touches any other file in the folder.
_NAME = re.compile(r"[0-9a-f]{64}\.(?:png|answer)|" + TEMPORARY_NAME.pattern)
_PART_SECONDS = 600.0
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
        """Whether it is being written. Empty files are answers in progress."""
        return not self.length or self.path.suffix == ".part"


def list_files(folder: Path, owner: int) -> Iterator[StoredFile]:
    """Yield the files that the server wrote.

    Args:
        folder: The folder.
        owner: The user who owns the server's files.

    Raises:
        OSError: If the folder cannot be read.
    """
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            # Another process may have removed it.
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
                    # The mtime of a file that is being written is not its expiry yet.
                    grace = _PART_SECONDS if path.suffix == ".part" else 0.0
                    expiry = status.st_mtime + grace
                    yield StoredFile(status.st_ctime, expiry, status.st_size, path)


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
