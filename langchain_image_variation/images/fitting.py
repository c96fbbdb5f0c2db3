"""From an opened picture of any shape to a `SquarePNG`, cropped or padded, and under the limits."""

import math

from PIL import Image, ImageChops

from langchain_image_variation.images.pixels import encode, plain, whiten_hidden
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG

__all__ = ["MAX_CONVERTED_SIDE", "squared"]

MAX_CONVERTED_SIDE = 4096
"""A picture that must be converted is scaled down to this side, in pixels: 4 times the largest
`size`, and little memory."""

_ALWAYS_UNDER = MAX_PNG_BYTES * 995 // 1000
"""A PNG of fewer samples is always under the limit: deflate adds 0.1 % to noise."""

_STRIP = 256
"""Rows that are estimated at a time, so that a large image is never copied whole."""


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
    """Encode a square picture, scaled down until it is sure to be under the limits.

    The side follows from the pixels alone. If it followed from the length of the file, every zlib
    would give another image.

    Args:
        image: The square pixels.
        full: The side in pixels they had before any scaling, for the note.
    """
    always = math.isqrt(_ALWAYS_UNDER // len(image.getbands())) - 1
    side = min(image.width, MAX_CONVERTED_SIDE)
    resized = _resized(image, side)
    while side > always and (most := _most_bytes(resized)) >= MAX_PNG_BYTES:
        fitting = math.isqrt(side * side * MAX_PNG_BYTES // most)
        # A smaller image has more bytes a pixel, so this takes a few steps.
        side = max(always, min(fitting, side * 97 // 100))
        resized = _resized(image, side)
    data = encode(resized)
    if len(data) >= MAX_PNG_BYTES:
        # No zlib known compresses that badly.
        side = always
        data = encode(_resized(image, side))
    step = f"scaled {full}x{full} down to {side}x{side}"
    return SquarePNG(data), step if side < full else ""


def _resized(image: Image.Image, side: int) -> Image.Image:
    if side >= image.width:
        return image
    resized = image.resize((side, side), Image.Resampling.LANCZOS)
    whiten_hidden(resized)
    return resized


def _most_bytes(image: Image.Image) -> int:
    """Return more bytes than the PNG of an image has with any known zlib, in whole numbers.

    It is the entropy of what the filters Sub, Up and Average leave (PNG specification, third
    edition, 9.2), of whichever leaves least. zlib 1.2.13 needed up to 1.13 times as much for images
    of few bits a sample, zlib-ng 2.1 up to 1.19 times; photos need 0.5 to 0.95 times as much.
    """
    counts = [[0] * 256 for _ in range(3)]
    for top in range(0, image.height, _STRIP):
        part = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        left, above = ImageChops.offset(part, 1, 0), ImageChops.offset(part, 0, 1)
        for found, predicted in zip(
            counts, (left, above, ImageChops.add(left, above, 2)), strict=True
        ):
            histogram = ImageChops.subtract_modulo(part, predicted).histogram()
            for value in range(256):
                found[value] += sum(histogram[value::256])
    samples = sum(counts[0])
    # n**64 has 64 times as many bits as log2(n): a logarithm that is the same on every machine.
    bits = min(
        sum(count * (samples**64 // count**64).bit_length() for count in found if count)
        for found in counts
    )
    return bits // 64 // 8 * 13 // 10 + samples // 80
