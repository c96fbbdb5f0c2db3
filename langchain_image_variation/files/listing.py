"""`list_files`: the regular files of a folder that other processes may be changing."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

__all__ = ["list_files"]


def list_files(
    folder: str | os.PathLike[str], matches: Callable[[str], object] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the name and the status of each regular file in a folder, in any order.

    Links and subfolders are left out. A file that disappears before its status is read, such as the
    temporary file of another writer, is left out too, and the listing goes on.

    Args:
        folder: The folder.
        matches: Takes a name, and returns whether to yield the file. None yields all files.

    Raises:
        OSError: If the folder does not exist or cannot be listed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if matches is not None and not matches(entry.name):
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, status
