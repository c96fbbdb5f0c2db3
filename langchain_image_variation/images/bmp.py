"""The header of a BMP file (BITMAPINFOHEADER and its later versions)."""

from typing import NamedTuple

__all__ = ["Size", "read_run_lengths"]

_RUN_LENGTHS = (1, 2)
"""The values of biCompression for run-length encoding, with 8 and 4 bits per pixel."""


class Size(NamedTuple):
    """The size of an image in pixels."""

    width: int
    height: int


def read_run_lengths(data: bytes) -> Size | None:
    """Return the size of a run-length encoded BMP image, or None for any other file."""
    # The oldest header, of 12 bytes, has no compression field.
    if data[:2] != b"BM" or int.from_bytes(data[14:18], "little") == 12:
        return None
    if int.from_bytes(data[30:34], "little") not in _RUN_LENGTHS:
        return None
    # A negative height means that the first row is the top one.
    height = abs(int.from_bytes(data[22:26], "little", signed=True))
    return Size(int.from_bytes(data[18:22], "little"), height)
