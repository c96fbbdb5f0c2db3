"""Strips of an image: parts of full width that are processed one after the other."""

from collections.abc import Iterator

from PIL import Image

from langchain_image_variation.cancellation import check_cancellation

__all__ = ["strips"]

_STRIP = 256
"""How many rows are processed at a time, so that a large image is not held in memory twice."""


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield copies of strips of full width, each with the row where it begins."""
    for top in range(0, image.height, _STRIP):
        check_cancellation()
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))
