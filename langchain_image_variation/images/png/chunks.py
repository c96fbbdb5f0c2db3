"""The chunks of a PNG file: reads them, checks them against the specification, and filters them.

Nothing is decompressed here. Rules and names are those of the PNG specification, third edition
(W3C, 2025).
"""

import struct
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from langchain_image_variation.exceptions import InvalidImageError

__all__ = [
    "APPEARANCE",
    "INDEXED",
    "MAX_CHUNKS",
    "PIXELS",
    "SIGNATURE",
    "Chunk",
    "Header",
    "Order",
    "check_order",
    "corrupt_png_error",
    "filter_chunks",
    "has_few_chunks",
    "join_chunks",
    "read_chunks",
    "read_header",
    "replace_chunks",
    "scan_chunks",
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


class Chunk(NamedTuple):
    """A chunk, and any problem that it has."""

    name: bytes
    body: memoryview
    """Its content, or as much of it as the file has."""
    end: int
    """The offset after the chunk."""
    problem: str | None
    """Why the chunk is not valid, or None."""
    is_whole: bool
    """Whether the file contains all of it. If not, nothing after it can be read."""


def scan_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield each chunk with any problem, up to IEND or to where the file is cut off.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If there are too many chunks.
    """
    view = memoryview(data)
    start, limit = len(SIGNATURE), _limit(data)
    for _ in range(limit):
        length = int.from_bytes(view[start : start + 4])
        name = bytes(view[start + 4 : start + 8])
        end = start + 8 + length
        body = view[start + 8 : end]
        problem, is_whole = None, False
        if start == len(data):
            problem = "IEND is missing: the file is cut off"
        elif start + 12 > len(data):
            problem = f"it is cut off at byte {len(data):,}, inside a chunk"
        # Names are ASCII letters; isalpha on bytes is ASCII-only.
        elif not name.isalpha():
            problem = f"byte {start + 4:,} should begin a chunk name"
        elif end + 4 > len(data):
            problem = f"it is cut off at byte {len(data):,}, inside {name.decode()}"
        else:
            is_whole = True
            # A damaged chunk may have had any name, so every checksum must be right.
            if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4]):
                problem = f"the checksum of {name.decode()} at byte {start:,} is wrong"
        start = end + 4
        yield Chunk(name, body, start, problem, is_whole)
        if name == b"IEND" or not is_whole:
            return
    raise InvalidImageError(
        f"image exceeds the limit of {limit:,} chunks. Save it again with fewer."
    )


def read_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's name and content, from IHDR up to and including IEND.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If the file does not begin with IHDR, is cut off or continues after IEND,
            if a length or name is impossible or any checksum is wrong, or if there are too many
            chunks.
    """
    is_first = True
    for chunk in scan_chunks(data):
        if chunk.problem is not None:
            raise corrupt_png_error(chunk.problem)
        if is_first and chunk.name != b"IHDR":
            raise corrupt_png_error("its first chunk is not IHDR")
        is_first = False
        yield chunk.name, chunk.body
        if chunk.name == b"IEND" and chunk.end != len(data):
            raise corrupt_png_error(f"{len(data) - chunk.end:,} bytes follow IEND")


def has_few_chunks(data: bytes) -> bool:
    """Return whether a file has at most 256 chunks, so that checking it is almost instant."""
    start = len(SIGNATURE)
    for _ in range(256):
        if start >= len(data):
            return True
        start += 12 + int.from_bytes(data[start : start + 4])
    return False


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
    # A critical chunk changes what the others mean, so it stays, even if it is refused later.
    return join_chunks(
        (name, body)
        for name, body in read_chunks(data)
        if name in keep or (name[:1].isupper() and name != b"PLTE")
    )


def replace_chunks(data: bytes, name: bytes, change: Callable[[memoryview], bytes]) -> bytes:
    """Return a file in which `change` has replaced the content of each chunk with that name.

    Raises:
        InvalidImageError: See `read_chunks`.
    """
    return join_chunks(
        (chunk_name, change(body) if chunk_name == name else body)
        for chunk_name, body in read_chunks(data)
    )


def join_chunks(chunks: Iterable[tuple[bytes, bytes | memoryview]]) -> bytes:
    """Return a file that consists of these chunks."""
    parts: list[bytes | memoryview] = [SIGNATURE]
    for name, body in chunks:
        parts += (struct.pack(">I", len(body)), name, body)
        parts.append(struct.pack(">I", zlib.crc32(body, zlib.crc32(name))))
    return b"".join(parts)


def check_order(chunks: Iterator[tuple[bytes, memoryview]]) -> tuple[Header, set[bytes]]:
    """Check that each chunk is allowed where it is; return the header and the names of all chunks.

    Raises:
        InvalidImageError: If a chunk breaks a rule, or if `chunks` raises this error.
    """
    _, body = next(chunks)
    order = Order(read_header(body))
    for name, body in chunks:
        if (problem := order.find_problem(name, body)) is not None:
            raise corrupt_png_error(problem)
        order.add(name, body)
    if b"IDAT" not in order.names:
        raise corrupt_png_error("it has no IDAT chunk and therefore no pixels")
    return order.header, order.names


class Order:
    """The chunks of a file so far, to check whether another one may follow.

    Args:
        header: The content of IHDR.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.names = {b"IHDR"}
        """The names of the chunks so far."""
        self.previous_name = b"IHDR"
        """The name of the last chunk."""
        self._colors = 0

    def add(self, name: bytes, body: memoryview) -> None:
        """Add the next chunk."""
        self.names.add(name)
        self.previous_name = name
        if name == b"PLTE":
            self._colors = len(body) // 3

    def find_problem(self, name: bytes, body: memoryview) -> str | None:
        """Return the rule that a chunk would break if it came next, or None."""
        if problem := _find_misplacement(name, self.previous_name, self.names):
            return problem
        if len(body) != _LENGTHS.get(name, len(body)):
            return f"{name.decode()} has {len(body)} bytes instead of {_LENGTHS[name]}"
        if name == b"PLTE":
            return _find_palette_problem(self.header, len(body))
        if name == b"IEND" and len(body):
            return "IEND is not empty"
        if name == b"tRNS":
            return _find_transparency_problem(self.header, len(body), self._colors)
        if name == b"IDAT" and self.header.color_type == INDEXED and not self._colors:
            return "PLTE is missing before IDAT"
        return None


def read_header(body: memoryview) -> Header:
    """Return the fields of IHDR from its content.

    Raises:
        InvalidImageError: If it does not have 13 bytes, or if a value is not allowed.
    """
    if len(body) != 13:
        raise corrupt_png_error(f"IHDR has {len(body)} bytes instead of 13")
    width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
    bit_depth, color_type, compression, filtering, interlace = body[8:]
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise corrupt_png_error(f"IHDR declares {width}x{height} pixels")
    if bit_depth not in _BIT_DEPTHS.get(color_type, ()):
        raise corrupt_png_error(f"IHDR declares color type {color_type} with bit depth {bit_depth}")
    if compression or filtering or interlace > 1:
        raise corrupt_png_error(
            f"IHDR declares compression {compression}, filter {filtering}, interlace {interlace}"
        )
    return Header(width, height, bit_depth, color_type, bool(interlace))


def corrupt_png_error(problem: str) -> InvalidImageError:
    """Return the error for a problem in a PNG file."""
    return InvalidImageError(f"image is a corrupt PNG file: {problem}.")


def _limit(data: bytes) -> int:
    return max(MAX_CHUNKS, len(data) // 256)


def _find_misplacement(name: bytes, previous_name: bytes, names: set[bytes]) -> str | None:
    """Return the rule about positions that a chunk breaks, or None."""
    text = name.decode()
    if name in names and name in _ONCE:
        return f"{text} occurs twice"
    if name == b"IDAT" and b"IDAT" in names and previous_name != b"IDAT":
        return "its IDAT chunks are not consecutive"
    if b"IDAT" in names and (name in _BEFORE_IDAT or name == b"PLTE"):
        return f"{text} comes after IDAT"
    if b"PLTE" in names and name in _BEFORE_PLTE:
        return f"{text} comes after PLTE"
    if name == b"PLTE" and names & _AFTER_PLTE:
        return "PLTE comes after a chunk that depends on it"
    if name == b"hIST" and b"PLTE" not in names:
        return "hIST has no PLTE before it"
    # An uppercase first letter marks a chunk that every reader must understand.
    if name[:1].isupper() and name not in _CRITICAL:
        return f"its critical chunk {text} is unknown"
    return None


def _find_palette_problem(header: Header, length: int) -> str | None:
    if header.color_type in (0, 4):
        return "PLTE is not allowed in a grayscale image"
    limit = 2**header.bit_depth if header.color_type == INDEXED else 256
    if not length or length % 3 or length // 3 > limit:
        return f"PLTE has {length} bytes; it may have 3 to {3 * limit}, in multiples of 3"
    return None


def _find_transparency_problem(header: Header, length: int, colors: int) -> str | None:
    if header.color_type in (4, 6):
        return "tRNS is not allowed with an alpha channel"
    if header.color_type == INDEXED and length > colors:
        return f"tRNS has {length} entries for {colors} colors"
    if length != _TRNS_LENGTHS.get(header.color_type, length):
        return f"tRNS has {length} bytes instead of {_TRNS_LENGTHS[header.color_type]}"
    return None
