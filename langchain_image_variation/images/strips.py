"""Strips of an image: full-width parts that are processed one after the other."""

from collections.abc import Iterator

from PIL import Image

from langchain_image_variation.cancellation import check_cancellation

__all__ = ["strip_boxes", "strips"]

_ROWS = 256
"""The number of rows to process at a time, so that a large image is not in memory twice."""


def strip_boxes(box: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the strips of a part of an image, from top to bottom, until the call is cancelled.

    Args:
        box: The part, as left, top, right and bottom in pixels.

    Raises:
        EngineError: If the call was cancelled.
    """
    left, top, right, bottom = box
    for row in range(top, bottom, _ROWS):
        check_cancellation()
        yield left, row, right, min(row + _ROWS, bottom)


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield copies of full-width strips, each with its first row."""
    for box in strip_boxes((0, 0, *image.size)):
        yield box[1], image.crop(box)
