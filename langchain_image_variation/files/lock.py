"""Locks on open files, between processes. The system frees a lock once its holders have ended."""

import errno
import os

__all__ = ["try_lock"]

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process or another descriptor has locked it.

    Args:
        descriptor: The file, opened for writing. Closing it frees the lock.

    Returns:
        Whether this descriptor holds the lock now.

    Raises:
        OSError: If the file system has no locks.
    """
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True
