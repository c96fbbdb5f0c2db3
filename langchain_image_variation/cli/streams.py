"""Makes printing safe, so that no result is lost to a stream that cannot be written."""

import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ["repair_streams"]


def repair_streams() -> None:
    """Make printing safe if a stream is closed or cannot show every character.

    Notes and progress that standard error cannot take are dropped. Standard output still raises an
    `OSError`, because its reader must not get incomplete results without an error.
    """
    # If standard error is closed, the next file to be opened would get its descriptor, and error
    # messages would end up in that file.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A stream that this process redirected is not ours to replace.
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _drop_errors(sys.stderr)


def _drop_errors(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream that writes to the same place, and drops what cannot be written there."""
    # With `python -u`, the buffer of a stream is the raw stream.
    raw: Any = getattr(stream.buffer, "raw", stream.buffer)
    return io.TextIOWrapper(
        io.BufferedWriter(_LossyStream(raw)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


class _LossyStream(io.RawIOBase):
    """A raw stream that drops what cannot be written, as when its terminal is closed.

    Args:
        raw: Where to write. It stays open.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any, /) -> int:
        length = memoryview(data).nbytes
        with suppress(OSError):
            # None if it would block.
            return self._raw.write(data) or length
        return length
