"""`SharedFileSystem`: a file system that threads and forked processes use at the same time."""

import os
import threading
from collections.abc import Callable

from langchain_image_variation.files.file_system import FileSystem

__all__ = ["SharedFileSystem"]


class SharedFileSystem:
    """Opens a file system again where its connection cannot be shared.

    Forked processes cannot share a connection. Threads can if the file system is async, because
    fsspec then uses the connection in a separate thread.

    An instance pickles if `open_file_system` does.

    Args:
        open_file_system: Opens the file system. Called immediately, so that errors show up early.
    """

    def __init__(self, open_file_system: Callable[[], FileSystem]) -> None:
        self._open = open_file_system
        self._local = threading.local()
        self._shared: tuple[int, FileSystem] | None = None
        self.get()

    def get(self) -> FileSystem:
        """Return the file system for this thread.

        Raises:
            ImageVariationError: See `FileSystem`.
        """
        process = os.getpid()
        for opened in (self._shared, getattr(self._local, "opened", None)):
            if opened is not None and opened[0] == process:
                file_system: FileSystem = opened[1]
                return file_system
        file_system = self._open()
        if file_system.is_async:
            self._shared = process, file_system
        else:
            self._local.opened = process, file_system
        return file_system

    def __getstate__(self) -> dict[str, object]:
        return {"_open": self._open}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _local=threading.local(), _shared=None)
