"""Opening a file whose name somebody else may have given to a link, a FIFO or a folder."""

import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["open_regular_file"]


def open_regular_file(path: Path) -> BufferedReader | None:
    """Open a regular file for reading, without following a symbolic link and without waiting.

    Returns:
        The file, or None if the path is anything else, such as a link, a folder or a FIFO.

    Raises:
        OSError: If the path does not exist, or the file cannot be opened.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)
    except OSError:
        # The error for a link, a folder or a socket is not the same on all systems.
        if stat.S_ISREG(os.lstat(path).st_mode):
            raise
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _open_without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO waits for a writer, perhaps forever. Windows has neither
    # flag, and only administrators can make symbolic links there.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
