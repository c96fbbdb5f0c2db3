"""`app`: builds the application from its arguments, for `serve run` and Serve configs."""

import logging
import os
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import load_engine, resolve_engine
from langchain_image_variation.engines.traits import engine_options, has_devices
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.app import (
    PIXELS_PER_WORKER,
    accepted_options,
    check_arguments,
    create_app,
)
from langchain_image_variation.server.ray.remote_engine import RemoteEngine, Replicas
from langchain_image_variation.server.ray.replica import EngineReplica
from langchain_image_variation.server.ray.request_ids import RequestIDs
from langchain_image_variation.server.ray.settings import Settings
from langchain_image_variation.server.run import MAX_CONNECTIONS

__all__ = ["app"]

_ENGINE = "Engine"
"""The name of the deployment that makes the images."""
_SERVER = "Server"
"""The name of the deployment that answers requests."""
_SHUTDOWN_SECONDS = 120.0
"""How long a replica that is removed may work on its requests. Serve allows 20 seconds by default,
and a request to a large model takes longer."""


def app(settings: Settings) -> Application:
    """Return the application that `serve run` deploys.

    Args:
        settings: The arguments. `serve run` and a Serve config pass them by name.

    Raises:
        InvalidRequestError: If an argument, an option of the engine or a field is invalid.
        ImageVariationError: If the engine cannot be created.
    """
    # Otherwise, each process would choose for its own machine, and machines may differ.
    name = resolve_engine(settings.engine, settings.engine_options)
    settings = settings.model_copy(update={"engine": name})
    engine = load_engine(name, **settings.engine_options)
    _check_settings(settings, engine)
    target = settings.target_ongoing_requests or settings.workers
    engine_deployment = serve.deployment(
        EngineReplica,
        name=_ENGINE,
        max_ongoing_requests=settings.workers,
        graceful_shutdown_timeout_s=_SHUTDOWN_SECONDS,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": target,
            "upscale_delay_s": settings.upscale_delay,
            "downscale_delay_s": settings.downscale_delay,
        },
        ray_actor_options={
            "num_cpus": settings.num_cpus,
            "num_gpus": _count_gpus(settings, type(engine)),
        },
    ).bind(name, _replica_options(settings, type(engine)))

    def build() -> RequestIDs:
        return RequestIDs(_create_server_app(settings))

    server_deployment = serve.deployment(
        serve.ingress(build)(),
        name=_SERVER,
        num_replicas=settings.server_replicas,
        # Requests wait in the queue of the app, which is fair and has a limit.
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_timeout_s=_SHUTDOWN_SECONDS,
    )
    application: Application = server_deployment.bind(engine_deployment)
    return application


def _check_settings(settings: Settings, engine: VariationEngine) -> None:
    """Check everything but the keys and the store itself, which only the nodes may have.

    Without this check, Serve would start replicas that fail again and again.
    """
    arguments = _app_arguments(settings)
    accepted_options(engine, arguments.pop("accept_fields"))
    Access(
        "a key of the nodes",
        arguments.pop("public_url"),
        arguments.pop("hosts"),
        arguments.pop("cors_origins"),
    )
    check_arguments(**arguments)


def _app_arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of `create_app` but the engine, `workers` and the keys."""
    arguments = settings.app_arguments()
    if settings.total_pixels is None:
        # Each replica has the memory of a process.
        pixels = max(settings.max_pixels, PIXELS_PER_WORKER * settings.workers)
        arguments["total_pixels"] = pixels * settings.max_replicas
    return arguments


def _create_server_app(settings: Settings) -> Starlette:
    """Return the app of a replica of the server, which must run in that replica."""
    _log_to_serve()
    engine = load_engine(settings.engine, **settings.engine_options)
    has_upstream, has_store_url = settings.upstream is not None, settings.store_url is not None
    return create_app(
        RemoteEngine(engine, Replicas(_ENGINE)),
        # More calls than there are replicas may wait for one. Serve starts replicas for them.
        workers=settings.workers * settings.max_replicas,
        api_key=_read_key("IMAGE_VARIATION_API_KEY"),
        signing_key=_read_key("IMAGE_VARIATION_SIGNING_KEY") if has_store_url else None,
        upstream_api_key=_read_key("IMAGE_VARIATION_UPSTREAM_API_KEY") if has_upstream else None,
        **_app_arguments(settings),
    )


def _log_to_serve() -> None:
    """Send the records of this package to the log of the replica, which has the requests' IDs."""
    logger = logging.getLogger("langchain_image_variation")
    # The same list, so that it has the handlers that Serve configures later.
    logger.handlers = logging.getLogger("ray.serve").handlers
    logger.propagate = False


def _read_key(name: str) -> str | None:
    return os.environ.get(name) or None


def _replica_options(settings: Settings, engine_class: type[Any]) -> dict[str, Any]:
    """Return the options of the replicas' engines, with one thread per processor of a replica."""
    options = dict(settings.engine_options)
    if "threads" in engine_options(engine_class) and not has_devices(engine_class):
        options.setdefault("threads", max(1, int(settings.num_cpus)))
    return options


def _count_gpus(settings: Settings, engine_class: type[Any]) -> float:
    if settings.num_gpus is not None:
        return settings.num_gpus
    # `serve build` works without a cluster.
    resources = ray.cluster_resources() if ray.is_initialized() else {}
    return float(has_devices(engine_class) and resources.get("GPU", 0) >= 1)
