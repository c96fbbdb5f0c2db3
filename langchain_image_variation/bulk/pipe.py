"""Messages between a run and its workers: pickles, each after its length, over a pipe."""

import pickle
import struct
from typing import IO, Any

__all__ = ["receive", "send"]

_LENGTH = struct.Struct(">Q")


def send(file: IO[bytes], message: object) -> None:
    """Write a message.

    Raises:
        OSError: If nobody reads any more.
    """
    data = pickle.dumps(message)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """Read a message; both sides of the pipe are processes of ours.

    Raises:
        EOFError: If the other side is gone, before a message or amid one.
    """
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    return pickle.loads(_exactly(file, length))


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
