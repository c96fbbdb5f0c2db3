"""Removes files whose names match, and then their folder if nothing else is in it."""

import errno
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.listing import list_files

__all__ = ["FileFilter", "remove_files", "remove_stored_files"]

FileFilter: TypeAlias = Callable[[str, float], bool]
"""Takes the name of a file and its modification time in seconds since 1970, and returns whether to
remove the file."""


def remove_files(folder: Path, is_removable: FileFilter) -> None:
    """Remove files from a local folder, and the folder if it is then empty.

    Links in the folder are not removed. Another process may remove files at the same time.

    Args:
        folder: The folder. The caller checks that it is not a link. It may be missing.
        is_removable: Chooses the files.

    Raises:
        OutputError: If the folder cannot be listed, or if a file or the empty folder cannot be
            removed.
    """
    try:
        files = [name for name, status in list_files(folder) if is_removable(name, status.st_mtime)]
        for name in files:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"Files in {folder.name!r} cannot be deleted: {reason}. Check its permissions."
        ) from None


def remove_stored_files(file_system: FileSystem, folder: str, is_removable: FileFilter) -> None:
    """Do what `remove_files` does, in any file system.

    Args:
        file_system: The file system.
        folder: The folder in it.
        is_removable: Chooses the files.

    Raises:
        OutputError: If the folder cannot be listed, if a file cannot be removed, or if the folder
            is a link on this machine.
    """
    if file_system.folder is not None:
        _check_no_link(Path(file_system.folder), PurePosixPath(folder))
    with file_system.translate_errors("cannot delete files; check its permissions, or try again"):
        for file in file_system.list_folder(folder):
            # If the time is unknown, another process may still be writing the file.
            if is_removable(file.name, file.mtime or time.time()):
                file_system.remove(f"{folder}/{file.name}")
        file_system.remove_empty_folder(folder)


def _check_no_link(root: Path, folder: PurePosixPath) -> None:
    """Check that neither a folder below a root nor a folder between the two is a link.

    Raises:
        OutputError: If one is a link.
    """
    for path in (folder, *folder.parents[:-1]):
        if (root / path).is_symlink():
            raise OutputError(f"The folder {path.name!r} is a link. Delete the link.")
