"""Messages between a run and a worker process: pickles over a pipe, each after its length."""

import pickle
import struct
from typing import IO, Any

from langchain_image_variation.exceptions import EngineError, ImageVariationError

__all__ = ["portable_error", "receive", "send"]

_LENGTH = struct.Struct(">Q")


def send(pipe: IO[bytes], message: object) -> None:
    """Send a message.

    Raises:
        OSError: If the other process has ended.
    """
    data = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Receive a message. Unpickling is safe because both processes belong to the run.

    Raises:
        EOFError: If the other process has ended, before the message or in the middle of it.
    """
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    return pickle.loads(_read(pipe, length))


def portable_error(error: ImageVariationError) -> ImageVariationError:
    """Return an error that can be pickled. It keeps the message, but no foreign class or data."""
    is_ours = type(error).__module__ == ImageVariationError.__module__
    return (type(error) if is_ours else EngineError)(error.message)


def _read(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data
