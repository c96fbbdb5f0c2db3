"""The segments of a JPEG file, found without decoding anything.

Markers and segments follow ITU-T T.81, annex B. Where a corrupt file leaves a choice, this reads it
as libjpeg does, because libjpeg decodes it later.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["MAX_FRAME_BYTES", "SIGNATURE", "Segment", "count_scanned_samples", "read_segments"]

SIGNATURE = b"\xff\xd8\xff"
"""The first bytes of every JPEG file: its first marker and the start of the second."""

MAX_FRAME_BYTES = 6 + 3 * 255
"""The length of the body of a frame header (SOF) with 255 components, the most that T.81, B.2.2
allows. No decoder reads more."""

_SOI, _EOI, _SOS, _DQT, _DHP = 0xD8, 0xD9, 0xDA, 0xDB, 0xDE
_APP1, _APP2, _APP13 = 0xE1, 0xE2, 0xED
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RESERVED = frozenset({0xC8, *range(0xF0, 0xFE)})
# Restart markers and stuffed zeros belong to the data of a scan, and 0xFF may be repeated before a
# marker. Markers below 0xC0 have no length.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


class Segment(NamedTuple):
    """A marker and its content, without the entropy-coded data after the header of a scan."""

    marker: int
    """The marker's second byte."""
    body: memoryview
    """The content after the marker and the length."""
    start: int
    """The offset of the marker in the file."""
    end: int
    """The offset of the byte after the segment."""

    @property
    def is_scan(self) -> bool:
        """Whether the segment is the header of a scan (SOS)."""
        return self.marker == _SOS

    @property
    def is_frame(self) -> bool:
        """Whether the segment is the header of a frame (SOF), or of several (DHP)."""
        return self.marker in _FRAMES or self.marker == _DHP

    @property
    def is_reserved(self) -> bool:
        """Whether the marker is reserved for JPEG extensions (JPG, JPG0 to JPG13).

        libjpeg refuses these markers. Pillow reads the body of such a segment as further segments.
        """
        return self.marker in _RESERVED

    @property
    def is_exif(self) -> bool:
        """Whether the segment holds Exif, or a part of it."""
        return self.marker == _APP1 and bytes(self.body[:6]) == b"Exif\0\0"

    @property
    def is_photoshop(self) -> bool:
        """Whether the segment holds Photoshop's blocks, such as captions and paths."""
        return self.marker == _APP13 and bytes(self.body[:14]) == b"Photoshop 3.0\0"

    @property
    def is_quantization(self) -> bool:
        """Whether the segment holds quantization tables (DQT)."""
        return self.marker == _DQT

    @property
    def is_index(self) -> bool:
        """Whether the segment holds the index of an MPO file (CIPA DC-007)."""
        return self.marker == _APP2 and bytes(self.body[:4]) == b"MPF\0"


def read_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of the image that a decoder shows, in order, from the second marker on.

    The last one is the first EOI after a scan. Anything after it, such as the other images of an
    MPO file, is not read, and neither is an image inside a segment, such as the thumbnail in Exif.
    The time is linear in the length of the file.

    Args:
        data: The bytes of a file that begins with `SIGNATURE`.
    """
    view = memoryview(data)
    position, has_scan = 2, False
    while (match := _MARKER.search(data, position)) is not None:
        start, content = match.span()
        marker = data[content - 1]
        # SOI and EOI have no length. libjpeg reads a length below 2 as 2.
        length = 0 if marker in (_SOI, _EOI) else max(2, int.from_bytes(view[content:][:2]))
        position = min(content + length, len(data))
        yield Segment(marker, view[content + 2 : position], start, position)
        has_scan = has_scan or marker == _SOS
        # An EOI before the first scan ends a stream that holds only tables. The image comes next.
        if marker == _EOI and has_scan:
            return


def count_scanned_samples(frame_and_scans: Iterable[Segment]) -> Iterator[int]:
    """Yield, for each scan, the number of samples in the components that it reads.

    Args:
        frame_and_scans: The segments of a file. Only the headers of frames and scans are used.
    """
    sizes: dict[int, int] = {}
    for segment in frame_and_scans:
        if segment.marker in _FRAMES:
            sizes = _component_sizes(segment.body)
        elif segment.is_scan:
            largest = max(sizes.values(), default=0)
            yield sum(sizes.get(number, largest) for number in _components(segment.body))


def _component_sizes(frame: memoryview) -> dict[int, int]:
    """Return the number of samples of each component of a frame (T.81, A.1.1 and B.2.2)."""
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    components = [
        (frame[i], max(1, frame[i + 1] >> 4), max(1, frame[i + 1] & 15))
        for i in range(6, min(len(frame), MAX_FRAME_BYTES) - 2, 3)
    ]
    max_horizontal = max((horizontal for _, horizontal, _ in components), default=1)
    max_vertical = max((vertical for _, _, vertical in components), default=1)
    sizes: dict[int, int] = {}
    for number, horizontal, vertical in components:
        size = -(-width * horizontal // max_horizontal) * -(-height * vertical // max_vertical)
        # In a corrupt frame, several components may have the same number.
        sizes[number] = max(size, sizes.get(number, 0))
    return sizes


def _components(scan: memoryview) -> bytes:
    """Return the number of each component of a scan (T.81, B.2.3)."""
    return bytes(scan[1 : 1 + 2 * scan[0] : 2]) if scan else b""
