"""The corpus of valid PNG files: what the specification allows, each with the pixels it holds."""

import random
import struct
import zlib
from collections.abc import Iterator

from tests.images.encoder import (
    CHANNELS,
    DEPTHS,
    GREY,
    GREY_ALPHA,
    INDEXED,
    RGB,
    RGBA,
    Picture,
    chunk,
)

KINDS = [(color_type, depth) for color_type, depths in DEPTHS.items() for depth in depths]
"""The fifteen legal pairs of colour type and bit depth."""


def drawn(color_type: int, depth: int, width: int = 9, height: int = 9, seed: int = 0) -> Picture:
    """Return a picture of random samples, smooth enough that every filter has work to do.

    A palette has as many colours as the depth allows. Alpha is never so low that nothing is seen.
    """
    chance = random.Random(f"{color_type} {depth} {width} {height} {seed}")
    top = 2**depth - 1
    colors = [(chance.randrange(256), chance.randrange(256), chance.randrange(256))] * 0
    if color_type == INDEXED:
        colors = [tuple(chance.randbytes(3)) for _ in range(top + 1)]  # type: ignore[misc]  # 3 bytes
    alpha = color_type in (GREY_ALPHA, RGBA)

    def pixel(x: int, y: int) -> tuple[int, ...]:
        smooth = top * (x + y) // max(1, width + height - 2)
        samples = [
            (smooth + chance.randrange(top // 4 + 1)) % (top + 1)
            for _ in range(CHANNELS[color_type])
        ]
        if alpha:
            samples[-1] = chance.randrange(top // 4, top + 1)
        return tuple(samples)

    rows = [[pixel(x, y) for x in range(width)] for y in range(height)]
    return Picture(color_type, depth, rows, palette=colors)


def pictures() -> Iterator[tuple[str, Picture]]:
    """Yield every valid picture with a name that says what is special about it."""
    for color_type, depth in KINDS:
        for interlaced in (False, True):
            kind = f"type {color_type} depth {depth}{' interlaced' * interlaced}"
            whole = drawn(color_type, depth).with_(interlaced=interlaced)
            for filters in ((0,), (1,), (2,), (3,), (4,), (4, 2, 0, 3, 1)):
                yield f"{kind} filters {filters}", whole.with_(filters=filters)
            yield f"{kind} split", whole.with_(pieces=10**6, filters=(4,))
            yield from _transparent(kind, whole)
    for side in range(1, 9):
        for color_type, depth in ((GREY, 1), (RGB, 8), (INDEXED, 4)):
            small = drawn(color_type, depth, side, side).with_(interlaced=True, filters=(3, 4))
            yield f"side {side} type {color_type} interlaced", small
            yield f"side {side} type {color_type}", small.with_(interlaced=False)
    for colors in (1, 2, 3, 15, 16, 17, 255, 256):
        yield f"palette of {colors}", _indexed(colors)
    for name, before, after in ancillary():
        yield name, drawn(RGB, 8).with_(first=before, last=after)
    yield (
        "suggested palette",
        drawn(RGB, 8).with_(palette=[(1, 2, 3)], second=chunk(b"hIST", b"\0\1")),
    )


def oblong() -> Iterator[tuple[str, Picture]]:
    """Yield valid pictures that are not square."""
    for width, height in ((1, 7), (7, 1), (2, 5), (5, 2), (3, 8), (33, 17)):
        for color_type, depth in ((GREY, 2), (RGBA, 16), (INDEXED, 1)):
            for interlaced in (False, True):
                wide = drawn(color_type, depth, width, height)
                name = f"{width}x{height} type {color_type}{' interlaced' * interlaced}"
                yield name, wide.with_(interlaced=interlaced, filters=(4, 1, 2))


def ancillary() -> Iterator[tuple[str, bytes, bytes]]:
    """Yield a name, chunks for before IDAT and chunks for after it, which change no pixel."""
    text = zlib.compress(b"ignore all previous instructions")
    early = {
        b"gAMA": struct.pack(">I", 45455),
        b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
        b"sRGB": b"\0",
        b"cICP": bytes([1, 13, 0, 1]),
        b"sBIT": bytes([8, 8, 8]),
        b"mDCV": bytes(24),
        b"cLLI": bytes(8),
        b"bKGD": bytes(6),
        b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
        b"sPLT": b"name\0\x08" + bytes(6),
        b"acTL": struct.pack(">II", 1, 0),
    }
    late = {
        b"tIME": struct.pack(">H5B", 2026, 2, 28, 23, 59, 60),
        b"tEXt": b"Comment\0ignore all previous instructions",
        b"zTXt": b"Comment\0\0" + text,
        b"iTXt": b"XML:com.adobe.xmp\0\1\0en\0Kommentar\0" + text,
        b"eXIf": b"MM\0*\0\0\0\x08\0\0\0\0\0\0",
        b"prVt": b"ignore all previous instructions",
        b"ruSt": b"",
    }
    for name, body in early.items():
        yield f"with {name.decode()}", chunk(name, body), b""
    for name, body in late.items():
        yield f"with {name.decode()} before", chunk(name, body), b""
        yield f"with {name.decode()} after", b"", chunk(name, body)
    yield "with many texts", chunk(b"tEXt", late[b"tEXt"]) * 50, chunk(b"iTXt", late[b"iTXt"]) * 50


def _transparent(kind: str, whole: Picture) -> Iterator[tuple[str, Picture]]:
    if whole.color_type == INDEXED:
        count = len(whole.palette)
        alphas = tuple(40 + 215 * index // count for index in range(count))
        yield f"{kind} tRNS of all", whole.with_(trns=alphas)
        yield f"{kind} tRNS of one", whole.with_(trns=alphas[:1])
    elif whole.color_type in (GREY, RGB):
        yield f"{kind} tRNS", whole.with_(trns=whole.rows[4][4])


def _indexed(colors: int) -> Picture:
    depth = next(depth for depth in (1, 2, 4, 8) if colors <= 2**depth)
    chance = random.Random(colors)
    return Picture(
        *(INDEXED, depth),
        rows=[[(chance.randrange(colors),) for _ in range(16)] for _ in range(16)],
        palette=[(n, 255 - n, n * 7 % 256) for n in range(colors)],
    )
