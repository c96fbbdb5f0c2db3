"""The directories of a TIFF file. Exif and the index of an MPO file have the same form.

See TIFF 6.0, section 2, and BigTIFF.
"""

import struct
from typing import Literal

__all__ = ["SIGNATURES", "count_value_bytes"]

# Pillow reads a BigTIFF file with the other byte order as a TIFF file.
_BIG = b"II+\0"
# The last two are wrong, but Pillow reads such files.
SIGNATURES = (b"II*\0", b"MM\0*", _BIG, b"MM\0+", b"II\0*", b"MM*\0")
"""The first bytes of every TIFF file that Pillow opens."""

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The number of bytes in a value of each type. Readers ignore entries of other types."""

_WHOLE_NUMBERS = frozenset({3, 4, 8, 9, 13, 16})
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005


def count_value_bytes(block: bytes) -> int:
    """Return the maximum number of bytes that Pillow copies for values of the first directory.

    The Exif and GPS directories inside it and the interoperability directory inside Exif count too.
    Values that overlap are counted each time. Values that fit into the entry of a directory are not
    counted, and neither are values that extend past the block.

    Args:
        block: A TIFF header and the bytes after it. A block without a directory has no values.
    """
    if not block.startswith(SIGNATURES):
        return 0
    head = struct.Struct(f"{_order(block)}{'8xQ' if block.startswith(_BIG) else '4xI'}")
    if len(block) < head.size:
        return 0
    (start,) = head.unpack_from(block)
    total, directories = _read_directory(block, start)
    if _EXIF in directories:
        size, exif_directories = _read_directory(block, directories[_EXIF])
        total += size
        if _INTEROPERABILITY in exif_directories:
            total += _read_directory(block, exif_directories[_INTEROPERABILITY])[0]
    if _GPS in directories:
        total += _read_directory(block, directories[_GPS])[0]
    return total


def _order(block: bytes) -> Literal["<", ">"]:
    return "<" if block.startswith(b"II") else ">"


def _read_directory(block: bytes, start: int) -> tuple[int, dict[int, int]]:
    """Return the bytes of its values, and the offset of each directory inside it by tag."""
    order = _order(block)
    is_big = block.startswith(_BIG)
    number, entry = (
        struct.Struct(order + "HQ"[is_big]),
        struct.Struct(order + ("HHII", "HHQQ")[is_big]),
    )
    inline_size = 8 if is_big else 4
    total, directories = 0, dict[int, int]()
    if start + number.size > len(block):
        return total, directories
    (entries,) = number.unpack_from(block, start)
    first = start + number.size
    # In corrupt files, directories are often cut off.
    end = min(first + entries * entry.size, len(block) - entry.size + 1)
    for position in range(first, end, entry.size):
        tag, kind, values, offset = entry.unpack_from(block, position)
        size = values * _UNITS.get(kind, 0)
        if size > inline_size and offset + size <= len(block):
            total += size
        if tag in (_EXIF, _GPS, _INTEROPERABILITY) and kind in _WHOLE_NUMBERS and values == 1:
            start_of_value = offset if size > inline_size else position + entry.size - inline_size
            value = block[start_of_value : start_of_value + size]
            directories[tag] = int.from_bytes(value, "little" if order == "<" else "big")
    return total, directories
