"""The engine of the test server."""

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.pixels import decode

__all__ = ["LookingEngine"]


class LookingEngine(InstantEngine):
    """The engine `instant`, but it looks at the pixels, as every engine does that varies them."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` flat pictures.

        Raises:
            InvalidImageError: If the picture cannot be decoded.
            ModelNotFoundError: If the model is neither "dall-e-2" nor "instant".
        """
        decode(request.image)
        return super().create_variation(request)
