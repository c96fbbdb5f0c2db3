"""A PNG encoder of our own, written from the specification (third edition, W3C 2025).

It shares no code with this project or with Pillow, so it checks both. Clause numbers in docstrings
are those of the specification.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

SIGNATURE = bytes([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
GRAY, RGB, INDEXED, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), INDEXED: (1, 2, 4, 8), GRAY_ALPHA: (8, 16)} | {
    RGBA: (8, 16)
}
CHANNELS = {GRAY: 1, RGB: 3, INDEXED: 1, GRAY_ALPHA: 2, RGBA: 4}
# Clause 8.1: where each of the seven passes starts and steps, in x and y.
ADAM7 = [
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
]
Row = list[tuple[int, ...]]
Pixel = tuple[int, int, int, int]


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk with the correct length and checksum (clause 5.3)."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def split_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the name and the body of each chunk of a file, even if the file is cut off."""
    start, chunks = 8, []
    while start + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def join_chunks(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a file with these chunks and correct lengths and checksums."""
    return SIGNATURE + b"".join(chunk(name, body) for name, body in chunks)


@dataclass(frozen=True)
class SampleImage:
    """An image as samples, and how to encode it."""

    color_type: int
    depth: int
    rows: list[Row]
    """The rows of pixels. A pixel is a tuple of samples."""
    interlaced: bool = False
    filters: tuple[int, ...] = (0,)
    """The filter types of the rows of a pass, repeated."""
    palette: list[tuple[int, int, int]] = field(default_factory=list)
    trns: tuple[int, ...] = ()
    """Alphas of palette entries, or the samples of the transparent color."""
    first: bytes = b""
    """Chunks after IHDR."""
    second: bytes = b""
    """Chunks after PLTE and tRNS."""
    last: bytes = b""
    """Chunks before IEND."""
    pieces: int = 1
    """The number of IDAT chunks."""

    @property
    def width(self) -> int:
        """In pixels."""
        return len(self.rows[0])

    @property
    def height(self) -> int:
        """In pixels."""
        return len(self.rows)

    def header(self, **changes: int) -> bytes:
        """Return the body of IHDR (clause 11.2.1), with some fields changed."""
        fields = {
            "width": self.width,
            "height": self.height,
            "depth": self.depth,
            "color_type": self.color_type,
            "compression": 0,
            "filtering": 0,
            "interlace": int(self.interlaced),
            **changes,
        }
        return struct.pack(">II5B", *fields.values())

    def scanlines(self) -> bytes:
        """Return the filtered scanlines of every pass, before compression (clauses 7 to 9)."""
        return b"".join(
            b"".join(self._filter_rows(rows)) for rows in self._passes() if rows and rows[0]
        )

    def body(self) -> bytes:
        """Return the joined content of the IDAT chunks."""
        return zlib.compress(self.scanlines(), 6)

    def chunks(self, body: bytes | None = None) -> list[bytes]:
        """Return the file's chunks in order.

        Args:
            body: Other content of the IDAT chunks.
        """
        body = self.body() if body is None else body
        size = -(-len(body) // self.pieces)
        idat = [chunk(b"IDAT", body[at : at + size]) for at in range(0, len(body), size)]
        plte = [chunk(b"PLTE", bytes(v for entry in self.palette for v in entry))]
        depth = "B" if self.color_type == INDEXED else "H"
        trns = [chunk(b"tRNS", struct.pack(f">{len(self.trns)}{depth}", *self.trns))]
        parts = [
            *(chunk(b"IHDR", self.header()), self.first),
            *(plte if self.palette else []),
            *(trns if self.trns else []),
            *(self.second, *idat, self.last, chunk(b"IEND")),
        ]
        return [part for part in parts if part]

    def png(self) -> bytes:
        """Return the file."""
        return SIGNATURE + b"".join(self.chunks())

    def replace_fields(self, **changes: object) -> "SampleImage":
        """Return the same image with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names and types are the fields'

    def visible_pixels(self) -> list[list[Pixel]]:
        """Return each pixel as 8-bit RGBA, in the normal form that the project documents."""
        return [[_white_if_hidden(self._to_rgba(pixel)) for pixel in row] for row in self.rows]

    def _to_rgba(self, pixel: tuple[int, ...]) -> Pixel:
        if self.color_type == INDEXED:
            (index,) = pixel
            red, green, blue = self.palette[index]
            return (red, green, blue, self.trns[index] if index < len(self.trns) else 255)
        max_value = 2**self.depth - 1
        values = [(v * 255 + max_value // 2) // max_value for v in pixel]
        opaque = 0 if self.trns == pixel else 255
        alpha = values.pop() if self.color_type in (GRAY_ALPHA, RGBA) else opaque
        red, green, blue = values if len(values) == 3 else values * 3
        return (red, green, blue, alpha)

    def _passes(self) -> Iterator[list[Row]]:
        if not self.interlaced:
            yield self.rows
            return
        for x, y, step_x, step_y in ADAM7:
            yield [row[x::step_x] for row in self.rows[y::step_y]]

    def _filter_rows(self, rows: list[Row]) -> Iterator[bytes]:
        """Yield each row with its filter byte (clause 9.2)."""
        unit = max(1, CHANNELS[self.color_type] * self.depth // 8)
        above = bytes(len(self._pack_row(rows[0])))
        for number, row in enumerate(rows):
            kind, line = self.filters[number % len(self.filters)], self._pack_row(row)
            left = (bytes(unit) + line)[: len(line)]
            corner = (bytes(unit) + above)[: len(line)]
            yield bytes([kind]) + bytes(
                (x - _predict(kind, a, b, c)) & 255
                for x, a, b, c in zip(line, left, above, corner, strict=True)
            )
            above = line

    def _pack_row(self, row: Row) -> bytes:
        """Return a row's samples as bytes, the leftmost in the high bits (clause 7.2)."""
        samples = [sample for pixel in row for sample in pixel]
        if self.depth == 16:
            return struct.pack(f">{len(samples)}H", *samples)
        bits = "".join(f"{sample:0{self.depth}b}" for sample in samples)
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _white_if_hidden(pixel: Pixel) -> Pixel:
    return pixel if pixel[3] >= 8 else (255, 255, 255, pixel[3])


def _predict(kind: int, a: int, b: int, c: int) -> int:
    """Predict a byte from its left (a), upper (b) and upper left (c) neighbors (9.2 to 9.4)."""
    if kind < 4:
        return (0, a, b, (a + b) // 2)[kind]
    estimate = a + b - c
    return min((abs(estimate - a), 0, a), (abs(estimate - b), 1, b), (abs(estimate - c), 2, c))[2]
