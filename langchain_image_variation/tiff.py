"""The first directory of a TIFF block, the form of Exif and of an MPO file's index.

Directories are those of TIFF 6.0, section 2.
"""

import struct

__all__ = ["value_bytes"]

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The number of bytes in a value of each type. Readers ignore entries of other types."""


def value_bytes(block: bytes) -> int:
    """Return how many bytes a reader copies for the values of the first directory.

    Values that overlap count each time. Values of up to 4 bytes, which stand in the directory, do
    not count. A value that reaches beyond the block ends the count, as it ends Pillow's reading.

    Args:
        block: A TIFF header and what follows it. A block without a directory has no values.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 0
    total = 0
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            _, kind, values, offset = struct.unpack_from(f"{order}HHII", block, entry)
            size = values * _UNITS.get(kind, 0)
            if size > 4:
                if offset + size > len(block):
                    break
                total += size
    except struct.error:
        pass  # The directory is cut off.
    return total
