"""What each address of the app answers."""

import asyncio
import base64
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    CreateImageVariationRequest,
    Image,
    ImagesResponse,
)
from langchain_image_variation.exceptions import (
    ExpiredURLError,
    ImageVariationError,
    InvalidImageError,
    ModelNotFoundError,
    ServiceUnavailableError,
    shown,
)
from langchain_image_variation.images.pixels import as_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.form import drain, read_request
from langchain_image_variation.server.metrics import Metrics
from langchain_image_variation.server.openapi import openapi_document
from langchain_image_variation.server.picture import PictureAnswer
from langchain_image_variation.server.playground import playground_page
from langchain_image_variation.server.queue import EngineQueue
from langchain_image_variation.server.replay import DAY, Replay
from langchain_image_variation.server.store import PictureStore

__all__ = ["Handlers"]

T = TypeVar("T")

_LOADING = 4
_AT_ONCE = 0.05
"""Seconds of work during which nobody looks whether the client is still there."""

_REPLAY_BYTES = 256 * 1024 * 1024
# As the vendor's storage says it; clients look for these words.
_EXPIRED = (
    '<?xml version="1.0" encoding="utf-8"?>\n<Error><Code>AuthenticationFailed</Code>'
    "<Message>{message}</Message><AuthenticationErrorDetail>Signature not valid in the specified "
    "time frame</AuthenticationErrorDetail></Error>\n"
)


class Handlers:
    """The app's addresses, over one queue, one store and one memory of answers.

    Args:
        turns: Where requests wait for the engine.
        store: Where pictures are kept that are given as addresses.
        metrics: What is told at `/metrics`.
        access: What a request must bring along.
        public_url: What addresses of pictures begin with, or None for what the client calls us.
        models: The names that requests may give, or None if the engine takes any.
        upload_timeout: The seconds that a body may take to come in.
    """

    def __init__(
        self,
        turns: EngineQueue,
        *,
        store: PictureStore,
        metrics: Metrics,
        access: Access,
        public_url: str | None,
        models: Sequence[str] | None,
        upload_timeout: float,
    ) -> None:
        self._turns = turns
        self._store = store
        self._metrics = metrics
        self._access = access
        self._public_url = public_url
        self._models = models or (DEFAULT_MODEL,)
        self._document = openapi_document(models, with_key=access.with_key)
        self._upload_timeout = upload_timeout
        self._loading = asyncio.Semaphore(_LOADING)
        self._replay = Replay(_REPLAY_BYTES, wait=turns.seat)
        self._page, self._page_headers = playground_page()
        self._since = int(time.time())

    async def create_variation(self, request: Request) -> Response:
        """`POST /v1/images/variations`."""
        try:
            self._access.check(request)
            self._check_room(request)
        except ImageVariationError:
            # So the connection can be kept; an answer before a body's end closes it, by `Linger`.
            await drain(request, timeout=self._upload_timeout)
            raise
        admit = partial(self._check_room, request)
        wanted = await read_request(
            request, timeout=self._upload_timeout, loading=self._loading, admit=admit
        )
        asked = wanted.model_copy(update={"response_format": "b64_json"})
        finish = partial(self._body, wanted=wanted, request=request)
        key = request.headers.get("idempotency-key")
        # An answer of addresses is of no use when they have expired.
        seconds = self._store.ttl if wanted.response_format == "url" else DAY
        call = partial(self._turns.call, asked, finish)
        answer = self._replay.answer(key, wanted, call, seconds=min(seconds, DAY))
        body = await _unless_gone(request, answer)
        return Response(body, media_type="application/json")

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        self._access.check(request)
        return JSONResponse({"object": "list", "data": [self._model(m) for m in self._models]})

    async def retrieve_model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        self._access.check(request)
        name = request.path_params["model"]
        if name not in self._models:
            error = ModelNotFoundError(f"The model {shown(name)} does not exist here.")
            error.status_code = 404
            raise error
        return JSONResponse(self._model(name))

    async def file(self, request: Request) -> Response:
        """`GET /files/{name}`: a result, for as long as its address works."""
        self._access.check_host(request)
        query = request.query_params
        try:
            file, length, seconds = await anyio.to_thread.run_sync(
                self._store.find,
                request.path_params["name"],
                query.get("se", ""),
                query.get("sig", ""),
            )
        except ExpiredURLError as error:
            body = _EXPIRED.format(message=error.message)
            headers = {"x-ms-error-code": "AuthenticationFailed"}
            return Response(body, 403, headers, media_type="application/xml")
        name = request.path_params["name"]
        return PictureAnswer(request, file, length=length, name=name, seconds=seconds)

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: 200 when ready, 503 while draining."""
        self._access.check_host(request)
        draining = request.app.state.draining
        status = "draining" if draining else "ready"
        return JSONResponse({"status": status}, 503 if draining else 200)

    async def metrics_text(self, request: Request) -> Response:
        """`GET /metrics`."""
        self._access.check_host(request)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def playground(self, request: Request) -> Response:
        """`GET /`: a page to try it by hand."""
        self._access.check_host(request)
        return HTMLResponse(self._page, headers=self._page_headers)

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        self._access.check_host(request)
        return JSONResponse(self._document)

    def _check_room(self, request: Request) -> None:
        """Refuse what could not be served, before it takes any memory."""
        if request.app.state.draining:
            raise ServiceUnavailableError("The server is shutting down; try another, or later.")
        # There may be an answer already for one with a key.
        if not request.headers.get("idempotency-key"):
            self._turns.check_room()

    def _base(self, request: Request) -> str:
        if self._public_url is not None:
            return self._public_url.rstrip("/")
        return str(request.base_url).rstrip("/")

    def _body(
        self, answer: ImagesResponse, wanted: CreateImageVariationRequest, request: Request
    ) -> bytes:
        """Return the body of a success: each picture PNG of the size wanted, in the form wanted."""
        images = []
        for made in answer.data:
            png = _png(made.read(), wanted.side)
            if wanted.response_format == "url":
                images.append(Image(url=f"{self._base(request)}/files/{self._store.add(png)}"))
            else:
                images.append(Image(b64_json=base64.b64encode(png).decode("ascii")))
        return ImagesResponse(created=int(time.time()), data=images).to_json().encode()

    def _model(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "langchain-image-variation",
        }


def _png(data: bytes, side: int) -> bytes:
    """Return a picture of an engine as PNG of that side; one that is so already is not decoded."""
    with suppress(InvalidImageError):
        if SquarePNG(data).side == side:
            return data
    return as_png(data, side)[0]


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work while the client is there, and stop it when the client goes away."""
    loop = asyncio.get_running_loop()
    watchers: list[asyncio.Task[None]] = []
    with anyio.CancelScope() as scope:
        # What is done at once is not worth a task.
        begin = loop.call_later(
            _AT_ONCE, lambda: watchers.append(loop.create_task(_watch(request, scope)))
        )
        try:
            return await work
        finally:
            begin.cancel()
            for watcher in watchers:
                watcher.cancel()
    raise ClientDisconnect


async def _watch(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
