"""Small requests, which every service answers in no time."""

from typing import Any

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

SMALL = square_png(32)


def make_request(n: int = 1, image: bytes = SMALL, **fields: Any) -> CreateImageVariationRequest:
    """Return a request for images of 256 pixels."""
    return CreateImageVariationRequest(
        image=SquarePNG(image),
        n=n,
        **{"size": "256x256", "response_format": "b64_json", **fields},
    )
