"""Images that failed, in a response with others that may be paid for."""

from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["failed_images", "finished_images"]


def failed_images(n: int, error: ImageVariationError) -> list[Image]:
    """Return `n` images that raise an error when they are read."""
    images = [Image() for _ in range(n)]
    for image in images:
        image.set_failure(error)
    return images


def finished_images(response: ImagesResponse) -> list[Image]:
    """Return the images that did not fail. If all of them failed, return all."""
    return [image for image in response.data if image.failure is None] or response.data
