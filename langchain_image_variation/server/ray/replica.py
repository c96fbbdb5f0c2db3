"""`EngineReplica`: an engine in a process of a Ray cluster."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import plan_download, with_options
from langchain_image_variation.error_translation import portable_error
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["EngineReplica"]

LOGGER = logging.getLogger("langchain_image_variation.server")


class EngineReplica:
    """An engine that other processes call. It downloads its model before the first request.

    Args:
        name: The name of the engine.
        options: The engine's options.

    Raises:
        ImageVariationError: If the engine cannot be created, or its model cannot be downloaded.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._engine = load_engine(name, **options)
        download = plan_download(self._engine)
        if download is not None:
            download.run(lambda done, total: None)

    async def create_variation(
        self, request: CreateImageVariationRequest, options: Mapping[str, Any]
    ) -> list[bytes] | ImageVariationError:
        """Return the files of the variations, or the error.

        Ray would wrap an error that is raised, and it would lose what does not pickle.

        Args:
            request: What to ask for.
            options: The options of the engine that the request sets.
        """
        try:
            engine = with_options(self._engine, options)
            response = await call_engine_async(engine, request, wait_when_cancelled=True)
            with cancel_after():
                return await asyncio.to_thread(lambda: [image.read() for image in response.data])
        except ImageVariationError as error:
            if error.__cause__ is not None:
                # The cause does not leave this process.
                LOGGER.error("A call of the engine failed.", exc_info=error.__cause__)
            return portable_error(error)
