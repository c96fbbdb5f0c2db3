"""`RemoteEngine`: an engine whose calls go to the replicas of a deployment."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)

from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.context import (
    Progress,
    ProgressListener,
    ProgressReporter,
    progress_reporter,
)
from langchain_image_variation.engines.traits import (
    engine_base_url,
    engine_identity,
    request_options,
    with_options,
)
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    ImageVariationError,
    RateLimitError,
    ServiceUnavailableError,
)
from langchain_image_variation.server.ray.replica import Outcome

__all__ = ["CHECK_SECONDS", "MAX_CALLS", "RemoteEngine", "Replicas"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

MAX_CALLS = 2
"""How many replicas may die during one request before it fails. The request itself may be what
kills them."""
CHECK_SECONDS = 1.0
"""Seconds between checks that the application still exists, while a request waits for a replica."""


class Replicas:
    """The replicas of a deployment of `EngineReplica` in the same application as this process.

    Args:
        deployment: The name of the deployment.
    """

    def __init__(self, deployment: str) -> None:
        self._handle = serve.get_deployment_handle(deployment).options(stream=True)
        self._application = serve.get_replica_context().app_name
        self._caller = ray.get_runtime_context().current_actor
        self._lock = asyncio.Lock()
        self._is_removed = False
        self._check_time = 0.0

    async def call(
        self,
        request: CreateImageVariationRequest,
        options: Mapping[str, Any],
        listener: ProgressListener,
    ) -> Outcome:
        """Return the outcome of a request. If the caller is cancelled, so is the replica.

        Args:
            request: What to ask for.
            options: The options of the engine that the request sets.
            listener: Called with the progress that the replica reports.

        Raises:
            RayError: If the replica dies.
            RateLimitError: If Serve refuses the request because too many are waiting.
            ServiceUnavailableError: If the application is removed before a replica has started.
        """
        reports = self._handle.create_variation.remote(request, options, self._caller)
        outcome: Outcome | None = None
        try:
            await self._wait_for_start(reports)
            async for report in reports:
                if isinstance(report, Progress):
                    listener(report)
                else:
                    outcome = report
        except BackPressureError as error:
            seconds = getattr(error, "retry_after_s", None) or 1.0
            raise RateLimitError(
                f"Too many requests are waiting for the engine. Please try again in {seconds:g}s.",
                retry_after=seconds,
            ) from None
        except DeploymentUnavailableError:
            raise _removed_error() from None
        except BaseException:
            # `cancel` raises the error of a call that has already failed.
            with suppress(Exception):
                reports.cancel()
            raise
        assert outcome is not None
        return outcome

    async def _wait_for_start(self, reports: AsyncIterator[object]) -> None:
        """Wait for the first report.

        While Serve removes an application, requests that no replica has started would wait until
        their process is killed.
        """
        start = asyncio.ensure_future(anext(reports))
        try:
            while not (await asyncio.wait([start], timeout=CHECK_SECONDS))[0]:
                if await self._check_removed():
                    raise _removed_error()
            start.result()
        finally:
            start.cancel()
            # It may end with another error, which asyncio would log.
            start.add_done_callback(lambda start: start.cancelled() or start.exception())

    async def _check_removed(self) -> bool:
        """Return whether the application is being removed. All requests share a check."""
        async with self._lock:
            if time.monotonic() - self._check_time >= CHECK_SECONDS and not self._is_removed:
                # While Serve's controller restarts, nobody knows.
                with suppress(RayError, RayServeException):
                    applications = (await asyncio.to_thread(serve.status)).applications
                    application = applications.get(self._application)
                    self._is_removed = getattr(application, "status", None) == "DELETING"
                self._check_time = time.monotonic()
            return self._is_removed


class RemoteEngine:
    """An engine whose calls go to replicas.

    Its traits are those of an engine of the same name and options, which is never called.

    Args:
        engine: The engine with the traits.
        replicas: The replicas.
        options: The options of the engine that the request sets.
    """

    def __init__(
        self, engine: Any, replicas: Replicas, options: Mapping[str, Any] | None = None
    ) -> None:
        self._engine = engine
        self._replicas = replicas
        self._options = dict(options or {})
        self.fingerprint = engine_identity(engine)
        if request_options(engine):
            # The signature is kept, because its parameters name the options.
            @wraps(engine.with_options)
            def with_request_options(**changes: Any) -> RemoteEngine:
                copy = with_options(engine, changes)
                return RemoteEngine(copy, replicas, {**self._options, **changes})

            self.with_options = with_request_options

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            # A copy that has no attributes yet looks for methods such as `__setstate__`.
            raise AttributeError(name)
        return getattr(self._engine, name)

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the variations that a replica makes.

        If the replica dies, another one gets the request, unless a call may cost money. If an image
        failed, reading it raises the error.

        Raises:
            EngineConnectionError: If the replica died.
            ImageVariationError: See `Replicas.call`, or any error of the engine.
        """
        listener = _relay(progress_reporter())
        calls_left = 1 if engine_base_url(self._engine) is not None else MAX_CALLS
        while True:
            calls_left -= 1
            try:
                outcome = await self._replicas.call(request, self._options, listener)
                break
            except RayTaskError:
                # The replica is alive: its code raised an error.
                raise
            except RayError as error:
                _LOGGER.warning("A replica of the engine died: %s.", type(error).__name__)
                if not calls_left:
                    raise EngineConnectionError(
                        "The process of the engine died during the call. Send the request again."
                    ) from error
        if isinstance(outcome, ImageVariationError):
            raise outcome
        return ImagesResponse(created=int(time.time()), data=[_image(item) for item in outcome])


def _image(outcome: bytes | ImageVariationError) -> Image:
    """Return an image with this file, or one that raises this error when it is read."""
    image = Image()
    if isinstance(outcome, ImageVariationError):
        image.set_failure(outcome)
    else:
        image.b64_json = base64.b64encode(outcome).decode("ascii")
    return image


def _relay(reporter: ProgressReporter) -> ProgressListener:
    """Return a listener that passes on what a replica reports."""
    finished = 0

    def listen(progress: Progress) -> None:
        nonlocal finished
        for _ in range(progress.finished - finished):
            reporter.image_finished()
        finished = max(finished, progress.finished)
        if progress.activity is not None:
            reporter.report_activity(progress.activity)
        else:
            reporter.work_done(progress.share)

    return listen


def _removed_error() -> ServiceUnavailableError:
    return ServiceUnavailableError(
        "The server is shutting down. Try again later, or use another server."
    )
