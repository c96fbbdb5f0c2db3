"""Writes AVIF and HEIC files."""

import io
from typing import Any

from PIL import Image

from tests.extras import skip_without


def avif(image: Image.Image, *later_frames: Image.Image, **options: Any) -> bytes:
    """Return an image as an AVIF file without subsampling of colors."""
    buffer = io.BytesIO()
    if later_frames:
        options |= {"save_all": True, "append_images": later_frames}
    image.save(buffer, "AVIF", quality=100, subsampling="4:4:4", **options)
    return buffer.getvalue()


def heic(image: Image.Image, *later_frames: Image.Image, **options: Any) -> bytes:
    """Return an image as a HEIC file, lossless except for the conversion of colors."""
    skip_without("pillow_heif")
    import pillow_heif

    file = pillow_heif.from_pillow(image)
    for frame in later_frames:
        file.add_from_pillow(frame)
    buffer = io.BytesIO()
    file.save(buffer, format="HEIF", quality=-1, chroma=444, **options)
    return buffer.getvalue()
