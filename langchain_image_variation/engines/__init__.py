"""Engines make the images. This package holds their Protocols and our own engines.

An engine is any object with `create_variation(request) -> ImagesResponse`, or the async twin of
that method. Everything else that an engine may have is optional. `engines.traits` lists it.
"""

from typing import Protocol, runtime_checkable

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse

__all__ = ["AsyncVariationEngine", "VariationEngine"]


@runtime_checkable
class VariationEngine(Protocol):
    """Makes variations of an image."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return exactly `request.n` variations, each a PNG of exactly `request.size`.

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
