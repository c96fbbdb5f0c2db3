"""Engines make the images. This package holds their Protocols and our own engines.

An engine is any object with `create_variation(request) -> ImagesResponse`, or the async twin of
that method. Everything else that an engine may have is optional. `engines.traits` lists it.
"""

from typing import Protocol, runtime_checkable

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse

__all__ = ["ENTRY_POINT_GROUP", "AsyncVariationEngine", "VariationEngine"]

ENTRY_POINT_GROUP = "langchain_image_variation.engines"
"""Where this distribution and any other declare their engines."""


@runtime_checkable
class VariationEngine(Protocol):
    """Makes variations of an image. Any object with this method is an engine.

    A complete engine, which turns the image:

        class TurnEngine:
            def create_variation(self, request):
                image = decode_png(request.image).resize((request.side, request.side))
                pngs = [encode_png(image.rotate(33 * (i + 1))) for i in range(request.n)]
                return ImagesResponse.from_pngs(pngs, response_format=request.response_format)

    `call_engine` calls it, and checks what it returns.
    """

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return exactly `request.n` variations, each a PNG of exactly `request.size`.

        Args:
            request: A valid request. `request.image` is a `SquarePNG`: `decode_png` returns its
                pixels, and its `data` holds the bytes of the file.

        Returns:
            The variations in the form `request.response_format`. `ImagesResponse.from_pngs` makes
            the response.

        Raises:
            ImageVariationError: If the engine fails. Every failure is one of its subclasses.
        """
        ...


@runtime_checkable
class AsyncVariationEngine(Protocol):
    """The async twin of `VariationEngine`."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return what `VariationEngine.create_variation` returns, without blocking the loop."""
        ...
