"""The app: `POST /v1/images/variations` and what belongs to it, over any engine."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import platformdirs
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.engines.traits import engine_base_url, engine_models
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
)
from langchain_image_variation.numbers import check_seconds, check_whole_number
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.envelope import Envelope, failed, not_routed
from langchain_image_variation.server.handlers import Handlers
from langchain_image_variation.server.linger import Linger
from langchain_image_variation.server.metrics import Metrics
from langchain_image_variation.server.queue import EngineQueue
from langchain_image_variation.server.store import PictureStore

__all__ = ["create_app"]


def create_app(
    engine: str | VariationEngine | AsyncVariationEngine = "local",
    *,
    api_key: str | SecretStr | None = None,
    url_ttl: float = 3600.0,
    public_url: str | None = None,
    hosts: Iterable[str] = (),
    workers: int | None = None,
    queue: int = 16,
    store_dir: str | os.PathLike[str] | None = None,
    store_max_bytes: int = 1024**3,
    upload_timeout: float = 60.0,
) -> Starlette:
    """Return an ASGI app on which the vendor's SDKs work as they did on the vendor's server.

    Args:
        engine: What makes the variations, or its name.
        api_key: The key that clients must send; by default anyone who reaches the app may use it.
        url_ttl: Seconds for which the address of a result works.
        public_url: What the addresses of results begin with, where that is not what the client
            itself calls the server.
        hosts: The names and IP addresses by which clients may call the app while it has no key,
            besides the loopback names, the host of `public_url` and, if the app is reached over
            a network, any IP address. A request with another `Host` header gets a 403, because it
            may come from a web page whose name was made to resolve to this machine (DNS
            rebinding). Give names in full, without port; there are no wildcards.
        workers: The most engine calls at once; by default as many as there are cores.
        queue: The most requests that wait for their turn; one more is answered 429.
        store_dir: Where pictures are kept whose addresses were given out; by default a folder in
            the user's cache.
        store_max_bytes: The most bytes that all those pictures together may have.
        upload_timeout: Seconds that a request's body may take to come in; after them it is answered
            408.

    Raises:
        InvalidRequestError: If a setting is out of range; `param` names it.
        EngineNotFoundError: If there is no engine of that name.
        OutputError: If the folder cannot be used.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    access = Access(key, public_url, hosts)
    check_whole_number("workers", workers if workers is not None else 1, 1)
    check_whole_number("queue", queue, 0)
    check_whole_number("store_max_bytes", store_max_bytes, 0)
    check_seconds("url_ttl", url_ttl)
    check_seconds("upload_timeout", upload_timeout)
    if store_dir == "":
        raise InvalidRequestError("store_dir is empty; name a folder.", param="store_dir")
    folder = Path(store_dir) if store_dir is not None else _usual_folder()
    engine = load_engine(engine) if isinstance(engine, str) else engine
    turns = EngineQueue(engine, workers=workers or processor_count(), limit=queue)
    metrics = Metrics(turns)
    store = PictureStore(folder, ttl=url_ttl, max_bytes=store_max_bytes)
    handlers = Handlers(
        turns,
        store=store,
        metrics=metrics,
        access=access,
        public_url=public_url,
        models=engine_models(engine),
        upload_timeout=upload_timeout,
    )
    app = Starlette(
        routes=[
            Route("/", handlers.playground),
            Route("/v1/images/variations", handlers.create_variation, methods=["POST"]),
            Route("/v1/models", handlers.list_models),
            Route("/v1/models/{model:path}", handlers.retrieve_model),
            Route("/files/{name}", handlers.file, name="file"),
            Route("/healthz", handlers.health),
            Route("/metrics", handlers.metrics_text),
            Route("/openapi.json", handlers.openapi),
        ],
        middleware=[Middleware(Linger), Middleware(Envelope, metrics=metrics)],
        lifespan=lambda _: _tidying(store),
        exception_handlers={
            ImageVariationError: failed,  # type: ignore[dict-item]  # it takes only these
            HTTPException: not_routed,  # type: ignore[dict-item]  # it takes only these
        },
    )
    # A redirect to the address without its slash would name whatever Host the client sent.
    app.router.redirect_slashes = False
    app.state.draining = False
    app.state.turns = turns
    app.state.access = access
    app.state.engine_url = engine_base_url(engine)
    return app


@asynccontextmanager
async def _tidying(store: PictureStore) -> AsyncIterator[None]:
    """Remove pictures whose time is over, though nothing is asked for."""

    async def tidy() -> None:
        while True:
            await anyio.sleep(store.look_seconds)
            await anyio.to_thread.run_sync(store.tidy)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tidy)
        yield
        tasks.cancel_scope.cancel()


def _usual_folder() -> Path:
    return platformdirs.user_cache_path("langchain-image-variation", appauthor=False) / "files"
