"""Calls of the server, and what the engine `noted` makes of the photo."""

import base64

import httpx

from langchain_image_variation import CreateImageVariationRequest, SquarePNG
from langchain_image_variation.contract import Size
from langchain_image_variation.engines.loading import load_engine
from pytest_image_variation.samples import square_png

__all__ = ["PHOTO", "expected_images", "images", "post"]

PHOTO = square_png(64)


def expected_images(
    seed: int, n: int = 1, size: Size = "256x256", photo: bytes = PHOTO
) -> list[bytes]:
    """Return the images that the engine makes of a photo in this process."""
    request = CreateImageVariationRequest(
        image=SquarePNG(photo), n=n, size=size, response_format="b64_json"
    )
    response = load_engine("noted", seed=seed).create_variation(request)
    return [image.read() for image in response.data]


def post(
    address: str, photo: bytes = PHOTO, client_id: str | None = None, **fields: str
) -> httpx.Response:
    """Request variations of a photo.

    Args:
        address: The address of the application.
        photo: The photo.
        client_id: The client's ID, by which `/progress` names the request.
        **fields: The other fields.
    """
    return httpx.post(
        f"{address}/v1/images/variations",
        files={"image": ("a.png", photo, "image/png")},
        data={"size": "256x256", "response_format": "b64_json", **fields},
        headers={} if client_id is None else {"x-client-request-id": client_id},
        timeout=60,
    )


def images(answer: httpx.Response) -> list[bytes]:
    """Return the images in an answer."""
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(image["b64_json"]) for image in answer.json()["data"]]
