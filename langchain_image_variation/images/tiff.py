"""The directories of a TIFF file. Exif and the index of an MPO file have the same form.

See TIFF 6.0, section 2, and BigTIFF. Nothing is decoded here.
"""

import struct
from collections.abc import Iterator
from itertools import zip_longest
from typing import Literal, NamedTuple

__all__ = [
    "MAX_ENTRIES",
    "SIGNATURES",
    "Directory",
    "Grid",
    "Layout",
    "read_directories",
    "read_jpeg_parts",
    "read_layout",
]

# Pillow reads a BigTIFF file with the other byte order as a TIFF file.
_BIG = b"II+\0"
# The last two are wrong, but Pillow reads such files.
SIGNATURES = (b"II*\0", b"MM\0*", _BIG, b"MM\0+", b"II\0*", b"MM*\0")
"""The first bytes of every TIFF file that Pillow opens."""

MAX_ENTRIES = 8192
"""The maximum number of entries of a directory, because Pillow reads them one at a time. libtiff
refuses more than 4,096. A segment of Exif has space for 5,461, which corrupt files may claim."""

_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The number of bytes in a value of each type. Readers ignore entries of other types."""

_BYTES = frozenset({1, 2, 7})
"""The types whose values Pillow keeps as a single string of bytes or characters."""

_WHOLE_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q"}
"""The types of whole numbers that hold offsets and sizes, and their codes in `struct`."""

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 259, 277, 284
_ROWS, _STRIPS, _STRIP_SIZES = 278, 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES = 322, 323, 324, 325
_PARTS = frozenset({_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES})
_LAYOUT = _PARTS | {
    *(_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT),
}
_JPEG = 7
"""The compression of strips and tiles that are JPEG files (TIFF Technical Note 2)."""

_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005


class Entry(NamedTuple):
    """An entry of a directory: a tag and its values."""

    tag: int
    kind: int
    """The type of the values."""
    value_count: int
    """The number of values. An entry may claim more than its block has."""
    start: int
    """The offset of the first value in the block."""
    is_inline: bool
    """Whether the entry itself holds the values."""

    @property
    def size(self) -> int:
        """The number of bytes of all values, or 0 if the type is unknown."""
        return self.value_count * _UNITS.get(self.kind, 0)


class Directory:
    """A directory of a TIFF block.

    Args:
        block: A TIFF header and the bytes after it.
        start: The offset of the directory in the block.
    """

    def __init__(self, block: bytes, start: int) -> None:
        self._block, self._order = block, _order(block)
        is_big = block.startswith(_BIG)
        number = struct.Struct(self._order + "HQ"[is_big])
        row = struct.Struct(self._order + ("HHII", "HHQQ")[is_big])
        inline_size = 8 if is_big else 4
        self.entries: list[Entry] = []
        """The entries. If there are too many, `MAX_ENTRIES` + 1 of them."""
        if start + number.size > len(block):
            return
        count = min(number.unpack_from(block, start)[0], MAX_ENTRIES + 1)
        first = start + number.size
        # In corrupt files, directories are often cut off.
        end = min(first + count * row.size, len(block) - row.size + 1)
        for position in range(first, end, row.size):
            tag, kind, count, offset = row.unpack_from(block, position)
            is_inline = count * _UNITS.get(kind, 0) <= inline_size
            start_of_values = position + row.size - inline_size if is_inline else offset
            self.entries.append(Entry(tag, kind, count, start_of_values, is_inline))

    @property
    def value_bytes(self) -> int:
        """The maximum number of bytes that Pillow copies for the values.

        Values that overlap are counted each time. Values inside entries are not counted, nor are
        values that extend past the block.
        """
        return sum(
            entry.size
            for entry in self.entries
            if not entry.is_inline and entry.start + entry.size <= len(self._block)
        )

    @property
    def numbers(self) -> int:
        """The number of values that Pillow may turn into numbers, one at a time.

        The offsets and sizes of strips and tiles are not counted.
        """
        return sum(
            entry.value_count
            for entry in self.entries
            if entry.kind in _UNITS.keys() - _BYTES
            and entry.tag not in _PARTS
            # Longer values extend past the block, and are ignored.
            and entry.size <= len(self._block)
        )

    def find(self, tag: int) -> Entry | None:
        """Return the first entry with a tag, or None."""
        return next((entry for entry in self.entries if entry.tag == tag), None)

    def read_numbers(self, tag: int, limit: int | None = None) -> list[int]:
        """Return the whole numbers of a tag, or none if the block does not have them.

        Args:
            tag: The tag.
            limit: How many to return. By default, all of them.
        """
        entry = self.find(tag)
        code = _WHOLE_NUMBERS.get(entry.kind) if entry is not None else None
        if entry is None or code is None or entry.start + entry.size > len(self._block):
            return []
        count = entry.value_count if limit is None else min(entry.value_count, limit)
        return list(struct.unpack_from(f"{self._order}{count}{code}", self._block, entry.start))

    def read_number(self, tag: int, default: int) -> int:
        """Return the first number of a tag, or a default."""
        return next(iter(self.read_numbers(tag, 1)), default)


def read_directories(block: bytes) -> Iterator[Directory]:
    """Yield the first directory, and the Exif, GPS and interoperability directories inside it.

    Args:
        block: A TIFF header and the bytes after it. A block without a directory yields none.
    """
    if not block.startswith(SIGNATURES):
        return
    head = struct.Struct(f"{_order(block)}{'8xQ' if block.startswith(_BIG) else '4xI'}")
    if len(block) < head.size:
        return
    (start,) = head.unpack_from(block)
    first = Directory(block, start)
    yield first
    for exif in _inner_directories(block, first, _EXIF):
        yield exif
        yield from _inner_directories(block, exif, _INTEROPERABILITY)
    yield from _inner_directories(block, first, _GPS)


def _inner_directories(block: bytes, directory: Directory, tag: int) -> Iterator[Directory]:
    pointers = [
        int.from_bytes(block[entry.start : entry.start + entry.size], _byte_order(block))
        for entry in directory.entries
        if entry.tag == tag and entry.value_count == 1 and entry.kind in _WHOLE_NUMBERS
    ]
    # If there are several, Pillow 12.3 reads the last one and Pillow 13.0 the first.
    for start in dict.fromkeys([*pointers[:1], *pointers[-1:]]):
        yield Directory(block, start)


class Grid(NamedTuple):
    """A division of the pixels into parts: strips or tiles."""

    part_width: int
    part_height: int
    parts: int
    """The number of parts that the pixels fill, counting all planes."""
    planes: int
    """The number of planes with separate parts."""
    claimed_parts: int
    """The number of parts that the file has, or claims to have."""

    @property
    def decoded_pixels(self) -> int:
        """The number of pixels in all parts of a plane, including pixels outside the image."""
        return self.parts // self.planes * self.part_width * self.part_height


class Layout(NamedTuple):
    """Where a file keeps the pixels of an image."""

    width: int
    height: int
    grids: list[Grid]
    """Usually one. If a file has strips and tiles, a reader may use either."""
    has_duplicates: bool
    """Whether a tag that the layout depends on occurs twice."""


def read_layout(directory: Directory) -> Layout:
    """Return the layout of the image in a directory."""
    width, height = directory.read_number(_WIDTH, 0), directory.read_number(_HEIGHT, 0)
    has_planes = directory.read_number(_PLANES, 1) == 2
    planes = max(1, directory.read_number(_SAMPLES, 1)) if has_planes else 1

    def grid(part_width: int, part_height: int, offsets: Entry | None) -> Grid:
        across, down = (-(-width // max(1, part_width)), -(-height // max(1, part_height)))
        claimed_parts = offsets.value_count if offsets is not None else 0
        return Grid(part_width, part_height, across * down * planes, planes, claimed_parts)

    grids = list[Grid]()
    strips, tiles = directory.find(_STRIPS), directory.find(_TILES)
    if strips is not None:
        # A strip ends where the image ends, but a tile does not.
        grids.append(grid(width, min(directory.read_number(_ROWS, height), height), strips))
    if tiles is not None or directory.find(_TILE_WIDTH) or directory.find(_TILE_HEIGHT):
        tile_width = directory.read_number(_TILE_WIDTH, width)
        grids.append(grid(tile_width, directory.read_number(_TILE_HEIGHT, height), tiles))
    tags = [entry.tag for entry in directory.entries if entry.tag in _LAYOUT]
    return Layout(width, height, grids, len(set(tags)) < len(tags))


def read_jpeg_parts(directory: Directory) -> list[tuple[int, int]]:
    """Return the offset and the length of each strip or tile that is a JPEG file."""
    parts = list[tuple[int, int]]()
    if directory.read_number(_COMPRESSION, 1) == _JPEG:
        for offsets, sizes in ((_STRIPS, _STRIP_SIZES), (_TILES, _TILE_SIZES)):
            starts = directory.read_numbers(offsets)
            # libtiff finds the lengths itself if they are missing.
            parts += zip_longest(starts, directory.read_numbers(sizes, len(starts)), fillvalue=0)
    return parts


def _order(block: bytes) -> Literal["<", ">"]:
    return "<" if block.startswith(b"II") else ">"


def _byte_order(block: bytes) -> Literal["little", "big"]:
    return "little" if block.startswith(b"II") else "big"
