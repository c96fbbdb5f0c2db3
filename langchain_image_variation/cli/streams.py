"""Makes printing safe, so that no result is lost to a stream that cannot be written."""

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ["repair_streams"]

_NAME_ERRORS = "image-variation-names"
"""How standard output encodes what its encoding lacks, unless it is a terminal. Programs read file
names there, so a byte of a name that is not text stays as it is. Other characters are escaped."""


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
            is_for_people = name == "stderr" or stream.isatty()
            stream.reconfigure(errors="backslashreplace" if is_for_people else _NAME_ERRORS)
    # A stream that this process redirected is not ours to replace.
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _drop_errors(sys.stderr)


def _encode_character(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # The range may have characters of both kinds.
    error.end = error.start + 1
    is_byte = "\udc80" <= error.object[error.start] <= "\udcff"
    return codecs.lookup_error("surrogateescape" if is_byte else "backslashreplace")(error)


codecs.register_error(_NAME_ERRORS, _encode_character)


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
