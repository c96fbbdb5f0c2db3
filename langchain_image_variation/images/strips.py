"""Strips of an image: full-width parts that are processed one after the other."""

from collections.abc import Iterator

from PIL import Image

from langchain_image_variation.cancellation import check_cancellation

__all__ = ["strips"]

_STRIP = 256
"""The number of rows to process at a time, so that a large image is not in memory twice."""


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield copies of full-width strips, each with its first row."""
    for top in range(0, image.height, _STRIP):
        check_cancellation()
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))
