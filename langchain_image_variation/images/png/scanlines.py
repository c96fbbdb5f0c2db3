"""Checks and completes the compressed pixels of a PNG file, decompressing them piece by piece."""

import zlib
from collections.abc import Iterator

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.images.png.chunks import (
    Header,
    corrupt_png_error,
    join_chunks,
    read_chunks,
    read_header,
)

__all__ = ["check_scanlines", "complete_pixels"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# PNG specification, third edition, 8.1: the start and the step of each pass, in x and y.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_PIECE = 2**18
_LAST_FILTER = 4


def check_scanlines(data: bytes) -> None:
    """Refuse a file that does not have exactly the pixels that its header declares.

    Decoders show different images for such a file: some stop where the pixels end, some leave the
    rest black, and most ignore the checksum. At most a quarter of a MB is decompressed at a time,
    and nothing after the pixels, so a decompression bomb costs no memory.

    Args:
        data: The bytes of a file that has passed `check_order`.

    Raises:
        InvalidImageError: If the data is not a zlib stream, ends early, has a wrong checksum,
            contains more than the pixels or is followed by more data, or if a filter type is
            unknown.
    """
    stream = zlib.decompressobj()
    chunks = read_chunks(data)
    _, body = next(chunks)
    filters = _FilterBytes(read_header(body))
    try:
        for name, body in chunks:
            if name != b"IDAT":
                continue
            rest: bytes | memoryview = body
            piece = b""
            # After a full piece, zlib may return more without further input.
            while not stream.eof and (rest or len(piece) == _PIECE):
                check_cancellation()
                piece = stream.decompress(rest, _PIECE)
                filters.take(piece)
                rest = stream.unconsumed_tail
            if rest or stream.unused_data:
                raise corrupt_png_error("there is more data after its compressed pixels")
    except zlib.error:
        raise corrupt_png_error("its pixels cannot be decompressed") from None
    if not stream.eof or filters.remaining:
        raise corrupt_png_error("its pixels end early")


def complete_pixels(data: bytes) -> bytes:
    """Complete a file that was cut off after its pixels, and compress them again if necessary.

    Args:
        data: The bytes of a file that has passed `check_order`. Its last IDAT chunk may be too
            short.

    Raises:
        InvalidImageError: If not all rows are there, or if the data is not a zlib stream.
    """
    _, header = next(read_chunks(data))
    filters = _FilterBytes(read_header(header))
    stream, new_stream = zlib.decompressobj(), zlib.compressobj()
    parts: list[bytes] = []
    try:
        for name, body in read_chunks(data):
            rest: bytes | memoryview = body if name == b"IDAT" else b""
            piece = b""
            while not stream.eof and (rest or len(piece) == _PIECE):
                check_cancellation()
                piece = stream.decompress(rest, _PIECE)
                filters.take(piece)
                parts.append(new_stream.compress(piece))
                rest = stream.unconsumed_tail
    except zlib.error:
        raise corrupt_png_error("its pixels cannot be decompressed") from None
    if filters.remaining:
        raise corrupt_png_error("its pixels end early: the file is cut off")
    if stream.eof:
        return data
    new_body = b"".join([*parts, new_stream.flush()])
    chunks = [(name, body) for name, body in read_chunks(data) if name != b"IDAT"]
    return join_chunks([*chunks[:-1], (b"IDAT", new_body), chunks[-1]])


class _FilterBytes:
    """Checks the filter byte at the start of each scanline of the decompressed stream."""

    def __init__(self, header: Header) -> None:
        self._passes = list(_passes(header))
        self.remaining = sum(rows * stride for rows, stride in self._passes)
        """How many bytes are still to come."""
        self._bytes_in_pass, self._stride = 0, 1
        self._next_scanline = 0  # Offset of the next scanline from the current position.

    def take(self, piece: bytes) -> None:
        if len(piece) > self.remaining:
            raise corrupt_png_error("it has more pixels than its header declares")
        self.remaining -= len(piece)
        while piece:
            if not self._bytes_in_pass:
                rows, self._stride = self._passes.pop(0)
                self._bytes_in_pass, self._next_scanline = rows * self._stride, 0
            part, piece = piece[: self._bytes_in_pass], piece[self._bytes_in_pass :]
            filter_types = part[self._next_scanline :: self._stride]
            if filter_types and max(filter_types) > _LAST_FILTER:
                raise corrupt_png_error(f"filter type {max(filter_types)} is unknown")
            self._bytes_in_pass -= len(part)
            self._next_scanline = (self._next_scanline - len(part)) % self._stride


def _passes(header: Header) -> Iterator[tuple[int, int]]:
    """Yield the number of scanlines of each pass that has pixels, and the bytes per scanline."""
    bits = _CHANNELS[header.color_type] * header.bit_depth
    for x, y, step_x, step_y in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        width = -(-(header.width - x) // step_x)
        height = -(-(header.height - y) // step_y)
        if width > 0 and height > 0:
            yield height, 1 + -(-width * bits // 8)
