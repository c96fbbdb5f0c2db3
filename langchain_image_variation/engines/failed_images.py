"""Images that a billed engine could not get, next to those that it got."""

from langchain_image_variation.contract import Image
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["failed_images"]


def failed_images(n: int, error: ImageVariationError) -> list[Image]:
    """Return `n` images that raise an error when they are read."""
    images = [Image() for _ in range(n)]
    for image in images:
        image.set_failure(error)
    return images
