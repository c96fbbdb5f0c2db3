"""`ServiceEngine`: what the engines `fal`, `recraft` and `replicate` have in common."""

import copy
from typing import Self

from langchain_image_variation.engines.options import check_seed
from langchain_image_variation.hosted.services.service import Service

__all__ = ["ServiceEngine"]


class ServiceEngine:
    """The base class of the engines for services. Subclasses define `create_variation`."""

    variation_kind = "new images of the same subject"
    """What the variations are, for a model that reads the results."""
    seed: int | None
    """The seed of the first image, or None."""
    _service: Service

    def with_options(self, *, seed: int | None = None) -> Self:
        """Return a copy with another seed, which shares the connections. None keeps the seed.

        Raises:
            InvalidRequestError: If the seed is out of range.
        """
        engine = copy.copy(self)
        if seed is not None:
            engine.seed = check_seed(seed)
        return engine

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._service.endpoint.display_url

    def close(self) -> None:
        """Close the connections. An `http_client` that you passed stays open.

        A running call fails, and its jobs at the service continue.
        """
        self._service.close()
