"""Reads the structure of AVIF and HEIC files, to find out how much a decoder would have to decode.

Such a file is a set of items: coded images, images composed of others (grids and overlays),
transparency, and metadata. Both formats follow ISO/IEC 23008-12 (HEIF), which builds on ISO/IEC
14496-12. Nothing is decoded here.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images import av1, hevc

__all__ = [
    "MAX_BOXES",
    "MAX_EXIF_BLOCKS",
    "MAX_META_BYTES",
    "MAX_TRACKS",
    "MAX_UNITS",
    "HEIFStructure",
    "read_structure",
]

MAX_META_BYTES = 2**20
"""The maximum length of the box that lists the items, in bytes, because each entry takes time. Its
largest part is usually a color profile of a few kilobytes."""

MAX_UNITS = 65_536
"""The maximum number of units (NAL units or OBUs) of all coded images, because each takes time. A
photo with 48 tiles has a few hundred. A sequence header of AV1 counts as 16 units."""

MAX_TRACKS = 8
"""The maximum number of tracks. An image sequence has one, or two with transparency."""

MAX_EXIF_BLOCKS = 16
"""The maximum number of Exif blocks, because each may have thousands of entries.
Cameras write one."""

MAX_BOXES = 4096
"""The maximum number of boxes directly inside a box or the file. There is one for each tile, and
decoders allow about a thousand tiles."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class HEIFStructure(NamedTuple):
    """How much decoding a file takes."""

    decoded_pixels: int
    """The pixels of all images that are decoded or composed to show the file's image."""
    largest_image_pixels: int
    """The pixels of the largest of these images. It may be larger than the file's image."""
    exif: list[bytes]
    """The Exif blocks, without their identifiers."""


def read_structure(data: bytes) -> HEIFStructure:
    """Read the structure of a file. Invalid parts are ignored.

    Args:
        data: The bytes of an AVIF or HEIC file.

    Raises:
        InvalidImageError: If its items overlap or are listed twice, or if the list of its items,
            its boxes, its tracks or the units of its images exceed a limit of this module.
    """
    view, units = memoryview(data), _Units()
    pixels, largest_image_pixels = 0, 0
    exif: list[bytes] = []
    boxes = _unique((kind, body) for kind, body in _boxes(view) if kind in (b"meta", b"moov"))
    for kind, body in boxes.items():
        if kind == b"meta":
            if len(body) > MAX_META_BYTES:
                raise _too_complex_error(
                    f"a list of its parts of {len(body):,} bytes", MAX_META_BYTES
                )
            meta = _Meta(view, body[4:], units)
            # Cameras write each item once, so all items together are shorter than the file.
            if meta.item_bytes > len(data):
                raise _too_complex_error(f"parts of {meta.item_bytes:,} bytes", len(data))
            pixels += meta.count_pixels()
            largest_image_pixels = max(largest_image_pixels, meta.largest_image_pixels)
            exif += meta.exif()
        else:
            tracks = list(_find(body, b"trak"))
            if len(tracks) > MAX_TRACKS:
                raise _too_complex_error(f"{len(tracks):,} tracks", MAX_TRACKS)
            for track in tracks:
                frame_pixels, frames = _read_first_sample(view, track, units)
                pixels += frame_pixels * frames
                largest_image_pixels = max(largest_image_pixels, frame_pixels)
    return HEIFStructure(pixels, largest_image_pixels, exif)


def _too_complex_error(what: str, limit: int) -> InvalidImageError:
    return InvalidImageError(
        f"image is an AVIF or HEIC file with {what}; the limit is {limit:,}. Export it as PNG or "
        "JPEG."
    )


class _Units:
    """Counts the units of all images of a file as they are read."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, count: int = 1) -> None:
        self._count += count
        if self._count > MAX_UNITS:
            raise _too_complex_error(f"more than {MAX_UNITS:,} coded units", MAX_UNITS)


class _Meta:
    """The items that a `meta` box lists (ISO/IEC 23008-12, 6; ISO/IEC 14496-12, 8.11)."""

    def __init__(self, file: memoryview, body: memoryview, units: _Units) -> None:
        names = (b"idat", b"iinf", b"iloc", b"ipma", b"iprp", b"iref", b"pitm")
        boxes = _unique((kind, box) for kind, box in _boxes(body) if kind in names)
        self._file, self._units = file, units
        self._inline_data = boxes.get(b"idat", memoryview(b""))
        self._primary = _number(boxes.get(b"pitm", b""), 4, _id_size(boxes.get(b"pitm"), 1))
        self._kinds = _unique(_read_kinds(boxes.get(b"iinf", memoryview(b""))))
        self._extents = _unique(_read_extents(boxes.get(b"iloc", memoryview(b""))))
        self._properties = _unique(_read_properties(boxes.get(b"iprp", memoryview(b""))))
        self._parts: dict[int, list[int]] = {}
        for kind, source, targets in _read_references(boxes.get(b"iref", memoryview(b""))):
            # A derived image refers to its parts, and transparency to the image that it is for.
            if kind == b"dimg":
                self._parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    self._parts.setdefault(target, []).append(source)
        self.item_bytes = sum(
            max(0, min(length, len(file) - offset))
            for _, extents in self._extents.values()
            for offset, length in extents
        )
        self.largest_image_pixels = 0

    def count_pixels(self) -> int:
        """Return how many pixels are decoded for the primary item, counting repeated parts."""
        counts: dict[int, int] = {}
        started: set[int] = set()
        pending = [self._primary]
        while pending:
            item_id = pending[-1]
            parts = self._parts.get(item_id, [])
            if item_id not in started:
                started.add(item_id)
                pending += {part for part in parts if part not in started}
                continue
            pending.pop()
            if item_id not in counts:
                # An item that contains itself does not count, because decoders refuse it.
                counts[item_id] = self._count_own_pixels(item_id) + sum(
                    counts.get(part, 0) for part in parts
                )
        return counts[self._primary]

    def exif(self) -> list[bytes]:
        """Return the Exif blocks."""
        items = [item_id for item_id, kind in self._kinds.items() if kind == b"Exif"]
        if len(items) > MAX_EXIF_BLOCKS:
            raise _too_complex_error(f"{len(items):,} blocks of Exif", MAX_EXIF_BLOCKS)
        # The first four bytes hold the offset of the TIFF header.
        return [self._read(item_id)[4:].removeprefix(b"Exif\0\0") for item_id in items]

    def _count_own_pixels(self, item_id: int) -> int:
        properties = self._properties.get(item_id, [])
        sizes = [body for kind, body in properties if kind == b"ispe"]
        pixels = max((_number(size, 4, 4) * _number(size, 8, 4) for size in sizes), default=0)
        images = 1
        kind = self._kinds.get(item_id)
        if kind == b"av01":
            frame_pixels, images = _read_av1(self._read(item_id), self._units)
            pixels = max(pixels, frame_pixels)
        elif kind in (b"hvc1", b"hev1"):
            configurations = _unique(pair for pair in properties if pair[0] == b"hvcC")
            configuration = configurations.get(b"hvcC", b"")
            images = _count_hevc_pictures(self._read(item_id), configuration, self._units)
        self.largest_image_pixels = max(self.largest_image_pixels, pixels)
        return pixels * images

    def _read(self, item_id: int) -> bytes:
        method, extents = self._extents.get(item_id, (0, []))
        source = self._inline_data if method == 1 else self._file
        return b"".join(source[offset : offset + length] for offset, length in extents)


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the content of each box (ISO/IEC 14496-12, 4.2)."""
    start = count = 0
    while start + 8 <= len(view):
        count += 1
        if count > MAX_BOXES:
            raise _too_complex_error(f"more than {MAX_BOXES:,} boxes in one place", MAX_BOXES)
        size, kind, head = _number(view, start, 4), bytes(view[start + 4 : start + 8]), 8
        if size == 1:
            size, head = _number(view, start + 8, 8), 16
        end = start + size if size else len(view)
        if size and size < head:
            return
        yield kind, view[start + head : end]
        start = end


def _unique(pairs: Iterable[tuple[_Key, _Value]]) -> dict[_Key, _Value]:
    """Return the pairs. Of two with the same key, decoders disagree about which counts."""
    result: dict[_Key, _Value] = {}
    for key, value in pairs:
        if key in result:
            raise InvalidImageError(
                "image is an AVIF or HEIC file that lists a part twice. Export it as PNG or JPEG."
            )
        result[key] = value
    return result


def _find(view: memoryview, *path: bytes) -> Iterator[memoryview]:
    """Yield the content of each box at a path of types."""
    for kind, body in _boxes(view):
        if kind == path[0]:
            if path[1:]:
                yield from _find(body, *path[1:])
            else:
                yield body


def _number(view: bytes | memoryview, start: int, size: int) -> int:
    return int.from_bytes(view[start : start + size])


def _id_size(body: memoryview | None, first_long_version: int) -> int:
    """Return how many bytes an item's number has, which depends on the version of the box."""
    return 4 if body and body[0] >= first_long_version else 2


def _read_kinds(body: memoryview) -> Iterator[tuple[int, bytes]]:
    for kind, entry in _boxes(body[4 + _id_size(body, 1) :]):
        if kind == b"infe" and len(entry) >= 12:
            id_size = _id_size(entry, 3)
            start = 4 + id_size + 2
            yield _number(entry, 4, id_size), bytes(entry[start : start + 4])


def _read_references(body: memoryview) -> Iterator[tuple[bytes, int, list[int]]]:
    id_size = _id_size(body, 1)
    for kind, entry in _boxes(body[4:]):
        ids = [
            _number(entry, start, id_size)
            for start in range(id_size + 2, len(entry) - id_size + 1, id_size)
        ]
        yield kind, _number(entry, 0, id_size), ids[: _number(entry, id_size, 2)]


def _read_properties(body: memoryview) -> Iterator[tuple[int, list[tuple[bytes, bytes]]]]:
    properties = [
        (kind, bytes(entry)) for box in _find(body, b"ipco") for kind, entry in _boxes(box)
    ]
    for box in _find(body, b"ipma"):
        id_size, entry_size = _id_size(box, 1), 1 + (_number(box, 1, 3) & 1)
        start = 8
        while start + id_size < len(box):
            item_id, count = _number(box, start, id_size), box[start + id_size]
            start += id_size + 1
            # The highest bit of an entry is not part of the index, which begins at 1.
            indices = [
                _number(box, start + entry_size * number, entry_size)
                & ((1 << (8 * entry_size - 1)) - 1)
                for number in range(count)
            ]
            yield item_id, [properties[i - 1] for i in indices if 0 < i <= len(properties)]
            start += entry_size * count


def _read_extents(body: memoryview) -> Iterator[tuple[int, tuple[int, list[tuple[int, int]]]]]:
    if len(body) < 8:
        return
    version, sizes = body[0], _number(body, 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    id_size = _id_size(body, 2)
    start = 6 + id_size
    while start + id_size + 4 <= len(body):
        item_id = _number(body, start, id_size)
        start += id_size
        method = _number(body, start, 2) & 15 if version else 0
        start += 4 if version else 2
        base = _number(body, start, base_size)
        count = _number(body, start + base_size, 2)
        start += base_size + 2
        extents = []
        extent_size = index_size + offset_size + length_size
        # If the fields had no bytes, the loop would not end.
        for _ in range(min(count, (len(body) - start) // max(extent_size, 1))):
            offset = base + _number(body, start + index_size, offset_size)
            length = _number(body, start + index_size + offset_size, length_size)
            extents.append((offset, length))
            start += max(extent_size, 1)
        yield item_id, (method, extents)


def _read_first_sample(file: memoryview, track: memoryview, units: _Units) -> tuple[int, int]:
    """Return the largest number of pixels of a frame, and the number of frames."""
    tables = next(_find(track, b"mdia", b"minf", b"stbl"), memoryview(b""))
    names = (b"co64", b"stco", b"stsd", b"stsz")
    boxes = _unique((kind, box) for kind, box in _boxes(tables) if kind in names)
    if b"av01" not in dict(_boxes(boxes.get(b"stsd", memoryview(b""))[8:])):
        return 0, 0
    offset = _number(boxes.get(b"stco", b""), 8, 4) or _number(boxes.get(b"co64", b""), 8, 8)
    size_table = boxes.get(b"stsz", memoryview(b""))
    size = _number(size_table, 4, 4) or _number(size_table, 12, 4)
    return _read_av1(bytes(file[offset : offset + size]), units)


def _read_av1(data: bytes, units: _Units) -> tuple[int, int]:
    """Return the largest number of pixels that a sequence header allows, and the frames."""
    pixels, frames = 0, 0
    for kind, body in av1.read_units(data):
        units.add()
        if kind == av1.SEQUENCE_HEADER:
            # Reading one takes as long as finding 16 units.
            units.add(15)
            pixels = max(pixels, av1.read_sequence_size(body))
        frames += kind in av1.FRAMES
    return pixels, max(frames, 1)


def _count_hevc_pictures(data: bytes, configuration: bytes, units: _Units) -> int:
    pictures = 0
    for unit in hevc.read_units(data, configuration):
        units.add()
        pictures += hevc.begins_picture(unit)
    return max(pictures, 1)
