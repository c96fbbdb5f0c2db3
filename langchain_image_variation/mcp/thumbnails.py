"""Thumbnails of results in base64, which all fit into one answer."""

import base64
import io
from collections.abc import Sequence
from typing import Literal, TypeAlias

from PIL import Image

from langchain_image_variation.images.pixels import decode_result, flatten
from langchain_image_variation.output.contact_sheet import THUMBNAIL_SIDE

__all__ = ["MAX_BASE64", "MIN_BASE64", "Thumbnail", "encode_thumbnails"]

Thumbnail: TypeAlias = Literal["none", "sheet", "each"]
"""The images of an answer: none, one contact sheet, or one small image for each variation."""

MAX_BASE64 = 80_000
"""The maximum length of all images of an answer, in characters of base64. Claude Code accepts
25,000 tokens per answer, images included (anthropics/claude-code#9152). At four characters per
token, this leaves 5,000 tokens for the text. Claude Desktop accepts 1,048,576 characters
(jlowin/fastmcp#1036)."""

MIN_BASE64 = 25_000
"""The smallest limit that can be set. Ten images of noise at the smallest size are shorter."""

_SIDES = (THUMBNAIL_SIDE, 384, 256, 192, 128, 96, 64, 32)
"""The widths and heights that are tried, in pixels."""

_QUALITY = 80
"""The quality of the JPEG files, the same as for a contact sheet."""


def encode_thumbnails(files: Sequence[bytes], max_base64: int = MAX_BASE64) -> list[str]:
    """Return each image as a small JPEG file in base64, all at the largest size at which they fit.

    Args:
        files: The images, as PNG or JPEG files.
        max_base64: The maximum length of all of them, in characters, from `MIN_BASE64`.

    Raises:
        OutputError: If a file is not a readable image.
    """
    images = [_shrink(flatten(decode_result(file)), THUMBNAIL_SIDE) for file in files]
    thumbnails: list[str] = []
    for side in _SIDES:
        thumbnails = [_encode(_shrink(image, side)) for image in images]
        if sum(map(len, thumbnails)) <= max_base64:
            break
    return thumbnails


def _shrink(image: Image.Image, side: int) -> Image.Image:
    """Return an image whose longer side has at most `side` pixels."""
    smaller = image.copy()
    smaller.thumbnail((side, side))
    return smaller


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
