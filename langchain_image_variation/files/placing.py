"""How a file gets into a folder whole, never in the place of another content.

It is written under a temporary name, then linked to its own, and then the temporary one is removed.
For a moment it has both; a process that is killed in that moment leaves both.
"""

import contextlib
import os
from pathlib import Path

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.unfinished import UNFINISHED, unfinished_name

__all__ = ["finish_placing", "place_file"]

_AT_FOLDER = {os.stat, os.unlink} <= os.supports_dir_fd and os.scandir in os.supports_fd


def place_file(directory: Path, name: str, data: bytes) -> bytes | None:
    """Put a file into an existing folder whole, unless the name is taken.

    Returns:
        The content of that name: `data`, or what was there before, or None if it is not a file.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        return _placed(data, directory / name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"{name!r} cannot be written: {reason}. Make room, or name another folder."
        ) from None


def finish_placing(directory: Path, file: os.stat_result) -> None:
    """Remove the temporary names that a file in a folder has beside its own, if that can be done.

    Names of other files are left alone, so no content is lost.

    Args:
        directory: The folder that the file is in.
        file: What the file is.
    """
    with contextlib.suppress(OSError):
        if not _AT_FOLDER:
            _remove_temporary(directory, file)
            return
        # Another folder put in its place meanwhile is not touched.
        here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _remove_temporary(here, file)
        finally:
            os.close(here)


def _remove_temporary(directory: Path | int, file: os.stat_result) -> None:
    at = directory if isinstance(directory, int) else None
    with os.scandir(directory) as entries:
        for path in (entry.path for entry in entries if UNFINISHED.fullmatch(entry.name)):
            # Those of files that others are just putting in place go by themselves.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path, dir_fd=at, follow_symlinks=False), file):
                    os.unlink(path, dir_fd=at)


def _placed(data: bytes, path: Path) -> bytes | None:
    if path.exists():
        return _content(path)
    temporary = path.with_name(unfinished_name())
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces a file that appeared meanwhile.
            os.link(temporary, path)
        except OSError:
            if path.exists():
                return _content(path)
            # The file system has no hard links.
            os.replace(temporary, path)
        return data
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
