"""The images in an engine's response, and how many of them an answer lacks."""

from collections.abc import Iterator
from contextlib import suppress

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, InvalidImageError
from langchain_image_variation.images.pixels import as_png
from langchain_image_variation.images.png import SquarePNG

__all__ = ["count_missing_images", "read_pngs"]


def read_pngs(
    response: ImagesResponse, side: int, *, is_hosted: bool, failures: list[ImageVariationError]
) -> Iterator[bytes]:
    """Yield each image of an engine's response as a PNG of this side.

    If some images of a hosted engine failed or cannot be decoded, only the others are yielded,
    because they may be paid for. The images of other engines can be made again, and their order
    says which seed made them. So none of those is left out.

    Args:
        response: The engine's response.
        side: The width and height, in pixels.
        is_hosted: Whether the engine calls a server.
        failures: Receives the error of each image that is left out.

    Raises:
        ImageVariationError: If an image of an engine without a server cannot be read, or if none
            of a hosted engine can.
    """
    for image in response.data:
        try:
            png = _resized_png(image.read(), side)
        except ImageVariationError as error:
            if not is_hosted:
                raise
            # A traceback would keep the bytes of the image alive.
            failures.append(error.with_traceback(None))
        else:
            yield png
    if len(failures) == len(response.data):
        # The frame of this function must not hold the error, which will hold the frame.
        raise failures.pop(0)


def count_missing_images(body: bytes, request: CreateImageVariationRequest) -> int:
    """Return how many images the answer to a request lacks.

    Args:
        body: The body of the answer, which this server or another one made.
        request: The request.
    """
    # Parsing could take a second. A quotation mark inside a text is escaped, so this text is a key.
    return request.n - body.count(f'"{request.response_format}": "'.encode())


def _resized_png(data: bytes, side: int) -> bytes:
    """Return an engine's image as a PNG of this side. If it already is one, it is not decoded."""
    with suppress(InvalidImageError):
        if SquarePNG(data).side == side:
            return data
    return as_png(data, (side, side))[0]
