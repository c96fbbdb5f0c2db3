"""Deterministic pictures for tests: legal ones, and one for each rule of the contract they break.

Every function returns the bytes of a file. The same arguments give the same pixels everywhere; the
bytes may differ between builds of zlib.
"""

import io
import random
import zlib
from functools import cache

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
    """Return a legal square PNG: a few coloured shapes on a gradient.

    Args:
        side: Width and height in pixels.
        mode: A mode that Pillow writes as PNG, such as "RGB", "RGBA", "L", "LA", "P" or "1".
    """
    return _png(_picture(side, side).convert(mode))


def non_square_png(width: int = 96, height: int = 64) -> bytes:
    """Return a valid PNG that is not square."""
    return _png(_picture(width, height).convert("RGB"))


@cache
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
    """Return a square PNG whose chunks are all in order, but whose pixels cannot be inflated."""
    data = square_png(side)
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    chunk = b"IDAT" + b"\xff" * length
    return data[:at] + chunk + zlib.crc32(chunk).to_bytes(4) + data[at + length + 8 :]


def jpeg(width: int = 96, height: int = 64) -> bytes:
    """Return a JPEG photo's worth of trouble: neither PNG nor square."""
    buffer = io.BytesIO()
    _picture(width, height).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _picture(width: int, height: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    turned = Image.linear_gradient("L").rotate(90).resize((width, height))
    opaque = Image.new("L", (width, height), 255)
    picture = Image.merge("RGBA", (ramp, turned, opaque.point(lambda _: 128), opaque))
    draw = ImageDraw.Draw(picture)
    w, h = width - 1, height - 1
    draw.ellipse((w // 8, h // 8, w // 2, h // 2), fill=(220, 40, 30, 255))
    draw.rectangle((w // 2, h // 2, w * 7 // 8, h * 7 // 8), fill=(20, 90, 200, 255))
    draw.line((0, h, w, 0), fill=(250, 240, 80, 255), width=max(1, width // 24))
    draw.rectangle((0, 0, w // 6, h // 6), fill=(0, 0, 0, 0))
    return picture


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
