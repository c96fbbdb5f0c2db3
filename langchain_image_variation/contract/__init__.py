"""The wire contract of `POST /v1/images/variations`: request and response bodies.

Names, limits and defaults come from the operation `createImageVariation` and its schemas
`CreateImageVariationRequest`, `ImagesResponse` and `Image` in the vendor's OpenAPI file.

Writing is strict: every field of a request must be valid, and a response is written with the keys
of the contract only. Reading is lenient: unknown keys are kept, and `null` is accepted wherever a
real server might send it.

Other rooms import these names from here.
"""

from langchain_image_variation.contract.image import Image
from langchain_image_variation.contract.request import (
    DEFAULT_MODEL,
    MAX_N,
    SIZES,
    VARIATIONS_PATH,
    CreateImageVariationRequest,
    ResponseFormat,
    Size,
)
from langchain_image_variation.contract.response import (
    ImagesResponse,
    Usage,
    UsageInputTokensDetails,
    UsageOutputTokensDetails,
)

__all__ = [
    "DEFAULT_MODEL",
    "MAX_N",
    "SIZES",
    "VARIATIONS_PATH",
    "CreateImageVariationRequest",
    "Image",
    "ImagesResponse",
    "ResponseFormat",
    "Size",
    "Usage",
    "UsageInputTokensDetails",
    "UsageOutputTokensDetails",
]
