"""The items of a HEIC or AVIF file, of which one may be made of many others.

See ISO/IEC 23008-12 (HEIF), and ISO/IEC 14496-12 for boxes. Nothing is decoded here.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterator

__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "ItemTable", "is_heif"]

MAX_ENTRIES = 16_384
"""A HEIC or AVIF file may have at most this many boxes, properties and references to items, because
readers keep a record of each. The tiles of the largest photos of phones are a few hundred items."""

MAX_DEPTH = 8
"""An image may be made of images that are made of others, at most this many levels deep."""


class TooManyEntriesError(Exception):
    """The file has more than `MAX_ENTRIES` entries."""


def is_heif(data: bytes) -> bool:
    """Return whether a file begins like a HEIC or AVIF file."""
    return data[4:8] == b"ftyp"


class ItemTable:
    """The sizes of the items in a file, and what they are made of.

    Where the file is cut off or corrupt, the rest is not read.

    Args:
        data: The bytes of a HEIC or AVIF file.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._entries_left = memoryview(data), MAX_ENTRIES
        self._property_sizes: list[int] = []
        self._associations: list[tuple[int, int]] = []
        self._parts: defaultdict[int, list[int]] = defaultdict(list)
        self.is_complete = True
        """Whether the file has at most `MAX_ENTRIES` entries."""
        try:
            self._read(0, len(data))
        except struct.error:
            pass
        except TooManyEntriesError:
            self.is_complete = False
        self._sizes: dict[int, int] = {}
        for item, index in self._associations:
            if 0 < index <= len(self._property_sizes):
                size = self._property_sizes[index - 1]
                self._sizes[item] = max(size, self._sizes.get(item, 0))
        self._largest_size = max(self._property_sizes, default=0)

    def composed_items(self) -> Iterator[tuple[int, float]]:
        """Yield the pixels of each item that is made of others, and the pixels to decode for it."""
        costs: dict[tuple[int, int], float] = {}
        for item in list(self._parts):
            yield self._size(item), self._cost(item, 0, costs) - self._size(item)

    def _size(self, item: int) -> int:
        # An item without a size may be as large as any.
        return self._sizes.get(item) or self._largest_size

    def _cost(self, item: int, depth: int, costs: dict[tuple[int, int], float]) -> float:
        """Return the pixels of an item and of all items that are decoded for it."""
        if depth > MAX_DEPTH:
            return math.inf
        key = (item, depth)
        if key not in costs:
            parts = self._parts.get(item, [])
            costs[key] = self._size(item) + sum(
                self._cost(part, depth + 1, costs) for part in parts
            )
        return costs[key]

    def _count(self, entries: int = 1) -> None:
        self._entries_left -= entries
        if self._entries_left < 0:
            raise TooManyEntriesError

    def _boxes(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the type of each box, and where its content starts and ends."""
        while start + 8 <= end:
            self._count()
            length, kind = struct.unpack_from(">I4s", self._data, start)
            content = start + 8
            if length == 1:
                (length,) = struct.unpack_from(">Q", self._data, content)
                content += 8
            box_end = end if length == 0 else start + length
            if box_end < content:
                return
            yield kind, content, min(box_end, end)
            start = box_end

    def _read(self, start: int, end: int) -> None:
        for kind, content, box_end in self._boxes(start, end):
            match kind:
                case b"meta":
                    self._read(content + 4, box_end)
                case b"iprp":
                    self._read(content, box_end)
                case b"ipco":
                    self._read_properties(content, box_end)
                case b"ipma":
                    self._read_associations(content)
                case b"iref":
                    self._read_references(content, box_end)

    def _read_properties(self, start: int, end: int) -> None:
        for kind, content, _ in self._boxes(start, end):
            width, height = 0, 0
            if kind == b"ispe":
                width, height = struct.unpack_from(">4xII", self._data, content)
            self._property_sizes.append(width * height)

    def _read_associations(self, start: int) -> None:
        version, flags, count = struct.unpack_from(">B2xBI", self._data, start)
        start += 8
        item_format = struct.Struct(">IB" if version else ">HB")
        index_format = struct.Struct(">H" if flags & 1 else ">B")
        mask = 0x7FFF if flags & 1 else 0x7F
        for _ in range(count):
            item, properties = item_format.unpack_from(self._data, start)
            self._count(1 + properties)
            start += item_format.size
            for _ in range(properties):
                (index,) = index_format.unpack_from(self._data, start)
                start += index_format.size
                self._associations.append((item, index & mask))

    def _read_references(self, start: int, end: int) -> None:
        letter = "I" if self._data[start] else "H"
        for kind, content, _ in self._boxes(start + 4, end):
            source, count = struct.unpack_from(f">{letter}H", self._data, content)
            self._count(count)
            first = content + struct.calcsize(f">{letter}H")
            items = struct.unpack_from(f">{count}{letter}", self._data, first)
            if kind == b"dimg":
                self._parts[source] += items
