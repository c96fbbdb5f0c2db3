"""`ImageFolder`: the images under a folder. No path, however it is spelled, leads out of it."""

import contextlib
import heapq
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from langchain_image_variation.agents.conversation import MAX_LISTED
from langchain_image_variation.exceptions import SourceError, excerpt
from langchain_image_variation.files.atomic import unlink_temporary_names
from langchain_image_variation.images.formats import SUFFIXES

__all__ = ["MAX_PATH_LENGTH", "ImageFolder", "ImageListing"]

MAX_PATH_LENGTH = 4_096
"""The maximum length of a path in characters. The systems allow no longer ones, and following or
normalizing a text of megabytes would take minutes."""

_MAX_ENTRIES = 10_000
"""The maximum number of folder entries to read when listing images. A project's folder may have
many more, for example in `node_modules`. Reading this many takes tens of milliseconds, or half
a second if most are folders."""

_MAX_DEPTH = 8
"""How many levels of subfolders are listed. Each folder is opened from the root, step by step, so
a deep one takes longer."""

_PLACING_WAITS = (0.001, 0.01, 0.05)
"""Seconds between successive checks of a result that still has its temporary name too."""

_OPENS_STEPWISE = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""Whether this system can open each part of a path relative to the previous one."""


@dataclass(frozen=True, slots=True)
class ImageListing:
    """The images in a folder and its subfolders."""

    names: list[str]
    """The paths of the images that changed last, relative to the folder, the newest first."""
    count: int
    """How many images were found."""
    is_complete: bool
    """Whether no limit cut the list off. Folders that cannot be read are left out."""


class ImageFolder:
    """A folder whose images may be read, including those in its subfolders.

    Nothing outside can be reached. A path is resolved, with its symbolic links, before it is
    compared with the folder. Then each part of the resolved path is opened relative to the previous
    one without following links, so a link that appears in between leads nowhere. A file with a
    second name (a hard link) is refused, because that name may be outside. The only exception is
    the temporary name of a result, which a killed process left next to it: that name is removed.

    Args:
        root: The folder.

    Raises:
        SourceError: If there is no such folder, or if the working directory was deleted and the
            folder is relative to it.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.resolve()
        except FileNotFoundError:
            # `is_dir` would still be true of ".".
            raise SourceError(
                "The working directory was deleted.",
                hint="Change to another one, or set an absolute root_dir.",
            ) from None
        if not root.is_dir():
            raise SourceError(
                f"There is no folder {root.name!r}.",
                hint="Create it, or set another root_dir.",
            )
        self.root = root

    def open(self, name: str, *, excluded_folder: PurePath | None = None) -> BinaryIO | None:
        """Open a file for reading, or return None if the folder has no such file.

        Args:
            name: A path relative to the folder.
            excluded_folder: A folder below this one, relative to it, that counts as outside.

        Raises:
            SourceError: If the file cannot be read, or if it is a hard link.
        """
        if len(name) > MAX_PATH_LENGTH:
            return None
        try:
            root, path = self.root.resolve(), (self.root / name).resolve()
            if not path.is_relative_to(root) or path == root:
                return None
            excluded_stat = None
            if excluded_folder is not None:
                excluded_path = (self.root / excluded_folder).resolve()
                if path.is_relative_to(excluded_path):
                    return None
                # Where case does not matter, the path may spell the same folder differently.
                excluded_stat = os.stat(excluded_path) if excluded_path.exists() else None
            file = open(path, "rb", opener=lambda *_: _open_inside(root, path, excluded_stat))
        except PermissionError:
            raise SourceError(
                f"{excerpt(Path(name).name)} cannot be read.", hint="Check its permissions."
            ) from None
        # The name is too long or contains a NUL, or there is a loop of links.
        except (OSError, ValueError, RuntimeError):
            return None
        file_stat = _settled_stat(file, path.parent)
        if stat.S_ISREG(file_stat.st_mode) and file_stat.st_nlink <= 1:
            return file
        file.close()
        if not stat.S_ISREG(file_stat.st_mode):
            return None
        raise SourceError(
            f"{excerpt(Path(name).name)} is a hard link.",
            hint="Its other name may be outside the folder; use a copy of the file.",
        )

    def contains(self, folder: PurePath) -> bool:
        """Return whether a folder, relative to this one, is inside it. The folder itself is not."""
        try:
            return self.root.resolve() in (self.root / folder).resolve().parents
        except (OSError, ValueError, RuntimeError):
            return False

    def relative_path(self, folder: PurePath) -> PurePosixPath | None:
        """Return the shortest path to a folder inside this one, or None if it is outside."""
        try:
            path = (self.root / folder).resolve().relative_to(self.root.resolve())
        except (OSError, ValueError, RuntimeError):
            return None
        return PurePosixPath(path.as_posix())

    def list_images(
        self, max_names: int = MAX_LISTED, *, excluded_folder: PurePath | None = None
    ) -> ImageListing:
        """List the images in the folder and its subfolders, the folder itself first.

        Hidden files and folders, links and hard links are left out. So is what a limit cuts off:
        at most `_MAX_ENTRIES` entries are read, in `_MAX_DEPTH` levels of subfolders.

        Args:
            max_names: The maximum number of names. The images that changed last are named.
            excluded_folder: A folder below this one, relative to it, to leave out.
        """
        excluded_stat = None
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if excluded_folder is not None:
                excluded_stat = os.stat(self.root / excluded_folder)
        images: list[tuple[float, str]] = []
        folders, unread, is_complete = deque([PurePosixPath()]), _MAX_ENTRIES, True
        while folders and unread:
            folder = folders.popleft()
            subfolders = []
            with contextlib.suppress(OSError), _scan(self.root, folder, excluded_stat) as entries:
                for entry in entries:
                    if not unread:
                        is_complete = False
                        break
                    unread -= 1
                    path = (folder / entry.name).as_posix()
                    if _is_folder(entry):
                        subfolders.append(folder / entry.name)
                    elif (changed := _change_time(entry)) is not None:
                        images.append((changed, path))
            if len(folder.parts) < _MAX_DEPTH:
                folders.extend(sorted(subfolders))
            else:
                is_complete = is_complete and not subfolders
        newest = heapq.nlargest(max_names, images)
        return ImageListing(
            names=[name for _, name in newest],
            count=len(images),
            is_complete=is_complete and not folders,
        )


def _settled_stat(file: BinaryIO, folder: Path) -> os.stat_result:
    """Return the status of an open file, once another process has finished placing it."""
    file_stat = os.fstat(file.fileno())
    if not stat.S_ISREG(file_stat.st_mode):
        return file_stat
    for seconds in _PLACING_WAITS:
        if file_stat.st_nlink <= 1:
            return file_stat
        time.sleep(seconds)
        file_stat = os.fstat(file.fileno())
    if file_stat.st_nlink > 1:
        # The process may have been killed in between.
        unlink_temporary_names(folder, file_stat)
        file_stat = os.fstat(file.fileno())
    return file_stat


def _open_inside(root: Path, path: Path, excluded_stat: os.stat_result | None) -> int:
    """Open a resolved path under a resolved root, and return its descriptor.

    Raises:
        OSError: If a part of the path does not exist, has become a link, or is the excluded folder.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer, perhaps forever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not _OPENS_STEPWISE:
        return _open_and_compare(root, path, flags)
    flags |= os.O_NOFOLLOW
    *folders, name = path.relative_to(root).parts
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            subfolder = os.open(
                folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor
            )
            os.close(descriptor)
            descriptor = subfolder
            if excluded_stat is not None and os.path.samestat(os.fstat(descriptor), excluded_stat):
                raise OSError("The folder is excluded.")
        return os.open(name, flags, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _open_and_compare(root: Path, path: Path, flags: int) -> int:
    """Open a path as a whole, and check afterwards that no part of it was replaced."""
    descriptor = os.open(path, flags)
    is_inside = path.resolve().is_relative_to(root)
    if is_inside and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
        return descriptor
    os.close(descriptor)
    raise OSError("The file was replaced while it was opened.")


@contextlib.contextmanager
def _scan(
    root: Path, folder: PurePosixPath, excluded_stat: os.stat_result | None
) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Yield the entries of a folder below a root.

    Raises:
        OSError: If the folder cannot be read, has become a link, or is the excluded folder.
    """
    if not _OPENS_STEPWISE or os.scandir not in os.supports_fd:
        path = root / folder
        # Windows does not count a junction as a link.
        if path.resolve() != root.resolve() / folder:
            raise OSError("The folder has become a link.")
        if excluded_stat is not None and os.path.samestat(os.stat(path), excluded_stat):
            raise OSError("The folder is excluded.")
        with os.scandir(path) as entries:
            yield entries
        return
    if folder.parts:
        descriptor = _open_inside(root, root / folder, None)
    else:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if excluded_stat is not None and os.path.samestat(os.fstat(descriptor), excluded_stat):
            raise OSError("The folder is excluded.")
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder to list."""
    try:
        return _is_visible(entry.name) and entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _change_time(entry: os.DirEntry[str]) -> float | None:
    """Return when an image changed, in seconds, or None if the entry is not an image to list."""
    if not _is_visible(entry.name) or Path(entry.name).suffix.lower() not in SUFFIXES:
        return None
    try:
        status = entry.stat(follow_symlinks=False)
    # It was deleted, such as the temporary file of another process.
    except OSError:
        return None
    # On Windows, a listing does not say how many names a file has.
    return status.st_mtime if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 else None


def _is_visible(name: str) -> bool:
    return name.isprintable() and not name.startswith(".")
