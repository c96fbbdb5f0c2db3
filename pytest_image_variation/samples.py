"""Deterministic images for tests: valid ones, and one for each way to break the contract.

Every function returns the bytes of a file. The same arguments give the same pixels everywhere, but
the bytes may differ between builds of zlib.
"""

import io
import random
import zlib
from functools import cache, lru_cache

from PIL import Image, ImageDraw

__all__ = [
    "corrupt_png",
    "jpeg",
    "non_square_png",
    "oversized_png",
    "square_png",
    "truncated_png",
]


def square_png(side: int = 64, mode: str = "RGB") -> bytes:
    """Return a valid square PNG: a few colored shapes on a gradient.

    Args:
        side: Width and height in pixels.
        mode: A mode that Pillow can write as PNG, such as "RGB", "RGBA", "L", "LA", "P" or "1".
    """
    return _square_png(side, mode)


def non_square_png(width: int = 96, height: int = 64) -> bytes:
    """Return a valid PNG that is not square."""
    return _png(_draw(width, height).convert("RGB"))


@cache
def oversized_png() -> bytes:
    """Return a valid square PNG of more than 4 MB: 1280x1280 pixels of noise."""
    noise = random.Random(0).randbytes(1280 * 1280 * 3)
    return _png(Image.frombytes("RGB", (1280, 1280), noise))


def truncated_png(side: int = 64) -> bytes:
    """Return the first half of a square PNG."""
    data = square_png(side)
    return data[: len(data) // 2]


def corrupt_png(side: int = 64) -> bytes:
    """Return a square PNG with valid chunks whose pixels cannot be decompressed."""
    data = square_png(side)
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start])
    chunk = b"IDAT" + b"\xff" * length
    return data[:start] + chunk + zlib.crc32(chunk).to_bytes(4) + data[start + length + 8 :]


def jpeg(width: int = 96, height: int = 64) -> bytes:
    """Return a JPEG, which is neither PNG nor square."""
    return _jpeg(width, height)


# The next two are cached because suites make the same image for each of their tests.
@lru_cache(maxsize=64)
def _square_png(side: int, mode: str) -> bytes:
    return _png(_draw(side, side).convert(mode))


@lru_cache(maxsize=64)
def _jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    _draw(width, height).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _draw(width: int, height: int) -> Image.Image:
    vertical = Image.linear_gradient("L").resize((width, height))
    horizontal = Image.linear_gradient("L").rotate(90).resize((width, height))
    opaque = Image.new("L", (width, height), 255)
    image = Image.merge("RGBA", (vertical, horizontal, opaque.point(lambda _: 128), opaque))
    draw = ImageDraw.Draw(image)
    w, h = width - 1, height - 1
    draw.ellipse((w // 8, h // 8, w // 2, h // 2), fill=(220, 40, 30, 255))
    draw.rectangle((w // 2, h // 2, w * 7 // 8, h * 7 // 8), fill=(20, 90, 200, 255))
    draw.line((0, h, w, 0), fill=(250, 240, 80, 255), width=max(1, width // 24))
    draw.rectangle((0, 0, w // 6, h // 6), fill=(0, 0, 0, 0))
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
