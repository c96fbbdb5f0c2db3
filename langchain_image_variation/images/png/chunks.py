"""The chunks of a PNG file: read one by one, held to the specification's rules, left out.

Nothing is inflated here. Rules and names are those of the PNG specification, third edition (W3C,
2025).
"""

import struct
import zlib
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from langchain_image_variation.exceptions import InvalidImageError

__all__ = [
    "INDEXED",
    "LOOK",
    "MAX_CHUNKS",
    "PIXELS",
    "SIGNATURE",
    "Header",
    "check_order",
    "corrupt",
    "end",
    "few",
    "header",
    "read",
    "replaced",
    "without",
    "without_metadata",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG file."""

MAX_CHUNKS = 16_384
"""A file of up to 4 MB may have at most so many chunks, a larger one for each 256 bytes one."""

INDEXED = 3
"""The colour type of pictures with a palette."""

PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""The chunks that make the pixels."""

LOOK = frozenset({b"cHRM", b"cICP", b"eXIf", b"gAMA", b"iCCP", b"sRGB"})
"""The chunks besides that say how the pixels are to be shown: their colours, and which way up."""

_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_BEFORE_PLTE = {b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"cLLI", b"sBIT", b"sRGB"}
# The third edition wants eXIf here too, but the second allowed it at the end, where common programs
# put it and every decoder accepts it.
_BEFORE_IDAT = {*_BEFORE_PLTE, b"bKGD", b"hIST", b"pHYs", b"sPLT", b"tRNS", b"acTL"}
_ONCE = {*_BEFORE_IDAT, b"IHDR", b"PLTE", b"IEND", b"eXIf", b"tIME"} - {b"sPLT"}
_AFTER_PLTE = {b"bKGD", b"hIST", b"tRNS"}
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
# Of the chunks that change how a picture looks, those whose length is fixed.
_LENGTHS = {b"cHRM": 32, b"cICP": 4, b"gAMA": 4, b"sRGB": 1}
_TRNS_LENGTHS = {0: 2, 2: 6}


class Header(NamedTuple):
    """What IHDR says."""

    width: int
    height: int
    bit_depth: int
    color_type: int
    interlaced: bool


def read(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's name and content, from IHDR up to and including IEND.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If the file does not begin with IHDR, is cut off or goes on after IEND, a
            length or name is impossible, a checksum is wrong, of whichever chunk, or there are too
            many chunks.
    """
    view = memoryview(data)
    at, limit = len(SIGNATURE), _limit(data)
    for _ in range(limit):
        if at == len(data):
            raise corrupt("IEND is missing: the file is cut off")
        if at + 12 > len(data):
            raise corrupt(f"it is cut off at byte {len(data):,}, inside a chunk")
        length = int.from_bytes(view[at : at + 4])
        name = bytes(view[at + 4 : at + 8])
        # Names are ASCII letters; isalpha on bytes is ASCII-only.
        if not name.isalpha():
            raise corrupt(f"byte {at + 4:,} should begin a chunk name")
        end = at + 8 + length
        if end + 4 > len(data):
            raise corrupt(f"it is cut off at byte {len(data):,}, inside {name.decode()}")
        # A name that was damaged may be that of any chunk, so no wrong checksum is let pass.
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise corrupt(f"the checksum of {name.decode()} at byte {at:,} is wrong")
        if at == len(SIGNATURE) and name != b"IHDR":
            raise corrupt("its first chunk is not IHDR")
        at = end + 4
        yield name, view[end - length : end]
        if name == b"IEND":
            if at != len(data):
                raise corrupt(f"{len(data) - at:,} bytes follow IEND")
            return
    raise InvalidImageError(f"image has more than {limit:,} chunks; write it anew with fewer.")


def few(data: bytes) -> bool:
    """Say whether a file has at most 256 chunks, so that checking it takes no time to speak of."""
    at = len(SIGNATURE)
    for _ in range(256):
        if at >= len(data):
            return True
        at += 12 + int.from_bytes(data[at : at + 4])
    return False


def end(data: bytes) -> int:
    """Return where a file's IEND ends, or the file, if it has none.

    Programs that append archives or notes to pictures, and those that write a smaller file over a
    larger one, leave something behind it, which no decoder shows.
    """
    at = len(SIGNATURE)
    for _ in range(_limit(data)):
        name = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])
        if name == b"IEND" or at >= len(data):
            break
    return at if name == b"IEND" and at < len(data) else len(data)


def without_metadata(data: bytes) -> bytes:
    """Return a file without the chunks that no pixel depends on, such as text and profiles.

    The others are not changed, so nothing is decoded or encoded. A palette that only suggests
    colours to a display of few is left out too.

    Raises:
        InvalidImageError: As `read`.
    """
    _, first = next(read(data))
    suggested = header(first).color_type != INDEXED
    return without(data, keep=PIXELS - {b"PLTE"} if suggested else PIXELS)


def without(data: bytes, *, keep: Container[bytes]) -> bytes:
    """Return a file without the ancillary chunks, and the palette, whose names are not in `keep`.

    Raises:
        InvalidImageError: As `read`.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    for name, body in read(data):
        # A critical chunk changes what the others mean: it stays, if only to be refused.
        if name in keep or (name[:1].isupper() and name != b"PLTE"):
            parts += _chunk(name, body)
    return b"".join(parts)


def replaced(data: bytes, name: bytes, change: Callable[[memoryview], bytes]) -> bytes:
    """Return a file with other content in each chunk of a name.

    Raises:
        InvalidImageError: As `read`.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    for found, body in read(data):
        parts += _chunk(found, change(body) if found == name else body)
    return b"".join(parts)


def check_order(chunks: Iterator[tuple[bytes, memoryview]]) -> tuple[Header, set[bytes]]:
    """Hold each chunk to its place and return the header, and the names that occur.

    Raises:
        InvalidImageError: If a rule is broken, or `chunks` raises it.
    """
    _, body = next(chunks)
    head = header(body)
    seen: set[bytes] = {b"IHDR"}
    previous, colors = b"IHDR", 0
    for name, body in chunks:
        _check_place(name, previous, seen)
        if len(body) != _LENGTHS.get(name, len(body)):
            raise corrupt(f"{name.decode()} has {len(body)} bytes instead of {_LENGTHS[name]}")
        if name == b"PLTE":
            colors = _checked_palette(head, body)
        elif name == b"IEND" and len(body):
            raise corrupt("IEND is not empty")
        elif name == b"tRNS":
            _check_transparency(head, len(body), colors)
        elif name == b"IDAT" and head.color_type == INDEXED and not colors:
            raise corrupt("PLTE is missing before IDAT")
        seen.add(name)
        previous = name
    if b"IDAT" not in seen:
        raise corrupt("it has no IDAT, so no pixels")
    return head, seen


def header(body: memoryview) -> Header:
    """Return what the content of IHDR says.

    Raises:
        InvalidImageError: If it has another length than 13, or a value that is not allowed.
    """
    if len(body) != 13:
        raise corrupt(f"IHDR has {len(body)} bytes instead of 13")
    width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
    bit_depth, color_type, compression, filtering, interlace = body[8:]
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise corrupt(f"IHDR says {width}x{height} pixels")
    if bit_depth not in _BIT_DEPTHS.get(color_type, ()):
        raise corrupt(f"IHDR says colour type {color_type} with bit depth {bit_depth}")
    if compression or filtering or interlace > 1:
        raise corrupt(
            f"IHDR says compression {compression}, filter {filtering}, interlace {interlace}"
        )
    return Header(width, height, bit_depth, color_type, bool(interlace))


def corrupt(what: str) -> InvalidImageError:
    """Return the error that says what is wrong with a PNG file."""
    return InvalidImageError(f"image is a corrupt PNG file: {what}.")


def _limit(data: bytes) -> int:
    return max(MAX_CHUNKS, len(data) // 256)


def _chunk(name: bytes, body: bytes | memoryview) -> Iterator[bytes | memoryview]:
    yield struct.pack(">I", len(body))
    yield name
    yield body
    yield struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _check_place(name: bytes, previous: bytes, seen: set[bytes]) -> None:
    """Refuse a chunk that the specification's ordering rules do not allow here."""
    text = name.decode()
    if name in seen and name in _ONCE:
        raise corrupt(f"{text} occurs twice")
    if name == b"IDAT" and b"IDAT" in seen and previous != b"IDAT":
        raise corrupt("its IDAT chunks are not consecutive")
    if b"IDAT" in seen and (name in _BEFORE_IDAT or name == b"PLTE"):
        raise corrupt(f"{text} comes after IDAT")
    if b"PLTE" in seen and name in _BEFORE_PLTE:
        raise corrupt(f"{text} comes after PLTE")
    if name == b"PLTE" and seen & _AFTER_PLTE:
        raise corrupt("PLTE comes after a chunk that depends on it")
    if name == b"hIST" and b"PLTE" not in seen:
        raise corrupt("hIST comes without a PLTE before it")
    # An upper-case first letter marks a chunk that a reader must understand.
    if name[:1].isupper() and name not in _CRITICAL:
        raise corrupt(f"its critical chunk {text} is unknown")


def _checked_palette(head: Header, body: memoryview) -> int:
    """Return the number of colours."""
    if head.color_type in (0, 4):
        raise corrupt("PLTE is not allowed in a grey picture")
    limit = 2**head.bit_depth if head.color_type == INDEXED else 256
    if not len(body) or len(body) % 3 or len(body) // 3 > limit:
        raise corrupt(f"PLTE has {len(body)} bytes; 3 to {3 * limit} in threes are allowed")
    return len(body) // 3


def _check_transparency(head: Header, length: int, colors: int) -> None:
    if head.color_type in (4, 6):
        raise corrupt("tRNS is not allowed beside an alpha channel")
    if head.color_type == INDEXED and length > colors:
        raise corrupt(f"tRNS has {length} entries for {colors} colours")
    if length != _TRNS_LENGTHS.get(head.color_type, length):
        raise corrupt(f"tRNS has {length} bytes instead of {_TRNS_LENGTHS[head.color_type]}")
