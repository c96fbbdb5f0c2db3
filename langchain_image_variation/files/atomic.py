"""Atomic writes: a reader sees the old file, the new file or none, but never part of a file.

The content goes to a temporary file in the same folder, which then gets the final name. A process
that is killed in between leaves only the temporary file.
"""

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.regular_file import open_regular_file

__all__ = [
    "TEMPORARY_NAME",
    "atomic_write",
    "is_left_over",
    "link_or_rename",
    "place_file",
    "temporary_name",
    "unlink_temporary_names",
    "unwritable_error",
]

TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{16}\.part")
"""Matches the name of a temporary file, but no name that a person would choose."""

_LEFT_OVER_AGE = 3600.0
"""The age in seconds at which a temporary file counts as left over by a process that was killed.
Writing a file takes seconds."""

_HAS_DIR_FD = {os.stat, os.unlink} <= os.supports_dir_fd and os.scandir in os.supports_fd


def temporary_name() -> str:
    """Return a new, hidden name that matches `TEMPORARY_NAME`."""
    return f".{secrets.token_hex(8)}.part"


def is_left_over(name: str, mtime: float) -> bool:
    """Return whether a file is a temporary one that a process left behind when it was killed.

    Args:
        name: The name of the file.
        mtime: Its modification time, in seconds since 1970.
    """
    return TEMPORARY_NAME.fullmatch(name) is not None and time.time() - mtime > _LEFT_OVER_AGE


@contextlib.contextmanager
def atomic_write(
    path: Path,
    *,
    publish: Callable[[Path, Path], None] = os.replace,
    sync: bool = True,
    mode: int = 0o666,
    mtime: float | None = None,
) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` when the block ends without an error.

    Args:
        path: The file to write. Its folder must exist.
        publish: Gives the temporary file its final name. `os.replace` replaces a file of that name;
            `os.link` raises `FileExistsError` instead.
        sync: Whether to flush the content to the disk first, so that the file survives a power cut.
            The folder's entry for it is not flushed.
        mode: The file's permissions, before the umask.
        mtime: The file's modification time, in seconds since 1970. By default, the current time.

    Raises:
        OSError: If the file cannot be written or published.
    """
    temporary = path.with_name(temporary_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if mtime is not None:
            os.utime(temporary, (mtime, mtime))
        publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def place_file(directory: Path, name: str, data: bytes) -> bytes | None:
    """Write a file to an existing folder, unless the folder already has a file of that name.

    For a moment, the new file has both its temporary and its final name. A process that is killed
    at that moment leaves both: see `unlink_temporary_names`.

    Returns:
        The content under that name: `data`, or the existing content, or None if it is not a regular
        file or cannot be read. A symbolic link is not followed.

    Raises:
        OutputError: If the file cannot be written.
    """
    path = directory / name
    try:
        if os.path.lexists(path):
            return _content(path)
        try:
            with atomic_write(path, publish=link_or_rename) as file:
                file.write(data)
        except FileExistsError:
            return _content(path)
        return data
    except OSError as error:
        raise unwritable_error(name, error) from None


def unwritable_error(name: str, error: OSError) -> OutputError:
    """Return the error for a file that cannot be written."""
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Check the permissions of its folder, which may belong to another user,"
    else:
        remedy = "Free some space"
    return OutputError(f"{name!r} cannot be written: {reason}. {remedy} or choose another folder.")


def unlink_temporary_names(directory: Path, file: os.stat_result) -> None:
    """Remove the temporary names that a file in a folder still has, if possible.

    Only names that match `TEMPORARY_NAME` and link to this file are removed, so no content is lost.

    Args:
        directory: The folder of the file.
        file: The `stat` of the file.
    """
    with contextlib.suppress(OSError):
        if not _HAS_DIR_FD:
            _unlink_temporary_names(directory, file)
            return
        # An open descriptor still refers to this folder if another one takes its path in the
        # meantime.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _unlink_temporary_names(descriptor, file)
        finally:
            os.close(descriptor)


def _unlink_temporary_names(directory: Path | int, file: os.stat_result) -> None:
    dir_fd = directory if isinstance(directory, int) else None
    with os.scandir(directory) as entries:
        for path in (entry.path for entry in entries if TEMPORARY_NAME.fullmatch(entry.name)):
            # Temporary files of other writers disappear while we look.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path, dir_fd=dir_fd, follow_symlinks=False), file):
                    os.unlink(path, dir_fd=dir_fd)


def link_or_rename(temporary: Path, path: Path) -> None:
    """Link the file to its final name, or rename it if the file system has no hard links.

    Unlike a rename, a link never replaces a file that another process has just written.

    Raises:
        FileExistsError: If a file with the final name exists.
        OSError: If the file can be neither linked nor renamed.
    """
    try:
        os.link(temporary, path)
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError from None
        os.replace(temporary, path)


def _content(path: Path) -> bytes | None:
    try:
        file = open_regular_file(path)
    except (FileNotFoundError, PermissionError):
        # It was removed in the meantime, or another user wrote it.
        return None
    if file is None:
        return None
    with file:
        return file.read()
