"""The app: `POST /v1/images/variations` and its other endpoints, with any engine."""

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from langchain_image_variation.contract import VARIATIONS_PATH
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.checks import check_engine
from langchain_image_variation.engines.loading import engine_name, load_engine
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.engines.traits import (
    engine_base_url,
    engine_models,
    has_devices,
    request_options,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    excerpt,
)
from langchain_image_variation.images.png import MAX_PNG_SIDE
from langchain_image_variation.numbers import check_seconds, check_whole_number
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.cors import CORS
from langchain_image_variation.server.early_answer import EarlyAnswer
from langchain_image_variation.server.envelope import (
    Envelope,
    ErrorAnswers,
    error_response,
    routing_error_response,
)
from langchain_image_variation.server.form import MAX_BODY_BYTES
from langchain_image_variation.server.handlers import Handlers
from langchain_image_variation.server.metrics import Metrics
from langchain_image_variation.server.store.choice import check_store, open_store
from langchain_image_variation.server.store.image_store import ImageStore
from langchain_image_variation.server.turns import Turns
from langchain_image_variation.server.upload_memory import DEFAULT_TOTAL_UPLOAD_BYTES, UploadMemory
from langchain_image_variation.server.upstream import METHODS, Upstream
from langchain_image_variation.server.upstream_address import UpstreamAddress

__all__ = ["PIXELS_PER_WORKER", "accepted_options", "check_arguments", "create_app"]

PIXELS_PER_WORKER = 4_000_000
"""The number of pixels of a photo whose PNG file has almost 4 MB, the limit of the contract."""


def create_app(
    engine: str | VariationEngine | AsyncVariationEngine = "local",
    *,
    api_key: str | SecretStr | None = None,
    url_ttl: float = 3600.0,
    public_url: str | None = None,
    hosts: Iterable[str] = (),
    cors_origins: Iterable[str] = (),
    workers: int | None = None,
    queue: int = 16,
    store_dir: str | os.PathLike[str] | None = None,
    store_url: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    signing_key: str | SecretStr | None = None,
    store_max_bytes: int = 1024**3,
    upload_timeout: float = 60.0,
    max_pixels: int = MAX_PNG_SIDE**2,
    total_pixels: int | None = None,
    total_upload_bytes: int = DEFAULT_TOTAL_UPLOAD_BYTES,
    accept_fields: Iterable[str] = (),
    upstream: str | None = None,
    upstream_api_key: str | SecretStr | None = None,
    upstream_timeout: float = 600.0,
) -> Starlette:
    """Return an ASGI app that the vendor's SDKs can call as they called the vendor's server.

    The app can be mounted below a path of another app. Starlette and FastAPI do not run the
    lifespan of a mounted app, so expired images are then removed when new ones are stored.

    Args:
        engine: The engine, or its name.
        api_key: The key that clients must send. By default, anyone who can reach the app may use
            it.
        url_ttl: How many seconds the URL of an image works.
        public_url: What the URLs of images begin with. By default, the address that the client
            calls.
        hosts: Further names and IP addresses by which clients may call the app while it has no key.
            The loopback names and the host of `public_url` are always allowed, and so is any IP
            address if the app is reached over a network. A request with another `Host` header gets
            a 403, because it could come from a web page whose name resolves to this machine (DNS
            rebinding). Give full names without a port. Wildcards are not supported.
        cors_origins: The origins of web pages that may call the app from a browser, such as
            "https://app.example.org" or "http://localhost:5173". "*" stands for all, and needs an
            API key. By default, browsers let no page of another origin read an answer.
        workers: The maximum number of concurrent engine calls. By default, the number of
            processors, or 1 for an engine that computes on a device such as a GPU.
        queue: The maximum number of requests waiting for the engine. Further requests get a 429.
            If one client has filled the queue, a request from another client replaces its latest.
        store_dir: The folder for images that clients get as URLs, and for answers to requests with
            an `Idempotency-Key`. Several processes may share it. By default, a folder in the user's
            cache.
        store_url: A URL to keep them at instead, such as "s3://bucket/prefix", in any file system
            that fsspec supports. Servers on several machines may share it. Needs the extra
            `fsspec`, and the package for this kind of URL.
        storage_options: Passed to the file system of `store_url`, as fsspec's `storage_options`.
        signing_key: The secret that signs the URLs of images in `store_url`, of at least 32
            characters. Servers that share the store need the same key. A folder contains its key.
        store_max_bytes: The maximum total size of the files in the store, in bytes. If there are
            more, or if the disk is full, the oldest are removed. If that is not enough, requests
            for URLs get a 503 before the engine is called.
        upload_timeout: How many seconds a client may take to send a body. Slower ones get a 408.
        max_pixels: The maximum number of pixels of an uploaded image. Decoding takes about 8 bytes
            per pixel. Larger images get a 400.
        total_pixels: The maximum total pixels of the images that the engine works on at the same
            time. A request waits until its image fits. By default, `max_pixels`, or 4 million per
            worker if that is more.
        total_upload_bytes: The maximum total size of all uploads from their arrival to their
            answer, in bytes. One client gets at most half. A request waits until its upload fits,
            and gets a 429 after `upload_timeout`.
        accept_fields: Fields that requests may have besides those of the vendor's API and `seed`,
            such as "strength": options of the engine that a request may set. Other fields are
            errors.
        upstream: The URL of a server that gets all other requests below `/v1/`: what its clients
            set as `OPENAI_BASE_URL`, such as "https://api.openai.com/v1". By default, these
            requests get a 404.
        upstream_api_key: The key for that server, which replaces `api_key` in forwarded requests.
            Without `api_key`, clients send the upstream's key themselves.
        upstream_timeout: How many seconds the upstream may be silent. Before its answer has begun,
            the client then gets a 504. Later, the connection is closed.

    Raises:
        InvalidRequestError: If a setting is out of range, if `engine` is not an engine, or if a
            request cannot set one of `accept_fields`. `param` names the setting.
        EngineNotFoundError: If there is no engine of that name.
        MissingExtraError: If the package for this kind of `store_url` is not installed.
        OutputError: If the store cannot be used.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    access = Access(key, public_url, hosts, cors_origins)
    check_whole_number("workers", workers if workers is not None else 1, 1)
    check_whole_number("max_pixels", max_pixels, 1)
    engine = load_engine(engine) if isinstance(engine, str) else engine
    check_engine(engine)
    # A device computes for one call at a time. Other calls wait in the queue, which is fair.
    workers = workers or (1 if has_devices(type(engine)) else processor_count())
    if total_pixels is None:
        total_pixels = max(max_pixels, PIXELS_PER_WORKER * workers)
    check_arguments(
        url_ttl=url_ttl,
        queue=queue,
        store_dir=store_dir,
        store_url=store_url,
        storage_options=storage_options,
        store_max_bytes=store_max_bytes,
        upload_timeout=upload_timeout,
        max_pixels=max_pixels,
        total_pixels=total_pixels,
        total_upload_bytes=total_upload_bytes,
        upstream=upstream,
        upstream_timeout=upstream_timeout,
    )
    option_names = accepted_options(engine, accept_fields)
    turns = Turns(workers=workers, queue=queue, total_pixels=total_pixels)
    upload_memory = UploadMemory(total_upload_bytes, turns.queue_place)
    metrics = Metrics(turns, upload_memory)
    store = open_store(
        store_dir,
        store_url,
        storage_options,
        signing_key,
        ttl=url_ttl,
        max_bytes=store_max_bytes,
    )
    forwarder = _create_upstream(
        upstream, upstream_api_key, upstream_timeout, access, upload_timeout
    )
    handlers = Handlers(
        engine,
        turns,
        upload_memory,
        store=store,
        metrics=metrics,
        access=access,
        upstream=forwarder,
        public_url=public_url,
        models=engine_models(engine),
        option_names=option_names,
        upload_timeout=upload_timeout,
        max_pixels=max_pixels,
    )
    # Inside the envelope, which checks the host first, and around everything else that answers.
    cors = [Middleware(CORS, origins=access.cors_origins)] if access.cors_origins else []
    # The upstream may do more with its models.
    model_methods = ["GET"] if forwarder is None else METHODS
    app = Starlette(
        routes=[
            Route("/", handlers.playground),
            Route("/sample.jpg", handlers.sample),
            Route("/progress/{id}", handlers.progress),
            Route(f"/v1{VARIATIONS_PATH}", handlers.create_variation, methods=["POST"]),
            Route("/v1/models", handlers.list_models),
            Route("/v1/models/{model:path}", handlers.retrieve_model, methods=model_methods),
            Route("/files/{name}", handlers.file, name="file"),
            Route("/healthz", handlers.health),
            Route("/metrics", handlers.metrics_text),
            Route("/openapi.json", handlers.openapi),
        ],
        middleware=[
            Middleware(EarlyAnswer, max_seconds=upload_timeout),
            Middleware(Envelope, metrics=metrics, access=access),
            *cors,
            Middleware(ErrorAnswers),
        ],
        lifespan=lambda _: _lifespan(store, forwarder),
        exception_handlers={
            ImageVariationError: error_response,  # type: ignore[dict-item]  # takes only these
            HTTPException: routing_error_response,  # type: ignore[dict-item]  # takes only these
        },
    )
    # A redirect would send the client to the Host that it sent, which may not be this server.
    app.router.redirect_slashes = False
    if forwarder is not None:
        app.router.default = forwarder
    app.state.is_draining = False
    app.state.turns = turns
    app.state.access = access
    app.state.upstream = forwarder
    app.state.engine_url = engine_base_url(engine)
    return app


def check_arguments(
    *,
    url_ttl: float,
    queue: int,
    store_dir: str | os.PathLike[str] | None,
    store_url: str | None,
    storage_options: Mapping[str, Any] | None,
    store_max_bytes: int,
    upload_timeout: float,
    max_pixels: int,
    total_pixels: int,
    total_upload_bytes: int,
    upstream: str | None,
    upstream_timeout: float,
) -> None:
    """Check arguments of `create_app`, without opening the store.

    `Access` checks the arguments about access, and `accepted_options` checks `accept_fields`.

    Raises:
        InvalidRequestError: If an argument is invalid. `param` names it.
    """
    check_whole_number("queue", queue, 0)
    check_whole_number("store_max_bytes", store_max_bytes, 0)
    check_whole_number("max_pixels", max_pixels, 1)
    check_whole_number("total_pixels", total_pixels, max_pixels, hint=" (it includes max_pixels)")
    check_whole_number("total_upload_bytes", total_upload_bytes, 2 * MAX_BODY_BYTES)
    check_seconds("url_ttl", url_ttl)
    check_seconds("upload_timeout", upload_timeout)
    check_seconds("upstream_timeout", upstream_timeout)
    check_store(store_dir, store_url, storage_options)
    if upstream is not None:
        UpstreamAddress(upstream)


def accepted_options(
    engine: VariationEngine | AsyncVariationEngine, accept_fields: Iterable[str]
) -> tuple[str, ...]:
    """Return the options of the engine that requests may set.

    Any request may set a seed, which only makes results repeatable. The operator decides which
    other options a request may set.

    Args:
        engine: The engine.
        accept_fields: The options that the operator allows.

    Raises:
        InvalidRequestError: If a request cannot set one of `accept_fields`.
    """
    fields = {accept_fields} if isinstance(accept_fields, str) else {*accept_fields}
    option_names = request_options(engine)
    for field in sorted(fields.difference(option_names)):
        names = ", ".join(option_names) or "none"
        raise InvalidRequestError(
            f"accept_fields must name options that a request can set, got {excerpt(field)}. The "
            f"engine {engine_name(engine)!r} has these: {names}.",
            param="accept_fields",
        )
    return tuple(name for name in option_names if name == "seed" or name in fields)


def _create_upstream(
    url: str | None,
    api_key: str | SecretStr | None,
    timeout: float,
    access: Access,
    upload_timeout: float,
) -> Upstream | None:
    if url is not None:
        return Upstream(url, api_key, timeout=timeout, access=access, upload_timeout=upload_timeout)
    if api_key is not None:
        raise InvalidRequestError(
            "upstream_api_key needs an upstream server. Also pass upstream='https://...'.",
            param="upstream_api_key",
        )
    return None


@asynccontextmanager
async def _lifespan(store: ImageStore, upstream: Upstream | None) -> AsyncIterator[None]:
    """Remove expired images from time to time, even if there are no requests.

    At the end, close the connections with the upstream.
    """

    async def tidy() -> None:
        while True:
            await anyio.sleep(store.tidy_seconds)
            await anyio.to_thread.run_sync(store.tidy)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tidy)
        yield
        tasks.cancel_scope.cancel()
    if upstream is not None:
        await upstream.aclose()
