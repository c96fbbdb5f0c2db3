"""Messages between a run and its workers: pickles, each after its length, over a pipe."""

import pickle
import struct
from typing import IO, Any

from langchain_image_variation.exceptions import EngineError, ImageVariationError

__all__ = ["portable", "receive", "send"]

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


def portable(error: ImageVariationError) -> ImageVariationError:
    """Return an error that arrives: one of a foreign class might not, nor what any carries."""
    ours = type(error).__module__ == ImageVariationError.__module__
    return (type(error) if ours else EngineError)(error.message)


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
