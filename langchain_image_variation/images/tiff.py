"""The directories of a TIFF file, or of Exif and an MPO file's index, which have the same form.

Directories are those of TIFF 6.0, section 2, and of BigTIFF.
"""

import struct
from typing import Literal

__all__ = ["SIGNATURES", "value_bytes"]

# Pillow takes a BigTIFF file of the other byte order for a TIFF file.
_BIG = b"II+\0"
# The last two are wrong, but Pillow reads such files.
SIGNATURES = (b"II*\0", b"MM\0*", _BIG, b"MM\0+", b"II\0*", b"MM*\0")
"""The first bytes of every TIFF file that Pillow opens."""

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The number of bytes in a value of each type. Readers ignore entries of other types."""

_WHOLE_NUMBERS = frozenset({3, 4, 8, 9, 13, 16})
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005


def value_bytes(block: bytes) -> int:
    """Return how many bytes Pillow copies, at most, for the values of the first directory.

    The Exif and GPS directories inside it and the interoperability directory inside Exif count too.
    Values that overlap count each time. Values that fit into a directory's entry do not count, and
    neither do values that reach beyond the block.

    Args:
        block: A TIFF header and what follows it. A block without a directory has no values.
    """
    if not block.startswith(SIGNATURES):
        return 0
    head = struct.Struct(f"{_order(block)}{'8xQ' if block.startswith(_BIG) else '4xI'}")
    if len(block) < head.size:
        return 0
    (start,) = head.unpack_from(block)
    total, inside = _read_directory(block, start)
    if _EXIF in inside:
        size, inside_exif = _read_directory(block, inside[_EXIF])
        total += size
        if _INTEROPERABILITY in inside_exif:
            total += _read_directory(block, inside_exif[_INTEROPERABILITY])[0]
    if _GPS in inside:
        total += _read_directory(block, inside[_GPS])[0]
    return total


def _order(block: bytes) -> Literal["<", ">"]:
    return "<" if block.startswith(b"II") else ">"


def _read_directory(block: bytes, start: int) -> tuple[int, dict[int, int]]:
    """Return how many bytes the values have, and where the directories inside it start, by tag."""
    order = _order(block)
    big = block.startswith(_BIG)
    number, entry = struct.Struct(order + "HQ"[big]), struct.Struct(order + ("HHII", "HHQQ")[big])
    room = 8 if big else 4
    total, directories = 0, dict[int, int]()
    if start + number.size > len(block):
        return total, directories
    (entries,) = number.unpack_from(block, start)
    first = start + number.size
    # Directories are often cut off in broken files.
    end = min(first + entries * entry.size, len(block) - entry.size + 1)
    for position in range(first, end, entry.size):
        tag, kind, values, offset = entry.unpack_from(block, position)
        size = values * _UNITS.get(kind, 0)
        if size > room and offset + size <= len(block):
            total += size
        if tag in (_EXIF, _GPS, _INTEROPERABILITY) and kind in _WHOLE_NUMBERS and values == 1:
            place = offset if size > room else position + entry.size - room
            value = block[place : place + size]
            directories[tag] = int.from_bytes(value, "little" if order == "<" else "big")
    return total, directories
