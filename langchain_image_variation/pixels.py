"""Between files and pixels: the one place where pictures are decoded, normalised and encoded.

Pixels are Pillow images in one of four plain modes, 8 bits a sample: "L", "LA", "RGB" or "RGBA".
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.png import SquarePNG, without_text

__all__ = ["PLAIN_MODES", "as_png", "decode", "decode_result", "decoding", "encode", "plain"]

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
"""The modes that `plain` returns: grey or RGB, without or with alpha, 8 bits a sample."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each EXIF orientation upright (EXIF 3.0, tag 0x0112)."""


def decode(png: SquarePNG) -> Image.Image:
    """Return the pixels of a picture in a plain mode, `png.side` pixels wide and high.

    Raises:
        InvalidImageError: If the compressed pixels are corrupt or cut short.
    """
    failure = InvalidImageError("image is a corrupt PNG file: its pixels cannot be decoded.")
    data = io.BytesIO(without_text(png.data))
    with decoding(failure), Image.open(data, formats=["PNG"]) as image:
        return plain(image)


def decode_result(data: bytes) -> Image.Image:
    """Return the pixels of what an engine answered; some servers send JPEG or WebP.

    Raises:
        OutputError: If it is no readable picture of one of these formats.
    """
    with _opened_result(data) as image:
        return plain(image)


def as_png(data: bytes, side: int | None = None) -> tuple[bytes, tuple[int, int]]:
    """Return what an engine answered as a PNG file, and its width and height in pixels.

    A PNG that need not be scaled is returned byte for byte.

    Args:
        data: The bytes of a PNG, JPEG or WebP file.
        side: The width and height to scale it to, in pixels; by default it keeps its own.

    Raises:
        OutputError: If it is no readable picture of one of these formats.
    """
    with _opened_result(data) as image:
        scaled = side is not None and image.size != (side, side)
        if image.format == "PNG" and not scaled:
            image.load()
            return data, image.size
        pixels = plain(image)
    if side is not None and scaled:
        pixels = pixels.resize((side, side), Image.Resampling.LANCZOS)
    return encode(pixels), pixels.size


@contextmanager
def _opened_result(data: bytes) -> Iterator[Image.Image]:
    failure = OutputError("A result holds no readable PNG, JPEG or WebP picture.")
    with decoding(failure), Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
        yield image


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


def plain(
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
    enough: int | None = None,
) -> Image.Image:
    """Return the picture in a plain mode: sRGB, upright, alpha kept, 16-bit samples scaled down.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, and everything
    that is not pixels is dropped. A frame of an animation is taken as it stands. Broken EXIF and a
    broken profile are as good as none.

    Args:
        image: A picture in any of Pillow's modes. It is not changed.
        box: The part to return, as left, top, right and bottom in pixels before the picture is
            turned upright; by default all of it.
        enough: A side in pixels. If the shorter side has several times as many, whole blocks of
            pixels are averaged first, which saves memory; it stays at least so long.
    """
    # Reading EXIF may decode the picture, and a picture that failed once may pass the second time.
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    original, image = image, _part(image, box or (0, 0, *image.size), enough)
    profile = image.info.get("icc_profile")
    alpha = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if profile and not grey:
        image = _to_srgb(image, profile)
    mode = ("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")
    if image.mode != mode or image is original:
        image = image.convert(mode)
    image.info = {}
    return image if turn is None else image.transpose(turn)


def encode(image: Image.Image, *, compress_level: int = 6) -> bytes:
    """Return the picture as the bytes of a PNG file without metadata.

    Args:
        image: A picture in a plain mode.
        compress_level: 0 (none) to 9 (smallest).
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def _part(image: Image.Image, box: tuple[int, int, int, int], enough: int | None) -> Image.Image:
    left, top, right, bottom = box
    factor = min(right - left, bottom - top) // enough if enough else 1
    if factor > 1 and image.mode in (*PLAIN_MODES, "CMYK"):
        return image.reduce(factor, box)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    # EXIF is parsed only now, and fails in as many ways as a decoder.
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float samples to 8 bits; Pillow's own conversion clips them."""
    # Few pictures need this, and the import takes longer than converting most of them.
    import numpy as np

    samples = np.asarray(image)
    finite = samples[np.isfinite(samples)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0, 65535
    scale = 255 / (float(high) - float(low)) if high > low else 0.0
    scaled = (np.nan_to_num(samples, posinf=high, neginf=low) - float(low)) * scale
    grey = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert the colours of an embedded profile to sRGB."""
    # Few pictures need this either.
    from PIL import ImageCms

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
