"""Between files and pixels: the one place where pictures are decoded, normalised and encoded.

Pixels are Pillow images in one of four plain modes, 8 bits a sample: "L", "LA", "RGB" or "RGBA".
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageCms, ImageOps

from langchain_image_variation.exceptions import ImageVariationError, InvalidImageError
from langchain_image_variation.png import SquarePNG

__all__ = ["PLAIN_MODES", "decode", "decoding", "encode", "plain"]

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
"""The modes that `plain` returns: grey or RGB, without or with alpha, 8 bits a sample."""


def decode(png: SquarePNG) -> Image.Image:
    """Return the pixels of a picture in a plain mode, `png.side` pixels wide and high.

    Raises:
        InvalidImageError: If the compressed pixels are corrupt, cut short, or carry oversized
            metadata.
    """
    failure = InvalidImageError("image is a corrupt PNG file: its pixels cannot be decoded.")
    with decoding(failure), Image.open(io.BytesIO(png.data), formats=["PNG"]) as image:
        return plain(image)


@contextmanager
def decoding(failure: ImageVariationError) -> Iterator[None]:
    """Turn anything that Pillow raises inside the block into `failure`.

    Pillow's own texts are dropped: they may show addresses and paths.

    Args:
        failure: The error to raise.
    """
    try:
        yield
    except ImageVariationError:
        raise
    # For a broken file Pillow's decoders raise almost anything, struct.error and zlib.error too.
    except Exception:
        raise failure from None


def plain(image: Image.Image) -> Image.Image:
    """Return the picture in a plain mode: sRGB, upright, alpha kept, 16-bit samples scaled down.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, and everything
    that is not pixels is dropped. A frame of an animation is taken as it stands.

    Args:
        image: A picture in any of Pillow's modes. It is not changed.
    """
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    alpha = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if profile and not grey:
        image = _to_srgb(image, profile)
    mode = ("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")
    image = image if image.mode == mode else image.convert(mode)
    image.load()
    image.info = {}
    return image


def encode(image: Image.Image, *, compress_level: int = 6) -> bytes:
    """Return the picture as the bytes of a PNG file without metadata.

    Args:
        image: A picture in a plain mode.
        compress_level: 0 (none) to 9 (smallest).
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float samples to 8 bits; Pillow's own conversion clips them."""
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    low, high = image.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if image.mode == "I" and 0 <= low and high <= 65535:
        low, high = 0, 65535
    scale = 255 / (high - low) if high > low else 0.0
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an embedded colour profile to sRGB; a broken profile is as good as none."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    pixels = image if image.mode in ("RGB", "CMYK", "LAB") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
