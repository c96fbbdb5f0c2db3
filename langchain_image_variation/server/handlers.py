"""The app's endpoints."""

import asyncio
import base64
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    CreateImageVariationRequest,
    Image,
    ImagesResponse,
)
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.engines.context import ProgressListener
from langchain_image_variation.engines.traits import (
    engine_base_url,
    engine_identity,
    option_value,
    with_options,
)
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    ExpiredURLError,
    ImageVariationError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
    excerpt,
)
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.answer_response import FAILED_IMAGES_HEADER, AnswerResponse
from langchain_image_variation.server.clients import client_of
from langchain_image_variation.server.disconnect import cancel_on_disconnect, cancel_without_waiting
from langchain_image_variation.server.draining import refuse_while_draining
from langchain_image_variation.server.engine_images import count_missing_images, read_pngs
from langchain_image_variation.server.envelope import BILLED_KEY
from langchain_image_variation.server.file_response import ImageFileResponse
from langchain_image_variation.server.form import VariationForm, max_body_length, read_form
from langchain_image_variation.server.idempotency import DAY, MAX_ANSWER_BYTES, Idempotency
from langchain_image_variation.server.metrics import Metrics
from langchain_image_variation.server.openapi import openapi_document
from langchain_image_variation.server.playground import playground_page, sample_image
from langchain_image_variation.server.progress import RequestProgress
from langchain_image_variation.server.store.image_store import ImageStore
from langchain_image_variation.server.turns import Turns
from langchain_image_variation.server.upload_memory import UploadMemory
from langchain_image_variation.server.upstream import Upstream

__all__ = ["Handlers"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

# The body of the vendor's storage. Clients look for these words.
_EXPIRED = (
    '<?xml version="1.0" encoding="utf-8"?>\n<Error><Code>AuthenticationFailed</Code>'
    "<Message>{message}</Message><AuthenticationErrorDetail>Signature not valid in the specified "
    "time frame</AuthenticationErrorDetail></Error>\n"
)


class Handlers:
    """The app's endpoints, which share one engine and one store.

    Args:
        engine: The engine.
        turns: Limits how many requests use the engine.
        upload_memory: Limits the memory for uploads.
        store: Keeps the images that clients get as URLs.
        metrics: What `/metrics` shows.
        access: Decides which requests may pass.
        public_url: Where clients reach the app, or None to use the address that they call.
        models: The models that requests may name, or None if the engine takes any.
        option_names: The options of the engine that requests may set.
        upload_timeout: How many seconds a client may take to send a body.
        max_pixels: The maximum number of pixels of an image.
        upstream: Knows further models, if it is not None.
    """

    def __init__(
        self,
        engine: VariationEngine | AsyncVariationEngine,
        turns: Turns,
        upload_memory: UploadMemory,
        *,
        store: ImageStore,
        metrics: Metrics,
        access: Access,
        public_url: str | None,
        models: Sequence[str] | None,
        option_names: Sequence[str],
        upload_timeout: float,
        max_pixels: int,
        upstream: Upstream | None,
    ) -> None:
        self._engine = engine
        self._turns = turns
        self._upload_memory = upload_memory
        self._store = store
        self._metrics = metrics
        self._access = access
        self._public_url = public_url
        self._models = models or (DEFAULT_MODEL,)
        self._option_names = option_names
        self._openapi = openapi_document(
            models, self._option_names, requires_key=access.requires_key
        )
        self._upload_timeout = upload_timeout
        self._max_pixels = max_pixels
        self._upstream = upstream
        self._idempotency = Idempotency(
            MAX_ANSWER_BYTES, store.answer_records(engine_identity(engine))
        )
        self._progress = RequestProgress()
        self._page, self._page_headers = playground_page(
            {name: option_value(engine, name) for name in self._option_names},
            requires_key=access.requires_key,
        )
        self._start_time = int(time.time())

    async def create_variation(self, request: Request) -> Response:
        """`POST /v1/images/variations`."""
        client = client_of(request)
        self._access.check(request)
        self._check_capacity(request, client)
        async with self._upload_memory.reserve(
            client, max_body_length(request), timeout=self._upload_timeout
        ) as reservation:
            form = await read_form(
                request,
                option_names=self._option_names,
                timeout=self._upload_timeout,
                max_pixels=self._max_pixels,
            )
            self._upload_memory.shrink(reservation, len(form.request.image.data))
            self._check_capacity(request, client)
            body = await self._answer(request, form, client)
        response = AnswerResponse(body)
        missing_count = count_missing_images(body, form.request)
        if missing_count:
            response.headers[FAILED_IMAGES_HEADER] = str(missing_count)
        return response

    async def _answer(self, request: Request, form: VariationForm, client: str) -> bytes:
        """Return the body of the answer to a valid form."""
        key = request.headers.get("idempotency-key")
        # An answer is useless once the URLs in it have expired.
        has_urls = form.request.response_format == "url"
        seconds = min(DAY, self._store.ttl) if has_urls else DAY
        with (
            cancel_on_disconnect(request),
            self._progress.track(
                request.headers.get("x-client-request-id"), form.request.n
            ) as progress,
        ):
            async with self._idempotency.answer(
                key,
                form,
                owner=self._answer_owner(request),
                queue_place=partial(self._turns.queue_place, client),
                seconds=seconds,
            ) as answer:
                if answer.body is None:
                    work = self._take_turn(request, form, progress, client)
                    # If the client disconnects, this task ends at once. The work keeps its turn
                    # until the engine stops.
                    answer.body = await cancel_without_waiting(work)
            # Read only now, because another server's answer may have replaced it.
            assert answer.body is not None
            return answer.body

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        self._access.check(request)
        models = [self._model(name) for name in self._models]
        if self._upstream is not None:
            return await self._upstream.list_models(request, models)
        return JSONResponse({"object": "list", "data": models})

    async def retrieve_model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        self._access.check(request)
        name = request.path_params["model"]
        if name not in self._models:
            if self._upstream is not None:
                return await self._upstream.forward(request)
            error = ModelNotFoundError(f"The model {excerpt(name)} does not exist here.")
            error.status_code = 404
            raise error
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        return JSONResponse(self._model(name))

    async def file(self, request: Request) -> Response:
        """`GET /files/{name}`: an image, until its URL expires."""
        name, query = request.path_params["name"], request.query_params
        try:
            image = await anyio.to_thread.run_sync(
                self._store.open, name, query.get("se", ""), query.get("sig", "")
            )
        except ExpiredURLError as error:
            body = _EXPIRED.format(message=error.message)
            headers = {"x-ms-error-code": "AuthenticationFailed"}
            return Response(body, 403, headers, media_type="application/xml")
        return ImageFileResponse(request, image, name=name)

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: 200 when ready, 503 while draining or unable to store images."""
        if request.app.state.is_draining:
            return JSONResponse({"status": "draining"}, 503)
        if not await anyio.to_thread.run_sync(self._store.has_room):
            return JSONResponse({"status": "cannot store images"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics_text(self, request: Request) -> Response:
        """`GET /metrics`."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def playground(self, request: Request) -> Response:
        """`GET /`: a page to try the server in a browser."""
        return HTMLResponse(self._page, headers=self._page_headers)

    async def sample(self, request: Request) -> Response:
        """`GET /sample.jpg`: a photo to try the playground with."""
        return Response(sample_image(), media_type="image/jpeg")

    async def progress(self, request: Request) -> Response:
        """`GET /progress/{id}`: how far a running request is."""
        self._access.check(request)
        progress = self._progress.get(request.path_params["id"])
        return JSONResponse(progress._asdict(), headers={"cache-control": "no-store"})

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        url = self._base_url(request) if self._public_url else _root_path(request)
        return JSONResponse({**self._openapi, "servers": [{"url": url or "/"}]})

    async def _take_turn(
        self, request: Request, form: VariationForm, progress: ProgressListener, client: str
    ) -> bytes:
        """Wait for a turn, call the engine and return the body of the answer."""
        engine = with_options(self._engine, form.options)
        is_hosted = engine_base_url(engine) is not None
        failures: list[ImageVariationError] = []
        async with (
            self._turns.turn(client, form.request.image.side**2),
            self._reserve_room(form.request),
        ):
            setattr(request.state, BILLED_KEY, is_hosted)
            try:
                response = await self._call_engine(engine, form.request, progress)
                pngs = read_pngs(
                    response, form.request.side, is_hosted=is_hosted, failures=failures
                )
                build_body = partial(self._build_body, pngs, form.request, self._base_url(request))
                with cancel_after():
                    body = await asyncio.to_thread(build_body)
            except (AuthenticationError, NotFoundError, PermissionDeniedError) as error:
                # These errors are about the hosted engine's key or address, not our client's.
                raise EngineError("The engine is not set up correctly.") from error
        if failures:
            self._report_failures(request.state.request_id, form.request.n, failures)
        return body

    def _reserve_room(
        self, request: CreateImageVariationRequest
    ) -> AbstractAsyncContextManager[None]:
        """Make sure that the store has room for the images before the engine makes them."""
        if request.response_format == "url":
            return self._store.reserve(request.n, request.side)
        return nullcontext()

    async def _call_engine(
        self,
        engine: VariationEngine | AsyncVariationEngine,
        request: CreateImageVariationRequest,
        progress: ProgressListener,
    ) -> ImagesResponse:
        engine_request = request.model_copy(update={"response_format": "b64_json"})
        return await call_engine_async(
            engine, engine_request, progress=progress, wait_when_cancelled=True
        )

    def _build_body(
        self, pngs: Iterable[bytes], request: CreateImageVariationRequest, base_url: str
    ) -> bytes:
        """Return the body of the answer with these images."""
        if request.response_format == "url":
            names = self._store.add_all(pngs)
            images = [Image(url=f"{base_url}/files/{name}") for name in names]
        else:
            images = [Image(b64_json=base64.b64encode(png).decode("ascii")) for png in pngs]
        return ImagesResponse(created=int(time.time()), data=images).to_json().encode()

    def _report_failures(
        self, request_id: str, n: int, failures: Sequence[ImageVariationError]
    ) -> None:
        """Tell the operator about images that an answer lacks, and why the first one failed."""
        self._metrics.count_failed_images(len(failures))
        line = {"request_id": request_id, "failed": len(failures), "n": n}
        _LOGGER.warning(
            "request %(request_id)s: %(failed)s of %(n)s images failed: %(error)s",
            {**line, "error": str(failures[0])},
        )

    def _check_capacity(self, request: Request, client: str) -> None:
        """Refuse a request that cannot be served now, before it takes any memory."""
        refuse_while_draining(request)
        # With a key, there may be an answer already.
        if not request.headers.get("idempotency-key"):
            self._turns.check_queue(client)

    def _base_url(self, request: Request) -> str:
        """Return where the client reaches the app, without a final slash."""
        if self._public_url is not None:
            return self._public_url.rstrip("/")
        return str(request.base_url.replace(path=_root_path(request)))

    def _answer_owner(self, request: Request) -> str:
        """Return a text that is equal for requests that may share an answer.

        It contains the key and, if the server needs none, the client's address.
        """
        key = request.headers.get("authorization", "")
        if self._access.requires_key or request.client is None:
            return key
        return f"{key} {request.client.host}"

    def _model(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._start_time,
            "owned_by": "langchain-image-variation",
        }


def _root_path(request: Request) -> str:
    """Return the path below which the app is mounted or proxied, without a final slash."""
    # `request.base_url` leaves out the path of a `Mount`.
    return quote(request.scope.get("root_path", "").rstrip("/"))
