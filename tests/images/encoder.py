"""A PNG encoder of our own, written from the specification (third edition, W3C 2025).

It shares no code with the product or with Pillow, so that it is a check on both. Clause numbers in
docstrings are the specification's.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

SIGNATURE = bytes([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
GREY, RGB, INDEXED, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), INDEXED: (1, 2, 4, 8), GREY_ALPHA: (8, 16)} | {
    RGBA: (8, 16)
}
CHANNELS = {GREY: 1, RGB: 3, INDEXED: 1, GREY_ALPHA: 2, RGBA: 4}
# Clause 8.1: where each of the seven passes starts and steps, in x and y.
ADAM7 = [
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
]
Row = list[tuple[int, ...]]
Pixel = tuple[int, int, int, int]


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk with its right length and checksum (clause 5.3)."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and bodies of a file's chunks."""
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def joined(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the file of such chunks, with right lengths and checksums: the inverse of `split`."""
    return SIGNATURE + b"".join(chunk(name, body) for name, body in chunks)


@dataclass(frozen=True)
class Picture:
    """Samples, and how to write them."""

    color_type: int
    depth: int
    rows: list[Row]
    """Tuples of samples, one a pixel, in each row."""
    interlaced: bool = False
    filters: tuple[int, ...] = (0,)
    """The filter type of each row of a pass, repeated."""
    palette: list[tuple[int, int, int]] = field(default_factory=list)
    trns: tuple[int, ...] = ()
    """Alphas of palette entries, or the samples of the one transparent colour."""
    first: bytes = b""
    """Chunks after IHDR."""
    second: bytes = b""
    """Chunks after PLTE and tRNS."""
    last: bytes = b""
    """Chunks before IEND."""
    pieces: int = 1
    """How many IDAT chunks there are."""

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
            b"".join(self._filtered(rows)) for rows in self._passes() if rows and rows[0]
        )

    def body(self) -> bytes:
        """Return what the IDAT chunks hold together."""
        return zlib.compress(self.scanlines(), 6)

    def chunks(self, body: bytes | None = None) -> list[bytes]:
        """Return the file's chunks in order.

        Args:
            body: What the IDAT chunks hold, if not the picture's own.
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

    def with_(self, **changes: object) -> "Picture":
        """Return the same picture, written otherwise."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names and types are the fields'

    def seen(self) -> list[list[Pixel]]:
        """Return each pixel as 8-bit RGBA, as the product documents its normal form."""
        return [[_white_if_hidden(self._seen(pixel)) for pixel in row] for row in self.rows]

    def _seen(self, pixel: tuple[int, ...]) -> Pixel:
        if self.color_type == INDEXED:
            (index,) = pixel
            red, green, blue = self.palette[index]
            return (red, green, blue, self.trns[index] if index < len(self.trns) else 255)
        top = 2**self.depth - 1
        # 16-bit grey is rounded, 16-bit colour and alpha keep their high byte.
        exact = self.depth < 16 or self.color_type == GREY
        eight = [(v * 255 + top // 2) // top if exact else v >> 8 for v in pixel]
        opaque = 0 if self.trns == pixel else 255
        alpha = eight.pop() if self.color_type in (GREY_ALPHA, RGBA) else opaque
        red, green, blue = eight if len(eight) == 3 else eight * 3
        return (red, green, blue, alpha)

    def _passes(self) -> Iterator[list[Row]]:
        if not self.interlaced:
            yield self.rows
            return
        for x, y, step_x, step_y in ADAM7:
            yield [row[x::step_x] for row in self.rows[y::step_y]]

    def _filtered(self, rows: list[Row]) -> Iterator[bytes]:
        """Yield each row with its filter byte (clause 9.2)."""
        unit = max(1, CHANNELS[self.color_type] * self.depth // 8)
        above = bytes(len(self._packed(rows[0])))
        for number, row in enumerate(rows):
            kind, line = self.filters[number % len(self.filters)], self._packed(row)
            left = (bytes(unit) + line)[: len(line)]
            corner = (bytes(unit) + above)[: len(line)]
            yield bytes([kind]) + bytes(
                (x - _predicted(kind, a, b, c)) & 255
                for x, a, b, c in zip(line, left, above, corner, strict=True)
            )
            above = line

    def _packed(self, row: Row) -> bytes:
        """Return a row's samples as bytes, the leftmost in the high bits (clause 7.2)."""
        samples = [sample for pixel in row for sample in pixel]
        if self.depth == 16:
            return struct.pack(f">{len(samples)}H", *samples)
        bits = "".join(f"{sample:0{self.depth}b}" for sample in samples)
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _white_if_hidden(pixel: Pixel) -> Pixel:
    return pixel if pixel[3] >= 8 else (255, 255, 255, pixel[3])


def _predicted(kind: int, a: int, b: int, c: int) -> int:
    """Predict a byte from those left (a), above (b), and left above (c): clauses 9.2 to 9.4."""
    if kind < 4:
        return (0, a, b, (a + b) // 2)[kind]
    estimate = a + b - c
    return min((abs(estimate - a), 0, a), (abs(estimate - b), 1, b), (abs(estimate - c), 2, c))[2]
