"""`folder_lock`: keeps other runs out of an output folder on this machine."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.lock import try_lock

__all__ = ["LOCK_NAME", "LOCK_TIMEOUT", "folder_lock"]

LOCK_NAME = f"{BATCH_DIR}/lock"
"""The path of the lock file, relative to the outputs."""

LOCK_TIMEOUT = 1.0
"""Seconds to wait for a folder's lock. Workers hold it for a moment after their run has ended."""


@contextmanager
def folder_lock(output_dir: Path) -> Iterator[int]:
    """Lock an output folder for the block.

    Yields:
        The file descriptor of the lock. A child that inherits it holds the lock while it lives.

    Raises:
        OutputError: If another run holds the lock, or the lock file cannot be created.
    """
    path = output_dir / LOCK_NAME
    deadline = time.monotonic() + LOCK_TIMEOUT
    try:
        while (descriptor := _try_lock(path)) is None:
            if time.monotonic() > deadline:
                raise OutputError(
                    f"Another run is writing to the folder {output_dir.name!r}. Wait until it "
                    "ends, or choose another folder."
                )
            time.sleep(0.05)
    except OSError as error:
        raise OutputError(
            f"The folder {output_dir.name!r} cannot be locked: {error.strerror}. "
            "Check its permissions, or choose another folder."
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Take the lock if it is free. The system frees it once all its holders have ended.

    Returns:
        The file descriptor that holds the lock, or None if it is not free.

    Raises:
        OSError: If the file cannot be opened or locked.
    """
    path.parent.mkdir(exist_ok=True)
    # Another run that recorded nothing may remove the file and its folder at any time.
    try:
        descriptor = _open_lock(path)
    except FileNotFoundError:
        return None
    is_locked = False
    try:
        with suppress(FileNotFoundError):
            is_locked = try_lock(descriptor) and os.path.samestat(
                os.fstat(descriptor), os.stat(path)
            )
    finally:
        if not is_locked:
            os.close(descriptor)
    return descriptor if is_locked else None


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # The file belongs to another user. A read-only descriptor can still see their lock.
        return os.open(path, os.O_RDONLY)
