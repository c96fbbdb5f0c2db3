"""Conversions of the images in an answer, all in place."""

from functools import partial

from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, OutputError
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.images.pixels import as_png

__all__ = ["normalize_images", "use_base64", "use_data_urls"]


def normalize_images(answer: ImagesResponse, side: int, budget: Budget) -> Flow[None]:
    """Convert every image to PNG, `side` pixels wide and high.

    An image that cannot be decoded, or not before the deadline, raises when it is read; the others
    are unaffected.
    """
    for image in answer.data:
        if image.failure is not None:
            continue
        if budget.seconds_left <= 0:
            image.set_failure(
                OutputError("The result was not converted before the deadline; raise deadline.")
            )
        else:
            # One step per image, so that a cancelled call ends after the current image.
            yield Work(partial(_normalize, image, side))


def _normalize(image: Image, side: int) -> None:
    try:
        data = image.read()
        png, _ = as_png(data, (side, side))
    except ImageVariationError as error:
        image.set_failure(error)
        return
    if png is not data:
        image.set_png(png)


def use_data_urls(answer: ImagesResponse) -> None:
    """Move every image into a `data:` URL, for callers that asked for `url`."""
    for image in answer.data:
        if image.failure is None:
            image.use_data_url()


def use_base64(answer: ImagesResponse) -> None:
    """Move every image into `b64_json`, for callers that asked for it."""
    for image in answer.data:
        if image.failure is None:
            image.use_base64()
