"""`RemoteEngine`: an engine whose calls go to the replicas of a deployment."""

import asyncio
import logging
from collections.abc import Mapping
from functools import wraps
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.traits import (
    engine_base_url,
    read_fingerprint,
    request_options,
    with_options,
)
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    ImageVariationError,
    RateLimitError,
    ServiceUnavailableError,
)

__all__ = ["RemoteEngine"]

LOGGER = logging.getLogger("langchain_image_variation.server")

MAX_CALLS = 2
"""How many replicas may die of one request. It may be the request that kills them."""


class RemoteEngine:
    """An engine whose calls go to the replicas of a deployment.

    Its traits are those of an engine of the same name and options, which is never called.

    Args:
        engine: The engine with the traits.
        handle: The handle of the deployment of `EngineReplica`.
        options: The options of the engine that the request sets.
    """

    def __init__(self, engine: Any, handle: Any, options: Mapping[str, Any] | None = None) -> None:
        self._engine = engine
        self._handle = handle
        self._options = dict(options or {})
        kind = type(engine)
        self.fingerprint = f"{kind.__module__}.{kind.__qualname__} {read_fingerprint(engine)}"
        if request_options(engine):
            # The names of its parameters are those of the options.
            @wraps(engine.with_options)
            def with_request_options(**changes: Any) -> RemoteEngine:
                return RemoteEngine(
                    with_options(engine, changes), handle, {**self._options, **changes}
                )

            self.with_options = with_request_options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the variations that a replica makes.

        If the replica dies, another one gets the request, unless a call may cost money.

        Raises:
            RateLimitError: If Serve refuses the request because too many are waiting.
            ServiceUnavailableError: If the deployment was removed.
            EngineConnectionError: If the replica died.
            ImageVariationError: The error of the engine.
        """
        calls_left = 1 if engine_base_url(self._engine) is not None else MAX_CALLS
        while True:
            calls_left -= 1
            try:
                return await self._call(request)
            except RayTaskError:
                # The replica lives, and has a bug.
                raise
            except RayError as error:
                line = {"error": type(error).__name__}
                LOGGER.warning("A replica of the engine died: %(error)s.", line)
                if not calls_left:
                    raise EngineConnectionError(
                        "The process of the engine died during the call. Send the request again."
                    ) from error

    async def _call(self, request: CreateImageVariationRequest) -> ImagesResponse:
        response = self._handle.create_variation.remote(request, self._options)
        try:
            result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError as error:
            seconds = getattr(error, "retry_after_s", None) or 1.0
            raise RateLimitError(
                f"Too many requests are waiting for the engine. Please try again in {seconds:g}s.",
                retry_after=seconds,
            ) from None
        except DeploymentUnavailableError:
            raise ServiceUnavailableError(
                "The server is shutting down. Try again later, or use another server."
            ) from None
        if isinstance(result, ImageVariationError):
            raise result
        return ImagesResponse.from_pngs(result, response_format="b64_json")
