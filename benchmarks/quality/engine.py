"""The engine as a caller gets it: all parts, at 256 pixels."""

import io

import numpy as np
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.images.pixels import decode_result
from langchain_image_variation.images.png import SquarePNG
from quality.photos import Bytes

__all__ = ["DEFAULT_STRENGTH", "vary"]

DEFAULT_STRENGTH = LocalEngine().strength


def vary(image: Bytes, strength: float, seed: int, count: int) -> list[Bytes]:
    """Return variations of an image, uint8 (256, 256, 3), with a seed and those after it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    request = CreateImageVariationRequest(
        image=SquarePNG(buffer.getvalue()), n=count, size="256x256", response_format="b64_json"
    )
    results = LocalEngine(seed=seed, strength=strength).create_variation(request).data
    decoded = (decode_result(result.read()).convert("RGB") for result in results)
    return [np.asarray(one) for one in decoded]
