"""`PictureFolder`: the pictures under a folder, and no others, however a path is spelt."""

import heapq
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from langchain_image_variation.agents.conversation import LISTED
from langchain_image_variation.exceptions import SourceError, shown
from langchain_image_variation.files.atomic import unlink_temporary_names

__all__ = ["PictureFolder"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""What the names of pictures end in, for listing them; reading goes by content."""

_LOOKED_AT = 2_000
"""So many entries of a folder are looked at to list pictures: some milliseconds."""

_PLACING = (0.001, 0.01, 0.05)
"""Seconds to wait, in turn, for a result that has its temporary name beside its own."""

_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


class PictureFolder:
    """A folder whose pictures may be used, those in its subfolders too.

    Nothing outside it can be reached. A path is resolved, symbolic links included, before it is
    compared; then every step of the resolved path is opened from the one before without following
    links, so that a link put there in between leads nowhere. A file that has another name as well
    (a hard link) is refused, since that name may be outside. Only the temporary name of a result,
    left beside it by a process that was killed, is removed.

    Args:
        root: The folder.

    Raises:
        SourceError: If there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise SourceError(f"There is no folder {root.name!r}; make it, or name another root.")
        self.root = root

    def open(self, name: str, *, without: PurePath | None = None) -> BinaryIO | None:
        """Open a file for reading, or return None if the folder has no such file.

        Args:
            name: A path relative to the folder.
            without: A folder below this one, relative to it, that counts as outside.

        Raises:
            SourceError: If the file may not be read, or has a further name.
        """
        try:
            root, path = self.root.resolve(), (self.root / name).resolve()
            if not path.is_relative_to(root) or path == root:
                return None
            hidden = (self.root / without).resolve() if without is not None else None
            if hidden is not None and path.is_relative_to(hidden):
                return None
            # The same folder may be spelt otherwise, where upper and lower case are one.
            closed = os.stat(hidden) if hidden is not None and hidden.exists() else None
            file = open(path, "rb", opener=lambda *_: _opened(root, path, closed))
        except PermissionError:
            raise SourceError(f"{shown(Path(name).name)} may not be read.") from None
        # A name too long for the file system, a NUL inside it, or a loop of links.
        except (OSError, ValueError, RuntimeError):
            return None
        facts = _facts(file, path.parent)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1:
            return file
        file.close()
        if not stat.S_ISREG(facts.st_mode):
            return None
        raise SourceError(
            f"{shown(Path(name).name)} is a hard link, whose other name may be outside the folder; "
            "use a copy of it."
        )

    def has_below(self, folder: PurePath) -> bool:
        """Say whether a folder, relative to this one, is inside it and not it."""
        try:
            return self.root.resolve() in (self.root / folder).resolve().parents
        except (OSError, ValueError, RuntimeError):
            return False

    def relative(self, folder: PurePath) -> PurePosixPath | None:
        """Return the plain path to a folder that is inside this one, or None if it is not."""
        try:
            path = (self.root / folder).resolve().relative_to(self.root.resolve())
        except (OSError, ValueError, RuntimeError):
            return None
        return PurePosixPath(path.as_posix())

    def newest(self) -> list[str]:
        """Return the names of the pictures in the folder itself that changed last."""
        newest = heapq.nlargest(LISTED, islice(_pictures(self.root), _LOOKED_AT))
        return [name for _, name in newest]


def _facts(file: BinaryIO, folder: Path) -> os.stat_result:
    """Return what an open file is, when whoever is just putting it in place has done so."""
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        return facts
    for seconds in _PLACING:
        if facts.st_nlink <= 1:
            return facts
        time.sleep(seconds)
        facts = os.fstat(file.fileno())
    if facts.st_nlink > 1:
        # Whoever it was may have been killed.
        unlink_temporary_names(folder, facts)
        facts = os.fstat(file.fileno())
    return facts


def _opened(root: Path, path: Path, closed: os.stat_result | None) -> int:
    """Open a resolved path under a resolved root, and return its descriptor.

    Raises:
        OSError: If a step of the path is not there, has become a link, or is the closed folder.
    """
    # Opening a FIFO would otherwise wait for a writer that may never come.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not _WALKS:
        return _compared(root, path, flags)
    flags |= os.O_NOFOLLOW
    *folders, name = path.relative_to(root).parts
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
            if closed is not None and os.path.samestat(os.fstat(here), closed):
                raise OSError("The folder is closed.")
        return os.open(name, flags, dir_fd=here)
    finally:
        os.close(here)


def _compared(root: Path, path: Path, flags: int) -> int:
    """Open where steps cannot be opened one by one, and look afterwards what it was."""
    opened = os.open(path, flags)
    if path.resolve().is_relative_to(root) and os.path.samestat(os.fstat(opened), os.lstat(path)):
        return opened
    os.close(opened)
    raise OSError("The file was replaced while it was opened.")


def _pictures(folder: Path) -> Iterator[tuple[float, str]]:
    """Yield the time of change, in seconds, and the name of each picture in a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if Path(name).suffix.lower() not in _SUFFIXES or not name.isprintable():
                    continue
                if not name.startswith(".") and entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_mtime, name
    except OSError:
        return
