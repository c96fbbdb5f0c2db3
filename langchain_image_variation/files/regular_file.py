"""Opens a file that somebody else may have replaced with a link, a FIFO or a folder."""

import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["open_regular_file"]


def open_regular_file(path: Path, *, follow_link: bool = False) -> BufferedReader | None:
    """Open a regular file for reading, without waiting.

    Args:
        path: The path of the file.
        follow_link: Whether the path may be a symbolic link to the file.

    Returns:
        The file, or None if the path is anything else, such as a folder or a FIFO.

    Raises:
        OSError: If the path does not exist, or the file cannot be opened.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer, perhaps forever. Windows has neither
    # flag, and only administrators can make symbolic links there.
    further_flags = getattr(os, "O_NONBLOCK", 0)
    if not follow_link:
        further_flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | further_flags))
    except OSError:
        # The error for a link, a folder or a socket differs between systems.
        if stat.S_ISREG(os.stat(path, follow_symlinks=follow_link).st_mode):
            raise
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None
