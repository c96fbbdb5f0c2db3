"""`SquarePNG`: the only form in which a picture enters a request.

The check reads the structure of the file and decodes nothing, so it takes milliseconds whatever
the picture holds, and a decompression bomb is refused before anything is inflated. Rules and chunk
names are those of the PNG specification, third edition (W3C, 2025); "square" and "less than 4MB"
are the contract's.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_image_variation.exceptions import InvalidImageError

__all__ = [
    "MAX_PNG_BYTES",
    "MAX_PNG_CHUNKS",
    "MAX_PNG_SIDE",
    "SquarePNG",
    "has_few_chunks",
    "without_text",
]

MAX_PNG_BYTES = 4 * 1024 * 1024
"""A picture must be smaller than this, in bytes: the contract's "less than 4MB"."""

MAX_PNG_SIDE = 8192
"""A picture may be at most this wide and high, in pixels: 8 times the largest `size`."""

MAX_PNG_CHUNKS = 16_384
"""A file may have at most so many chunks: one for each 256 bytes of the largest."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_INDEXED = 3
_BEFORE_PLTE = {b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"cLLI", b"sBIT", b"sRGB"}
# The third edition wants eXIf here too, but the second allowed it at the end, where common programs
# put it and every decoder accepts it.
_BEFORE_IDAT = {*_BEFORE_PLTE, b"bKGD", b"hIST", b"pHYs", b"sPLT", b"tRNS", b"acTL"}
_ONCE = {*_BEFORE_IDAT, b"IHDR", b"PLTE", b"IEND", b"eXIf", b"tIME"} - {b"sPLT"}
_AFTER_PLTE = {b"bKGD", b"hIST", b"tRNS"}
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TEXT = {b"tEXt", b"zTXt", b"iTXt"}


class _Header(NamedTuple):
    side: int
    bit_depth: int
    color_type: int


@dataclass(frozen=True, slots=True)
class SquarePNG:
    """A valid square PNG of less than 4 MB. One exists only if it passed every check.

    Checked are the signature, the header, each chunk's length, name, place and checksum, the
    closing IEND, that width and height are equal, and both limits. Pixels are not decoded: whoever
    needs them calls `langchain_image_variation.pixels.decode`, which fails with the same error.

    Args:
        data: The bytes of the file.

    Raises:
        InvalidImageError: If a rule is broken; the message says which, and what was found.
    """

    data: bytes = field(repr=False)
    side: int = field(init=False)
    """Width and height in pixels."""
    bit_depth: int = field(init=False)
    """Bits per sample (or per palette index): 1, 2, 4, 8 or 16."""
    color_type: int = field(init=False)
    """The PNG colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    chunk_names: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of the chunks in the file."""

    def __post_init__(self) -> None:
        """Check the file and fill in the fields read from its header."""
        if not isinstance(self.data, bytes):
            name = type(self.data).__name__
            raise InvalidImageError(f"image must be the bytes of a PNG file, got {name}.")
        header, names = _checked(self.data)
        object.__setattr__(self, "side", header.side)
        object.__setattr__(self, "bit_depth", header.bit_depth)
        object.__setattr__(self, "color_type", header.color_type)
        object.__setattr__(self, "chunk_names", frozenset(name.decode() for name in names))

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def without_text(data: bytes) -> bytes:
    """Return a PNG file without its text chunks, which a decoder would inflate for nothing.

    What is no PNG, or breaks off, is returned as it is from there on: judging it is not our part.
    """
    if not data.startswith(_SIGNATURE):
        return data
    kept, start, at = [], 0, len(_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] in _TEXT:
            kept.append(data[start:at])
            start = end
        at = end
    return b"".join([*kept, data[start:]]) if kept else data


def has_few_chunks(data: bytes) -> bool:
    """Say whether a file has at most 256 chunks, so that checking it takes no time to speak of."""
    at = len(_SIGNATURE)
    for _ in range(256):
        if at >= len(data):
            return True
        at += 12 + int.from_bytes(data[at : at + 4])
    return False


def _checked(data: bytes) -> tuple[_Header, set[bytes]]:
    if not data:
        raise InvalidImageError("image is empty; pass the bytes of a PNG file.")
    if not data.startswith(_SIGNATURE):
        raise InvalidImageError("image is not a PNG file: the PNG signature is missing.")
    if len(data) >= MAX_PNG_BYTES:
        raise InvalidImageError(
            f"image has {len(data):,} bytes; it must have less than {MAX_PNG_BYTES:,} (4 MB)."
        )
    chunks = _chunks(data)
    name, body = next(chunks)
    if name != b"IHDR":
        raise _corrupt("its first chunk is not IHDR")
    header = _header(body)
    return header, _check_order(header, chunks)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's name and content, up to and including IEND."""
    view = memoryview(data)
    at, count = len(_SIGNATURE), 0
    while at < len(data):
        count += 1
        if count > MAX_PNG_CHUNKS:
            raise InvalidImageError(
                f"image has more than {MAX_PNG_CHUNKS:,} chunks; write it anew with fewer."
            )
        if at + 12 > len(data):
            raise _corrupt(f"it is cut off at byte {len(data):,}, inside a chunk")
        length = int.from_bytes(view[at : at + 4])
        name = bytes(view[at + 4 : at + 8])
        # Names are ASCII letters; isalpha on bytes is ASCII-only.
        if not name.isalpha():
            raise _corrupt(f"byte {at + 4:,} should begin a chunk name")
        end = at + 8 + length
        if end + 4 > len(data):
            raise _corrupt(f"it is cut off at byte {len(data):,}, inside {name.decode()}")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise _corrupt(f"the checksum of {name.decode()} at byte {at:,} is wrong")
        at = end + 4
        yield name, view[end - length : end]
        if name == b"IEND":
            if at != len(data):
                raise _corrupt(f"{len(data) - at:,} bytes follow IEND")
            return
    raise _corrupt("IEND is missing: the file is cut off")


def _header(body: memoryview) -> _Header:
    if len(body) != 13:
        raise _corrupt(f"IHDR has {len(body)} bytes instead of 13")
    width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
    bit_depth, color_type, compression, filtering, interlace = body[8:]
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise _corrupt(f"IHDR says {width}x{height} pixels")
    if bit_depth not in _BIT_DEPTHS.get(color_type, ()):
        raise _corrupt(f"IHDR says colour type {color_type} with bit depth {bit_depth}")
    if compression or filtering or interlace > 1:
        raise _corrupt(
            f"IHDR says compression {compression}, filter {filtering}, interlace {interlace}"
        )
    if width != height:
        raise InvalidImageError(
            f"image must be square, got {width}x{height} pixels; crop or pad it first."
        )
    if width > MAX_PNG_SIDE:
        raise InvalidImageError(
            f"image is {width}x{height} pixels; the limit is {MAX_PNG_SIDE}x{MAX_PNG_SIDE}."
        )
    return _Header(width, bit_depth, color_type)


def _check_order(header: _Header, chunks: Iterator[tuple[bytes, memoryview]]) -> set[bytes]:
    """Check each chunk's place and return the names that occur."""
    seen: set[bytes] = {b"IHDR"}
    previous, colors = b"IHDR", 0
    for name, body in chunks:
        _check_place(name, previous, seen)
        if name == b"PLTE":
            colors = _checked_palette(header, body)
        elif name == b"IEND" and len(body):
            raise _corrupt("IEND is not empty")
        elif name == b"tRNS" and header.color_type in (4, 6):
            raise _corrupt("tRNS is not allowed beside an alpha channel")
        elif name == b"tRNS" and header.color_type == _INDEXED and len(body) > colors:
            raise _corrupt(f"tRNS has {len(body)} entries for {colors} colours")
        elif name == b"IDAT" and header.color_type == _INDEXED and not colors:
            raise _corrupt("PLTE is missing before IDAT")
        seen.add(name)
        previous = name
    if b"IDAT" not in seen:
        raise _corrupt("it has no IDAT, so no pixels")
    return seen


def _check_place(name: bytes, previous: bytes, seen: set[bytes]) -> None:
    """Refuse a chunk that the specification's ordering rules do not allow here."""
    text = name.decode()
    if name in seen and name in _ONCE:
        raise _corrupt(f"{text} occurs twice")
    if name == b"IDAT" and b"IDAT" in seen and previous != b"IDAT":
        raise _corrupt("its IDAT chunks are not consecutive")
    if b"IDAT" in seen and (name in _BEFORE_IDAT or name == b"PLTE"):
        raise _corrupt(f"{text} comes after IDAT")
    if b"PLTE" in seen and name in _BEFORE_PLTE:
        raise _corrupt(f"{text} comes after PLTE")
    if name == b"PLTE" and seen & _AFTER_PLTE:
        raise _corrupt("PLTE comes after a chunk that depends on it")
    if name == b"hIST" and b"PLTE" not in seen:
        raise _corrupt("hIST comes without a PLTE before it")
    # An upper-case first letter marks a chunk that a reader must understand.
    if name[:1].isupper() and name not in _CRITICAL:
        raise _corrupt(f"its critical chunk {text} is unknown")


def _checked_palette(header: _Header, body: memoryview) -> int:
    """Return the number of colours."""
    if header.color_type in (0, 4):
        raise _corrupt("PLTE is not allowed in a grey picture")
    limit = 2**header.bit_depth if header.color_type == _INDEXED else 256
    if not len(body) or len(body) % 3 or len(body) // 3 > limit:
        raise _corrupt(f"PLTE has {len(body)} bytes; 3 to {3 * limit} in threes are allowed")
    return len(body) // 3


def _corrupt(what: str) -> InvalidImageError:
    return InvalidImageError(f"image is a corrupt PNG file: {what}.")
