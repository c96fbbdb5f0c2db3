"""Turns images of any kind into pixels that look the same to people and to models.

Pixels are Pillow images in one of four plain modes with 8 bits per sample: "L", "LA", "RGB" or
"RGBA".
"""

import math
import struct

from PIL import ExifTags, Image, ImageChops

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.images.color import (
    convert_to_srgb,
    gamma_table,
    read_gamma,
    read_profile,
)
from langchain_image_variation.images.deep_samples import has_deep_samples, reduce_to_8_bits
from langchain_image_variation.images.strips import strips

__all__ = ["PLAIN_MODES", "is_normalized", "normalize", "upright_size", "whiten_hidden_colors"]

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
"""The modes that `normalize` returns: gray or RGB, with or without alpha, 8 bits per sample."""

_PREMULTIPLIED_MODES = {"La": "LA", "RGBa": "RGBA"}
"""The modes whose colors are multiplied by alpha, with their plain counterparts."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns each EXIF orientation upright (EXIF 3.0, tag 0x0112)."""


def normalize(
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
    min_side: int | None = None,
) -> Image.Image:
    """Return an image in a plain mode: sRGB, upright, with its alpha, and 8 bits per sample.

    EXIF orientation and color information are applied, colors that alpha hides are made white, and
    all metadata is dropped. An animation keeps its current frame. Corrupt EXIF and corrupt profiles
    are ignored. 16-bit samples are rounded to 8 bits, after their gamma has been applied.

    Args:
        image: An image in any of Pillow's modes. It is not changed.
        box: The part to return, as left, top, right and bottom in pixels, before the image is
            turned upright. By default, the whole image.
        min_side: If the shorter side is several times this many pixels, blocks of pixels are
            averaged first to save memory. The side stays at least this long.
    """
    # In a PNG file, EXIF may come after the pixels.
    image.load()
    check_cancellation()
    transposition = _UPRIGHT.get(_orientation(image))
    icc, gamma = read_profile(image), read_gamma(image)
    original, box = image, box or (0, 0, *image.size)
    if has_deep_samples(image):
        image = reduce_to_8_bits(image, box, gamma)
        gamma, box = None, (0, 0, *image.size)
    image = _cut_out(image, box, min_side)
    if image.mode in _PREMULTIPLIED_MODES:
        image = image.convert(_PREMULTIPLIED_MODES[image.mode])
    has_alpha = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    is_gray = image.mode in ("1", "L", "LA")
    mode = ("LA" if has_alpha else "L") if is_gray else ("RGBA" if has_alpha else "RGB")
    if gamma is not None:
        tables = gamma_table(gamma, 255) * (1 if is_gray else 3) + [*range(256)] * has_alpha
        image = (image if image.mode == mode else image.convert(mode)).point(tables)
    if icc is not None:
        image = convert_to_srgb(image, icc)
    if image.mode != mode or image is original:
        image = image.convert(mode)
    image.info = {}
    whiten_hidden_colors(image)
    return image if transposition is None else image.transpose(transposition)


def is_normalized(image: Image.Image) -> bool:
    """Return whether `normalize` would leave the samples of a decoded PNG file unchanged."""
    if _orientation(image) in _UPRIGHT:
        return False
    if read_profile(image) is not None or read_gamma(image) is not None:
        return False
    if not image.has_transparency_data:
        return True
    if image.mode not in ("P", "LA", "RGBA"):
        # A single transparent color is hidden wherever it occurs.
        return False
    if has_deep_samples(image):
        image = reduce_to_8_bits(image, (0, 0, *image.size), None)
    return not any(whiten_hidden_colors(part.convert("RGBA")) for _, part in strips(image))


_VISIBLE_ALPHA = 8
"""A lower alpha shows less than a thirtieth of a color, which nobody sees."""


def whiten_hidden_colors(image: Image.Image) -> bool:
    """Make the colors that alpha hides white, and return whether any color changed.

    Such colors can hold an image that no person sees, but that a model sees if its software drops
    alpha.

    Args:
        image: An image in a plain mode. It is changed in place; its alpha stays.
    """
    if image.mode not in ("LA", "RGBA"):
        return False
    has_changed = False
    for top, part in strips(image):
        *colors, alpha = part.split()
        hidden_mask = alpha.point([255] * _VISIBLE_ALPHA + [0] * (256 - _VISIBLE_ALPHA))
        if hidden_mask.getbbox() is not None:
            white_colors = [ImageChops.lighter(color, hidden_mask) for color in colors]
            white_part = Image.merge(part.mode, [*white_colors, alpha])
            if white_part.tobytes() != part.tobytes():
                image.paste(white_part, (0, top))
                has_changed = True
    return has_changed


def _cut_out(
    image: Image.Image, box: tuple[int, int, int, int], min_side: int | None
) -> Image.Image:
    left, top, right, bottom = box
    factor = min(right - left, bottom - top) // min_side if min_side else 1
    # Averaging would mix a single transparent color with others.
    if factor > 1 and image.mode in (*PLAIN_MODES, "CMYK") and "transparency" not in image.info:
        return image.reduce(factor, box)
    return image if box == (0, 0, *image.size) else image.crop(box)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height that an image has when it is upright. Nothing is decoded."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


_SIDEWAYS = (5, 6, 7, 8)
"""The EXIF orientations whose transposition swaps width and height."""


def _orientation(image: Image.Image) -> int:
    """Return the orientation in an image's EXIF, or 1, which changes nothing.

    Pillow's own reader also uses XMP, which browsers ignore, and warns about corrupt EXIF.
    """
    # libheif has already rotated the image as the container says.
    if image.format == "HEIF":
        return 1
    exif = image.info.get("exif")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if byte_order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{byte_order}I", exif, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{byte_order}HHIH", exif, entry)
            if (tag, kind, values) == (ExifTags.Base.Orientation, _SHORT, 1):
                return int(value)
    except struct.error:
        pass
    return 1


_SHORT = 3
"""The EXIF type of a 16-bit number."""


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 32-bit and float samples to 8 bits. Pillow's own conversion clips them."""
    # Imported here because few images need it, and the import takes longer than most conversions.
    import numpy as np

    low, high = math.inf, -math.inf
    for _, part in strips(image):
        samples = np.asarray(part)
        finite_samples = samples[np.isfinite(samples)]
        if finite_samples.size:
            low = min(low, float(finite_samples.min()))
            high = max(high, float(finite_samples.max()))
    if image.mode != "F" and 0 <= low and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255 / (high - low) if high > low else 0.0
    transparent_value = image.info.get("transparency")
    has_alpha = isinstance(transparent_value, int)
    gray = Image.new("LA" if has_alpha else "L", image.size)
    for top, part in strips(image):
        samples = np.asarray(part)
        # The difference between extreme samples would overflow 32 bits.
        finite_samples = np.nan_to_num(samples.astype(np.float64), posinf=high, neginf=low)
        scaled_samples = (finite_samples - low) * scale if scale else np.zeros(samples.shape)
        strip = Image.fromarray(scaled_samples.round().clip(0, 255).astype(np.uint8))
        if has_alpha:
            alpha = np.where(samples == transparent_value, 0, 255).astype(np.uint8)
            strip.putalpha(Image.fromarray(alpha))
        gray.paste(strip, (0, top))
    return gray
