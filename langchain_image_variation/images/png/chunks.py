"""The chunks of a PNG file: reads them, checks them against the specification, and filters them.

Nothing is decompressed here. Rules and names are those of the PNG specification, third edition
(W3C, 2025).
"""

import struct
import zlib
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from langchain_image_variation.exceptions import InvalidImageError

__all__ = [
    "APPEARANCE",
    "INDEXED",
    "MAX_CHUNKS",
    "PIXELS",
    "SIGNATURE",
    "Header",
    "check_order",
    "corrupt_png",
    "filter_chunks",
    "find_end",
    "has_few_chunks",
    "read_chunks",
    "read_header",
    "replace_chunks",
    "strip_metadata",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG file."""

MAX_CHUNKS = 16_384
"""The maximum number of chunks in a file of up to 4 MB. A larger file may have one for every 256
bytes."""

INDEXED = 3
"""The color type of images with a palette."""

PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""The chunks that define the pixels."""

APPEARANCE = frozenset({b"cHRM", b"cICP", b"eXIf", b"gAMA", b"iCCP", b"sRGB"})
"""The other chunks that change how the pixels are shown: their colors and their orientation."""

_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_BEFORE_PLTE = {b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"cLLI", b"sBIT", b"sRGB"}
# The third edition requires eXIf here too. The second allowed it at the end, where common programs
# write it and every decoder accepts it.
_BEFORE_IDAT = {*_BEFORE_PLTE, b"bKGD", b"hIST", b"pHYs", b"sPLT", b"tRNS", b"acTL"}
_ONCE = {*_BEFORE_IDAT, b"IHDR", b"PLTE", b"IEND", b"eXIf", b"tIME"} - {b"sPLT"}
_AFTER_PLTE = {b"bKGD", b"hIST", b"tRNS"}
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
# The chunks with a fixed length that change how an image looks.
_LENGTHS = {b"cHRM": 32, b"cICP": 4, b"gAMA": 4, b"sRGB": 1}
_TRNS_LENGTHS = {0: 2, 2: 6}


class Header(NamedTuple):
    """The content of IHDR."""

    width: int
    height: int
    bit_depth: int
    color_type: int
    interlaced: bool


def read_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's name and content, from IHDR up to and including IEND.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If the file does not begin with IHDR, is cut off or continues after IEND,
            if a length or name is impossible or any checksum is wrong, or if there are too many
            chunks.
    """
    view = memoryview(data)
    start, limit = len(SIGNATURE), _limit(data)
    for _ in range(limit):
        if start == len(data):
            raise corrupt_png("IEND is missing: the file is cut off")
        if start + 12 > len(data):
            raise corrupt_png(f"it is cut off at byte {len(data):,}, inside a chunk")
        length = int.from_bytes(view[start : start + 4])
        name = bytes(view[start + 4 : start + 8])
        # Names are ASCII letters; isalpha on bytes is ASCII-only.
        if not name.isalpha():
            raise corrupt_png(f"byte {start + 4:,} should begin a chunk name")
        end = start + 8 + length
        if end + 4 > len(data):
            raise corrupt_png(f"it is cut off at byte {len(data):,}, inside {name.decode()}")
        # A damaged name may belong to any chunk, so every checksum must be right.
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise corrupt_png(f"the checksum of {name.decode()} at byte {start:,} is wrong")
        if start == len(SIGNATURE) and name != b"IHDR":
            raise corrupt_png("its first chunk is not IHDR")
        start = end + 4
        yield name, view[end - length : end]
        if name == b"IEND":
            if start != len(data):
                raise corrupt_png(f"{len(data) - start:,} bytes follow IEND")
            return
    raise InvalidImageError(
        f"image has more than {limit:,} chunks, the limit. Save it again with fewer."
    )


def has_few_chunks(data: bytes) -> bool:
    """Return whether a file has at most 256 chunks, so that checking it is almost instant."""
    start = len(SIGNATURE)
    for _ in range(256):
        if start >= len(data):
            return True
        start += 12 + int.from_bytes(data[start : start + 4])
    return False


def find_end(data: bytes) -> int:
    """Return the offset after IEND, or the length of the file if it has no IEND.

    Some programs append archives or notes to images, or write a smaller file over a larger one.
    They leave bytes after IEND, which no decoder shows.
    """
    start = len(SIGNATURE)
    for _ in range(_limit(data)):
        name = data[start + 4 : start + 8]
        start += 12 + int.from_bytes(data[start : start + 4])
        if name == b"IEND" or start >= len(data):
            break
    return start if name == b"IEND" and start < len(data) else len(data)


def strip_metadata(data: bytes) -> bytes:
    """Return a file without the chunks that no pixel depends on, such as text and profiles.

    The other chunks stay as they are; nothing is decoded or encoded. A palette in a file that is
    not indexed is left out too: it only suggests colors to a display that has few.

    Raises:
        InvalidImageError: See `read_chunks`.
    """
    _, body = next(read_chunks(data))
    is_indexed = read_header(body).color_type == INDEXED
    return filter_chunks(data, keep=PIXELS if is_indexed else PIXELS - {b"PLTE"})


def filter_chunks(data: bytes, *, keep: Container[bytes]) -> bytes:
    """Return a file without the ancillary chunks, and without the palette, unless `keep` has them.

    Raises:
        InvalidImageError: See `read_chunks`.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    for name, body in read_chunks(data):
        # A critical chunk changes what the others mean, so it stays, even if it is refused later.
        if name in keep or (name[:1].isupper() and name != b"PLTE"):
            parts += _chunk(name, body)
    return b"".join(parts)


def replace_chunks(data: bytes, name: bytes, change: Callable[[memoryview], bytes]) -> bytes:
    """Return a file in which `change` has replaced the content of each chunk with that name.

    Raises:
        InvalidImageError: See `read_chunks`.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    for chunk_name, body in read_chunks(data):
        parts += _chunk(chunk_name, change(body) if chunk_name == name else body)
    return b"".join(parts)


def check_order(chunks: Iterator[tuple[bytes, memoryview]]) -> tuple[Header, set[bytes]]:
    """Check that each chunk is allowed where it is; return the header and the names of all chunks.

    Raises:
        InvalidImageError: If a chunk breaks a rule, or if `chunks` raises this error.
    """
    _, body = next(chunks)
    header = read_header(body)
    names: set[bytes] = {b"IHDR"}
    previous_name, colors = b"IHDR", 0
    for name, body in chunks:
        _check_place(name, previous_name, names)
        if len(body) != _LENGTHS.get(name, len(body)):
            raise corrupt_png(f"{name.decode()} has {len(body)} bytes instead of {_LENGTHS[name]}")
        if name == b"PLTE":
            colors = _check_palette(header, body)
        elif name == b"IEND" and len(body):
            raise corrupt_png("IEND is not empty")
        elif name == b"tRNS":
            _check_transparency(header, len(body), colors)
        elif name == b"IDAT" and header.color_type == INDEXED and not colors:
            raise corrupt_png("PLTE is missing before IDAT")
        names.add(name)
        previous_name = name
    if b"IDAT" not in names:
        raise corrupt_png("it has no IDAT chunk and therefore no pixels")
    return header, names


def read_header(body: memoryview) -> Header:
    """Parse the content of IHDR.

    Raises:
        InvalidImageError: If it does not have 13 bytes, or if a value is not allowed.
    """
    if len(body) != 13:
        raise corrupt_png(f"IHDR has {len(body)} bytes instead of 13")
    width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
    bit_depth, color_type, compression, filtering, interlace = body[8:]
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise corrupt_png(f"IHDR declares {width}x{height} pixels")
    if bit_depth not in _BIT_DEPTHS.get(color_type, ()):
        raise corrupt_png(f"IHDR declares color type {color_type} with bit depth {bit_depth}")
    if compression or filtering or interlace > 1:
        raise corrupt_png(
            f"IHDR declares compression {compression}, filter {filtering}, interlace {interlace}"
        )
    return Header(width, height, bit_depth, color_type, bool(interlace))


def corrupt_png(problem: str) -> InvalidImageError:
    """Return the error for a problem in a PNG file."""
    return InvalidImageError(f"image is a corrupt PNG file: {problem}.")


def _limit(data: bytes) -> int:
    return max(MAX_CHUNKS, len(data) // 256)


def _chunk(name: bytes, body: bytes | memoryview) -> Iterator[bytes | memoryview]:
    yield struct.pack(">I", len(body))
    yield name
    yield body
    yield struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _check_place(name: bytes, previous_name: bytes, names: set[bytes]) -> None:
    """Refuse a chunk that the specification does not allow in this position."""
    text = name.decode()
    if name in names and name in _ONCE:
        raise corrupt_png(f"{text} occurs twice")
    if name == b"IDAT" and b"IDAT" in names and previous_name != b"IDAT":
        raise corrupt_png("its IDAT chunks are not consecutive")
    if b"IDAT" in names and (name in _BEFORE_IDAT or name == b"PLTE"):
        raise corrupt_png(f"{text} comes after IDAT")
    if b"PLTE" in names and name in _BEFORE_PLTE:
        raise corrupt_png(f"{text} comes after PLTE")
    if name == b"PLTE" and names & _AFTER_PLTE:
        raise corrupt_png("PLTE comes after a chunk that depends on it")
    if name == b"hIST" and b"PLTE" not in names:
        raise corrupt_png("hIST has no PLTE before it")
    # An uppercase first letter marks a chunk that every reader must understand.
    if name[:1].isupper() and name not in _CRITICAL:
        raise corrupt_png(f"its critical chunk {text} is unknown")


def _check_palette(header: Header, body: memoryview) -> int:
    """Check the palette and return its number of colors."""
    if header.color_type in (0, 4):
        raise corrupt_png("PLTE is not allowed in a grayscale image")
    limit = 2**header.bit_depth if header.color_type == INDEXED else 256
    if not len(body) or len(body) % 3 or len(body) // 3 > limit:
        raise corrupt_png(
            f"PLTE has {len(body)} bytes; it may have 3 to {3 * limit}, in multiples of 3"
        )
    return len(body) // 3


def _check_transparency(header: Header, length: int, colors: int) -> None:
    if header.color_type in (4, 6):
        raise corrupt_png("tRNS is not allowed with an alpha channel")
    if header.color_type == INDEXED and length > colors:
        raise corrupt_png(f"tRNS has {length} entries for {colors} colors")
    if length != _TRNS_LENGTHS.get(header.color_type, length):
        raise corrupt_png(f"tRNS has {length} bytes instead of {_TRNS_LENGTHS[header.color_type]}")
