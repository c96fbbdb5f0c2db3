"""`EngineReplica`: an engine in a process of a Ray cluster."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeAlias

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.engines.context import Progress, ProgressListener
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import close_engine, plan_download, with_options
from langchain_image_variation.error_translation import portable_error
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["CALLER_CHECK_SECONDS", "PROGRESS_SECONDS", "EngineReplica", "Outcome", "Report"]

# Serve adds the ID of the request to each line of this logger.
_LOGGER = logging.getLogger("ray.serve")

PROGRESS_SECONDS = 0.2
"""The shortest time between two reports of progress, in seconds. A report takes about a
millisecond."""
CALLER_CHECK_SECONDS = 1.0
"""Seconds between two checks that the caller of a running call is alive. A check is one small
message."""

Outcome: TypeAlias = list[bytes | ImageVariationError] | ImageVariationError
"""The file of each variation or why there is none, or why the call failed."""
Report: TypeAlias = Progress | Outcome | None
"""What a replica sends: None at the start, then perhaps progress, and the outcome at the end."""


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

    def __del__(self) -> None:
        """Release what the engine holds. Serve calls this when it stops a replica."""
        # `__init__` may have failed before it was set.
        close_engine(getattr(self, "_engine", None))

    async def create_variation(
        self, request: CreateImageVariationRequest, options: Mapping[str, Any], caller: ActorHandle
    ) -> AsyncGenerator[Report]:
        """Yield reports about a call of the engine. The last one is its outcome.

        If the caller cancels the call or dies, it ends once the engine has stopped.

        Args:
            request: What to ask for.
            options: The options of the engine that the request sets.
            caller: The actor that calls.
        """
        yield None
        latest: Progress | None = None

        def keep(progress: Progress) -> None:
            nonlocal latest
            latest = progress

        task = asyncio.create_task(self._call(request, options, keep))
        caller_death = asyncio.create_task(_wait_for_death(caller))
        try:
            sent = latest
            while not caller_death.done():
                if (await asyncio.wait([task], timeout=PROGRESS_SECONDS))[0]:
                    yield task.result()
                    return
                if latest != sent:
                    sent = latest
                    yield sent
        finally:
            caller_death.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _call(
        self,
        request: CreateImageVariationRequest,
        options: Mapping[str, Any],
        progress: ProgressListener,
    ) -> Outcome:
        # Ray would wrap an error that is raised, and some errors do not pickle.
        try:
            engine = with_options(self._engine, options)
            response = await call_engine_async(
                engine, request, progress=progress, wait_when_cancelled=True
            )
            with cancel_after():
                return await asyncio.to_thread(_read_images, response)
        except ImageVariationError as error:
            if error.__cause__ is not None:
                # The cause does not leave this process.
                _LOGGER.error("A call of the engine failed.", exc_info=error.__cause__)
            return portable_error(error)


def _read_images(response: ImagesResponse) -> list[bytes | ImageVariationError]:
    """Return the file of each image, or an error that can be pickled if it cannot be read."""
    outcomes: list[bytes | ImageVariationError] = []
    for image in response.data:
        try:
            outcomes.append(image.read())
        except ImageVariationError as error:
            outcomes.append(portable_error(error))
    return outcomes


async def _wait_for_death(actor: ActorHandle) -> None:
    """Return once an actor has died. Serve does not cancel the calls of a dead actor."""
    while True:
        await asyncio.sleep(CALLER_CHECK_SECONDS)
        try:
            await actor.__ray_ready__.remote()
        except ActorDiedError:
            return
        except Exception:
            # It may be out of reach for a while. Only its death ends the call.
            continue
