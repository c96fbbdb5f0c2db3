"""Conversions of the images in an answer, all in place."""

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.pixels import as_png

__all__ = ["normalize", "use_data_urls"]


def normalize(answer: ImagesResponse, side: int) -> None:
    """Convert every image to PNG, `side` pixels wide and high.

    An image that cannot be decoded raises when it is read; the others are unaffected.
    """
    for image in answer.data:
        try:
            data = image.read()
            png, _ = as_png(data, (side, side))
        except ImageVariationError as error:
            image.set_failure(error)
            continue
        if png is not data:
            image.set_png(png)


def use_data_urls(answer: ImagesResponse) -> None:
    """Move every image into a `data:` URL, for callers that asked for `url`."""
    for image in answer.data:
        if image.failure is None:
            image.use_data_url()
