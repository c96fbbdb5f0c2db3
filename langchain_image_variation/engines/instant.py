"""The `instant` engine: the same answer every time, immediately. It is meant for tests."""

import io
from functools import lru_cache

from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.traits import check_model
from langchain_image_variation.images.pixels import decode_png, pixel_sha256
from langchain_image_variation.images.png import chunks
from langchain_image_variation.numbers import check_whole_number

__all__ = ["InstantEngine"]

MODELS = ("dall-e-2", "instant")


class InstantEngine:
    """Makes flat images. Their colors depend on the source's pixels and the index.

    Deterministic on every machine: the same pixels, seed and index give the same color, however the
    source is compressed. Each answer has exactly `n` distinct images of exactly the
    requested size.

    Args:
        seed: Image i is image `seed + i` of a request without a seed, so you can request later
            images of a source without the earlier ones.

    Raises:
        InvalidRequestError: If `seed` is not a whole number of at least 0.
    """

    models = MODELS
    """The models that this engine offers."""
    variation_kind = "flat color images, for tests"
    """What its variations are."""
    seed = 0
    """The seed of the first image. A subclass may ignore it."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = check_whole_number("seed", seed, 0)

    @property
    def fingerprint(self) -> str:
        """The setting that the images depend on."""
        return str(self.seed)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` flat images.

        Raises:
            InvalidImageError: If the pixels of the source are corrupt.
            ModelNotFoundError: If the model is neither "dall-e-2" nor "instant".
        """
        check_model(request.model, MODELS)
        digest = bytes.fromhex(pixel_sha256(decode_png(request.image)))
        indexes = range(self.seed, self.seed + request.n)
        pngs = [_flat_png(request.side, _color(digest, index)) for index in indexes]
        return ImagesResponse.from_pngs(
            pngs, response_format=request.response_format, model="instant"
        )


def _color(digest: bytes, index: int) -> tuple[int, int, int]:
    # Red differs for each index, so all images of one answer are different.
    return (digest[0] + index * 25) % 256, digest[1], digest[2]


def _flat_png(side: int, color: tuple[int, int, int]) -> bytes:
    """Return a one-color PNG: the cached file of this side with another palette.

    Pillow writes one palette entry or two, depending on its version. The result has one.
    """
    return chunks.replace_chunks(_black_png(side), b"PLTE", lambda _: bytes(color))


@lru_cache(maxsize=8)
def _black_png(side: int) -> bytes:
    # One palette entry and one bit a pixel: the smallest PNG of this side.
    image = Image.new("P", (side, side), 0)
    image.putpalette((0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=1)
    return buffer.getvalue()
