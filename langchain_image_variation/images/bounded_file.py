"""A file in memory that limits what a decoder may read from it."""

import io
from typing import NoReturn

from langchain_image_variation.cancellation import cancellation, cancelled_error
from langchain_image_variation.exceptions import InvalidImageError

__all__ = ["MAX_REREAD", "BoundedFile"]

MAX_REREAD = 8
"""Pillow may read at most this many times the length of a file, plus 64 KB. It reads most files
once or twice. The strips of a corrupt TIFF file can make it read the same bytes thousands of times.
"""

_SLACK = 65_536


class BoundedFile(io.BytesIO):
    """The bytes of an image file, for Pillow.

    Pillow's readers are written in Python. They call `read` for every small part of a file: a block
    of a GIF file, a chunk of a PNG file, a run of a BMP file, an entry or a strip of a TIFF file.
    So a limit on reads limits the time that any of them can take.

    Each `read` also checks whether the caller has gone away.

    Args:
        data: The bytes of the file.
        max_reads: How many times `read` may be called.
    """

    def __init__(self, data: bytes, max_reads: int) -> None:
        super().__init__(data)
        self._length, self._max_reads = len(data), max_reads
        self._reads_left = max_reads
        self._bytes_left = MAX_REREAD * len(data) + _SLACK
        self._is_cancelled = cancellation()

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            InvalidImageError: If the limit is exceeded.
            EngineError: If the caller has gone away.
        """
        piece = io.BytesIO.read(self, size)
        self._reads_left -= 1
        self._bytes_left -= len(piece)
        if self._reads_left < 0 or self._bytes_left < 0 or self._is_cancelled():
            self._stop()
        return piece

    def _stop(self) -> NoReturn:
        if self._is_cancelled():
            raise cancelled_error()
        if self._reads_left < 0:
            raise InvalidImageError(
                f"image exceeds the limit of {self._max_reads:,} reads for a file of "
                f"{self._length:,} bytes. Save it again."
            )
        raise InvalidImageError(
            f"image is a file whose parts overlap more than {MAX_REREAD} times. Save it again."
        )
