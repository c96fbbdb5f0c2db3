"""Turns an image of any shape into a `SquarePNG`: cropped or padded, and within the limits."""

import math
from typing import Literal, NamedTuple

from PIL import Image, ImageChops

from langchain_image_variation.images.inset import Inset, choose_margin, scaled_size
from langchain_image_variation.images.normalize import normalize, whiten_hidden_colors
from langchain_image_variation.images.padding import add_blurred_bars, add_mirrored_bars
from langchain_image_variation.images.pixels import encode_png
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG
from langchain_image_variation.images.strips import strips

__all__ = ["MAX_CONVERTED_SIDE", "SquareImage", "make_square"]

MAX_CONVERTED_SIDE = 4096
"""The largest side of a converted image, in pixels: 4 times the largest `size`."""

_SAFE_SAMPLES = MAX_PNG_BYTES * 995 // 1000
"""A PNG with fewer samples is always under the limit, because deflate adds 0.1 % to noise."""


class SquareImage(NamedTuple):
    """An image that was made square.

    The two descriptions are parts of a sentence, such as "cropped 451x300 to the centered 300x300"
    and "scaled 5000x5000 down to 4096x4096". They are empty if nothing was done.
    """

    png: SquarePNG
    inset: Inset | None
    """Where the image is in the square, if its variations will be cut back."""
    fit_step: str
    """How it was made square."""
    scale_step: str
    """How it was scaled."""


def make_square(image: Image.Image, fit: Literal["crop", "pad", "keep"]) -> SquareImage:
    """Return an image as a square PNG under 4 MB.

    Errors of Pillow's decoders propagate: call this inside `translate_decoder_errors`.

    Args:
        image: An image in any of Pillow's modes. Its color information is applied.
        fit: "crop" keeps the centered square. "pad" adds bars that look good. "keep" adds bars for
            engines, and an inset that tells how to cut them off.
    """
    inset, fit_step = None, ""
    if fit == "crop" or image.width == image.height:
        pixels, side, fit_step = _crop(image)
    else:
        pixels, side, inset, fit_step = _pad(image, is_kept=fit == "keep")
    png, scale_step = _encode_within_limit(pixels, side)
    return SquareImage(png, inset, fit_step, scale_step)


def _crop(image: Image.Image) -> tuple[Image.Image, int, str]:
    """Return the square pixels, their side before any scaling, and what was done."""
    width, height = image.size
    side = min(width, height)
    # The center stays the center in every orientation, so only that part is converted.
    left, top = (width - side) // 2, (height - side) // 2
    pixels = normalize(image, (left, top, left + side, top + side), MAX_CONVERTED_SIDE)
    if width == height:
        return pixels, side, ""
    return pixels, side, f"cropped {width}x{height} to the centered {side}x{side}"


def _pad(image: Image.Image, *, is_kept: bool) -> tuple[Image.Image, int, Inset | None, str]:
    """Return the square pixels, their side before any scaling, the inset, and what was done."""
    pixels = normalize(image, None, MAX_CONVERTED_SIDE)
    width, height = sorted(image.size, reverse=pixels.width > pixels.height)
    if max(pixels.size) > MAX_CONVERTED_SIDE:
        # Otherwise, a strip of 1,000,000 x 1 pixels would be padded to a million rows.
        size = scaled_size((width, height), MAX_CONVERTED_SIDE)
        # Pillow rounds after resizing one axis. Which one comes first depends on its release.
        pixels = pixels.resize((size[0], pixels.height), Image.Resampling.LANCZOS)
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    side, length = max(pixels.size), min(pixels.size)
    fit_step = f"padded {width}x{height} to a square of {side}x{side}"
    if is_kept:
        margin = choose_margin(length, side)
        square = add_mirrored_bars(pixels, margin)
        inset = Inset(width, height, margin, side)
        fit_step += " for the engine"
    else:
        square, inset = add_blurred_bars(pixels, (side - length) // 2), None
    whiten_hidden_colors(square)
    return square, side, inset, fit_step


def _encode_within_limit(image: Image.Image, original_side: int) -> tuple[SquarePNG, str]:
    """Encode a square image, scaled down until its PNG is certain to be within the limits.

    The side depends on the pixels alone. If it depended on the length of the file, each version of
    zlib would produce a different image.

    Args:
        image: The square pixels.
        original_side: Their side in pixels before any scaling, for the description.
    """
    safe_side = math.isqrt(_SAFE_SAMPLES // len(image.getbands())) - 1
    side = min(image.width, MAX_CONVERTED_SIDE)
    scaled_image = _scale_down(image, side)
    while side > safe_side and (size := _largest_png_size(scaled_image)) >= MAX_PNG_BYTES:
        fitting_side = math.isqrt(side * side * MAX_PNG_BYTES // size)
        # A smaller image has more bytes per pixel, so this takes a few steps.
        side = max(safe_side, min(fitting_side, side * 97 // 100))
        scaled_image = _scale_down(image, side)
    data = encode_png(scaled_image)
    if len(data) >= MAX_PNG_BYTES:
        # No known zlib compresses this badly.
        side = safe_side
        data = encode_png(_scale_down(image, side))
    step = f"scaled {original_side}x{original_side} down to {side}x{side}"
    return SquarePNG(data), step if side < original_side else ""


def _scale_down(image: Image.Image, side: int) -> Image.Image:
    if side >= image.width:
        return image
    scaled_image = image.resize((side, side), Image.Resampling.LANCZOS)
    whiten_hidden_colors(scaled_image)
    return scaled_image


def _largest_png_size(image: Image.Image) -> int:
    """Return more bytes than the PNG of an image has with any known zlib, in integer arithmetic.

    This is the entropy of the residuals of the filters Sub, Up and Average (PNG specification,
    third edition, 9.2), for the filter with the lowest entropy, plus a margin. zlib 1.2.13 needed
    up to 1.13 times the entropy for images with few bits per sample, and zlib-ng 2.1 up to 1.19
    times. Photos need 0.5 to 0.95 times.
    """
    filter_counts = [[0] * 256 for _ in range(3)]
    for _, strip in strips(image):
        left, above = ImageChops.offset(strip, 1, 0), ImageChops.offset(strip, 0, 1)
        for counts, prediction in zip(
            filter_counts, (left, above, ImageChops.add(left, above, 2)), strict=True
        ):
            histogram = ImageChops.subtract_modulo(strip, prediction).histogram()
            for value in range(256):
                counts[value] += sum(histogram[value::256])
    samples = sum(filter_counts[0])
    # n**64 has 64 times as many bits as log2(n): a logarithm that is the same on every machine.
    bits = min(
        sum(count * (samples**64 // count**64).bit_length() for count in counts if count)
        for counts in filter_counts
    )
    return bits // 64 // 8 * 13 // 10 + samples // 80
