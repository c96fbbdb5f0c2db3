"""`folder_lock`: one run at a time into one output folder."""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langchain_image_variation.batch.ledger import LEDGER_DIR
from langchain_image_variation.exceptions import OutputError

__all__ = ["PATIENCE", "folder_lock"]

PATIENCE = 1.0
"""Seconds to wait for another run to end: its workers live a moment longer than it."""


@contextmanager
def folder_lock(output_dir: Path) -> Iterator[int]:
    """Hold an output folder for the block.

    Yields:
        A file descriptor. A child that inherits it holds the folder as long as it lives.

    Raises:
        OutputError: If another run holds it, or the lock's file cannot be made.
    """
    folder = output_dir / LEDGER_DIR
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"The folder {output_dir.name!r} cannot be locked: {error.strerror}."
        ) from None
    try:
        deadline = time.monotonic() + PATIENCE
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise OutputError(
                    f"Another run is writing to the folder {output_dir.name!r}; wait for its end, "
                    "or name another folder."
                )
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Take the lock if it is free; the system frees it when all who hold it have ended."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
