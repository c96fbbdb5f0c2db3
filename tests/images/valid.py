"""The corpus of valid PNG files: everything that the specification allows, with the pixels."""

import random
import struct
import zlib
from collections.abc import Iterator

from tests.images.encoder import (
    CHANNELS,
    DEPTHS,
    GRAY,
    GRAY_ALPHA,
    INDEXED,
    RGB,
    RGBA,
    SampleImage,
    chunk,
)

KINDS = [(color_type, depth) for color_type, depths in DEPTHS.items() for depth in depths]
"""The fifteen valid pairs of color type and bit depth."""


def random_image(
    color_type: int, depth: int, width: int = 9, height: int = 9, seed: int = 0
) -> SampleImage:
    """Return an image with random samples, smooth enough that every filter matters.

    A palette has as many colors as the depth allows. Every pixel has a visible alpha.
    """
    generator = random.Random(f"{color_type} {depth} {width} {height} {seed}")
    max_value = 2**depth - 1
    colors = [(generator.randrange(256), generator.randrange(256), generator.randrange(256))] * 0
    if color_type == INDEXED:
        colors = [tuple(generator.randbytes(3)) for _ in range(max_value + 1)]  # type: ignore[misc]  # 3 bytes
    has_alpha = color_type in (GRAY_ALPHA, RGBA)

    def pixel(x: int, y: int) -> tuple[int, ...]:
        base = max_value * (x + y) // max(1, width + height - 2)
        samples = [
            (base + generator.randrange(max_value // 4 + 1)) % (max_value + 1)
            for _ in range(CHANNELS[color_type])
        ]
        if has_alpha:
            samples[-1] = generator.randrange(max_value // 4, max_value + 1)
        return tuple(samples)

    rows = [[pixel(x, y) for x in range(width)] for y in range(height)]
    return SampleImage(color_type, depth, rows, palette=colors)


def images() -> Iterator[tuple[str, SampleImage]]:
    """Yield every valid image with a name that describes it."""
    for color_type, depth in KINDS:
        for interlaced in (False, True):
            kind = f"type {color_type} depth {depth}{' interlaced' * interlaced}"
            image = random_image(color_type, depth).replace_fields(interlaced=interlaced)
            for filters in ((0,), (1,), (2,), (3,), (4,), (4, 2, 0, 3, 1)):
                yield f"{kind} filters {filters}", image.replace_fields(filters=filters)
            yield f"{kind} split", image.replace_fields(pieces=10**6, filters=(4,))
            yield from _transparent(kind, image)
    for side in range(1, 9):
        for color_type, depth in ((GRAY, 1), (RGB, 8), (INDEXED, 4)):
            image = random_image(color_type, depth, side, side).replace_fields(
                interlaced=True, filters=(3, 4)
            )
            yield f"side {side} type {color_type} interlaced", image
            yield f"side {side} type {color_type}", image.replace_fields(interlaced=False)
    for colors in (1, 2, 3, 15, 16, 17, 255, 256):
        yield f"palette of {colors}", _indexed(colors)
    for name, before, after in ancillary():
        yield name, random_image(RGB, 8).replace_fields(first=before, last=after)
    yield (
        "suggested palette",
        random_image(RGB, 8).replace_fields(palette=[(1, 2, 3)], second=chunk(b"hIST", b"\0\1")),
    )


def oblong_images() -> Iterator[tuple[str, SampleImage]]:
    """Yield valid images that are not square."""
    for width, height in ((1, 7), (7, 1), (2, 5), (5, 2), (3, 8), (33, 17)):
        for color_type, depth in ((GRAY, 2), (RGBA, 16), (INDEXED, 1)):
            for interlaced in (False, True):
                image = random_image(color_type, depth, width, height)
                name = f"{width}x{height} type {color_type}{' interlaced' * interlaced}"
                yield name, image.replace_fields(interlaced=interlaced, filters=(4, 1, 2))


def ancillary() -> Iterator[tuple[str, bytes, bytes]]:
    """Yield a name, chunks before IDAT and chunks after IDAT. They change no pixel."""
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


def _transparent(kind: str, image: SampleImage) -> Iterator[tuple[str, SampleImage]]:
    if image.color_type == INDEXED:
        count = len(image.palette)
        alphas = tuple(40 + 215 * index // count for index in range(count))
        yield f"{kind} tRNS of all", image.replace_fields(trns=alphas)
        yield f"{kind} tRNS of one", image.replace_fields(trns=alphas[:1])
    elif image.color_type in (GRAY, RGB):
        yield f"{kind} tRNS", image.replace_fields(trns=image.rows[4][4])


def _indexed(colors: int) -> SampleImage:
    depth = next(depth for depth in (1, 2, 4, 8) if colors <= 2**depth)
    generator = random.Random(colors)
    return SampleImage(
        *(INDEXED, depth),
        rows=[[(generator.randrange(colors),) for _ in range(16)] for _ in range(16)],
        palette=[(n, 255 - n, n * 7 % 256) for n in range(colors)],
    )
