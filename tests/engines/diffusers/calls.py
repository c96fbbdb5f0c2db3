"""Requests for the engine's tests, and what they return."""

import io
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.diffusers import DiffusersEngine
from langchain_image_variation.images.pixels import encode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source

__all__ = ["LAKE", "make_engine", "make_request", "open_images", "png_of"]

LAKE = Path(__file__).parents[3] / "examples" / "lake.jpg"


def make_engine(model: str | Path, **options: Any) -> DiffusersEngine:
    """Return an engine that draws quickly on the CPU, whatever devices there are."""
    return DiffusersEngine(**{"model": model, "device": "cpu", "steps": 2, "seed": 7, **options})


def make_request(source: SquarePNG | None = None, **fields: Any) -> CreateImageVariationRequest:
    """Return a request for variations of a photo, or of another source."""
    image = source or _lake()
    fields = {"size": "256x256", "response_format": "b64_json", **fields}
    return CreateImageVariationRequest(image=image, **fields)


@cache
def _lake() -> SquarePNG:
    return load_source(LAKE, fit="crop").png


def png_of(image: Image.Image) -> SquarePNG:
    """Return a Pillow image as a source."""
    return SquarePNG(encode_png(image))


def open_images(response: ImagesResponse) -> list[Image.Image]:
    """Return the images of a response."""
    return [Image.open(io.BytesIO(image.read())) for image in response.data]
