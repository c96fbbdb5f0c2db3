"""From an opened picture of any shape to a `SquarePNG`, cropped or padded, and under the limits."""

import math

from PIL import Image

from langchain_image_variation.pixels import encode, plain, whiten_hidden
from langchain_image_variation.png import MAX_PNG_BYTES, SquarePNG

__all__ = ["MAX_CONVERTED_SIDE", "squared"]

MAX_CONVERTED_SIDE = 4096
"""A picture that must be converted is scaled down to this side, in pixels: 4 times the largest
`size`, and little memory."""

_QUICK_SIDE = 1024
"""Up to this side, in pixels, encoding at full size and looking costs less than predicting."""


def squared(image: Image.Image, *, pad: bool) -> tuple[SquarePNG, str, str]:
    """Return a picture as a square PNG of less than 4 MB, and how it was made square and scaled.

    The latter two are parts of a sentence, such as "cropped 451x300 to the centred 300x300" and
    "scaled 5000x5000 down to 4096x4096", or empty if nothing was done. A decoder's own errors come
    too: call it inside `decoding`.

    Args:
        image: A picture in any of Pillow's modes. What it says of its colours is applied.
        pad: Whether to add bars at two sides, transparent where the picture has alpha, else black.
            Otherwise the centred square is taken.
    """
    pixels, side, step = (_padded if pad else _cropped)(image)
    png, scaled = _under_limit(pixels, side)
    return png, step, scaled


def _cropped(image: Image.Image) -> tuple[Image.Image, int, str]:
    """Return the square pixels, the side they had before any scaling, and what was done."""
    width, height = image.size
    side = min(width, height)
    # The centre is the centre whichever way up, so only it need be converted.
    left, top = (width - side) // 2, (height - side) // 2
    pixels = plain(image, (left, top, left + side, top + side), MAX_CONVERTED_SIDE)
    if width == height:
        return pixels, side, ""
    return pixels, side, f"cropped {width}x{height} to the centred {side}x{side}"


def _padded(image: Image.Image) -> tuple[Image.Image, int, str]:
    """Return the square pixels, the side they had before any scaling, and what was done."""
    pixels = plain(image, None, MAX_CONVERTED_SIDE)
    if pixels.width == pixels.height:
        return pixels, image.width, ""
    width, height = image.size
    # A strip of a million by one would need a million rows.
    pixels.thumbnail((MAX_CONVERTED_SIDE, MAX_CONVERTED_SIDE), Image.Resampling.LANCZOS)
    side = max(pixels.size)
    square = Image.new(pixels.mode, (side, side))
    square.paste(pixels, ((side - pixels.width) // 2, (side - pixels.height) // 2))
    whiten_hidden(square)
    return square, side, f"padded {width}x{height} to a square of {side}x{side}"


def _under_limit(image: Image.Image, full: int) -> tuple[SquarePNG, str]:
    """Encode a square picture, scaled down as little as puts it under the limits.

    Args:
        image: The square pixels.
        full: The side in pixels they had before any scaling, for the note.
    """
    side = min(image.width, MAX_CONVERTED_SIDE)
    if side > _QUICK_SIDE:
        side = min(side, _predicted_side(image))
    while True:
        resized = image
        if side < image.width:
            resized = image.resize((side, side), Image.Resampling.LANCZOS)
            whiten_hidden(resized)
        data = encode(resized)
        if len(data) < MAX_PNG_BYTES:
            step = f"scaled {full}x{full} down to {side}x{side}"
            return SquarePNG(data), step if side < full else ""
        side = int(side * min(0.97, math.sqrt(MAX_PNG_BYTES / len(data))))


def _predicted_side(image: Image.Image) -> int:
    """Return the side, in pixels, at which the PNG should come out just under the limit.

    A picture scaled down has more bytes a pixel than the original, so a sample at a low side
    predicts a side that is rather too small for smooth pictures and right for busy ones.
    """
    sample = image.resize((_QUICK_SIDE, _QUICK_SIDE), Image.Resampling.LANCZOS)
    bytes_per_pixel = len(encode(sample)) / _QUICK_SIDE**2
    return max(_QUICK_SIDE, int(math.sqrt(MAX_PNG_BYTES / bytes_per_pixel)))
