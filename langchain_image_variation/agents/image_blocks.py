"""Image blocks: the results of a call as files that a message can contain."""

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.images.pixels import decode_result
from langchain_image_variation.output.file_format import FileFormat

__all__ = ["MAX_BLOCKS_LENGTH", "encode_results"]

MAX_BLOCKS_LENGTH = 5 * 1024 * 1024
"""The maximum length, in base64, of all images of a message. Anthropic's API refuses a single image
that is longer ("image exceeds 5 MB maximum: ... > 5242880 bytes", where it counts base64), and then
every later request of the conversation, which contains the image again. All images together get
this length because requests are limited too. Ten photos of 1024 pixels take half of it."""


def encode_results(response: ImagesResponse) -> list[bytes]:
    """Return each image of a response as a JPEG file.

    Together they have at most `MAX_BLOCKS_LENGTH` characters of base64. An image that exceeds its
    share is halved in width and height until it fits.

    Raises:
        OutputError: If an entry of the response is not a readable image.
    """
    max_length = MAX_BLOCKS_LENGTH // len(response.data)
    return [_encode(image.read(), max_length) for image in response.data]


def _encode(data: bytes, max_length: int) -> bytes:
    image = decode_result(data)
    jpeg = FileFormat("jpeg").encode(image)
    while _base64_length(jpeg) > max_length:
        image = image.reduce(2)
        jpeg = FileFormat("jpeg").encode(image)
    return jpeg


def _base64_length(data: bytes) -> int:
    return -(-len(data) // 3) * 4
