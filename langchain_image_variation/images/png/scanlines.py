"""The compressed pixels of a PNG file, inflated piece by piece to see that they are whole."""

import zlib
from collections.abc import Iterator

from langchain_image_variation.images.png.chunks import Header, corrupt, header, read

__all__ = ["check_scanlines"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# PNG specification, third edition, 8.1: where each pass starts and steps, in x and y.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_PIECE = 2**18
_LAST_FILTER = 4


def check_scanlines(data: bytes) -> None:
    """Refuse a file whose pixels are not exactly those that its header announces.

    Decoders differ in what they show of such a file: some stop where the pixels end, some leave the
    rest black, most do not compare the checksum. No more than a quarter of a MB is inflated at a
    time, and nothing beyond the pixels, so a bomb costs no memory.

    Args:
        data: The bytes of a file that has passed `check_order`.

    Raises:
        InvalidImageError: If the stream is no zlib stream, ends early, has a wrong checksum, holds
            more than the pixels or is followed by something, or a filter type is unknown.
    """
    stream = zlib.decompressobj()
    chunks = read(data)
    _, body = next(chunks)
    filters = _Filters(header(body))
    try:
        for name, body in chunks:
            if name != b"IDAT":
                continue
            rest: bytes | memoryview = body
            piece = b""
            # A full piece may have more of its kind behind it that needs no further input.
            while not stream.eof and (rest or len(piece) == _PIECE):
                piece = stream.decompress(rest, _PIECE)
                filters.take(piece)
                rest = stream.unconsumed_tail
            if rest or stream.unused_data:
                raise corrupt("something follows its compressed pixels")
    except zlib.error:
        raise corrupt("its pixels cannot be inflated") from None
    if not stream.eof or filters.left:
        raise corrupt("its pixels end early")


class _Filters:
    """Takes the inflated stream and looks at the filter byte that begins each scanline."""

    def __init__(self, head: Header) -> None:
        self._passes = list(_passes(head))
        self.left = sum(rows * stride for rows, stride in self._passes)
        """So many bytes are still to come."""
        self._until_pass_ends, self._stride = 0, 1
        self._next = 0  # So many bytes on, the next scanline begins.

    def take(self, piece: bytes) -> None:
        if len(piece) > self.left:
            raise corrupt("it has more pixels than its header says")
        self.left -= len(piece)
        while piece:
            if not self._until_pass_ends:
                rows, self._stride = self._passes.pop(0)
                self._until_pass_ends, self._next = rows * self._stride, 0
            part, piece = piece[: self._until_pass_ends], piece[self._until_pass_ends :]
            kinds = part[self._next :: self._stride]
            if kinds and max(kinds) > _LAST_FILTER:
                raise corrupt(f"filter type {max(kinds)} is unknown")
            self._until_pass_ends -= len(part)
            self._next = (self._next - len(part)) % self._stride


def _passes(head: Header) -> Iterator[tuple[int, int]]:
    """Yield the number of scanlines of each pass that has pixels, and the bytes of each."""
    bits = _CHANNELS[head.color_type] * head.bit_depth
    for x, y, step_x, step_y in _ADAM7 if head.interlaced else ((0, 0, 1, 1),):
        width = -(-(head.width - x) // step_x)
        height = -(-(head.height - y) // step_y)
        if width > 0 and height > 0:
            yield height, 1 + -(-width * bits // 8)
