"""Calls of the server, and what the engine `noted` makes of the photo."""

import base64

import httpx

from langchain_image_variation import CreateImageVariationRequest, SquarePNG
from langchain_image_variation.engines.loading import load_engine
from pytest_image_variation.samples import square_png

__all__ = ["PHOTO", "expected_images", "images", "post"]

PHOTO = square_png(64)


def expected_images(seed: int, n: int = 1) -> list[bytes]:
    """Return the images that the engine makes of the photo in this process."""
    request = CreateImageVariationRequest(
        image=SquarePNG(PHOTO), n=n, size="256x256", response_format="b64_json"
    )
    response = load_engine("noted", seed=seed).create_variation(request)
    return [image.read() for image in response.data]


def post(address: str, **fields: str) -> httpx.Response:
    """Request an image of the photo."""
    return httpx.post(
        f"{address}/v1/images/variations",
        files={"image": ("a.png", PHOTO, "image/png")},
        data={"size": "256x256", "response_format": "b64_json", **fields},
        timeout=60,
    )


def images(answer: httpx.Response) -> list[bytes]:
    """Return the images in an answer."""
    return [base64.b64decode(image["b64_json"]) for image in answer.json()["data"]]
