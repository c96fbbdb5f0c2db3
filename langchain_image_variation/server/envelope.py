"""Around every request: an id, the time it took, a line in the log, and errors as the contract's.

`Envelope` is an ASGI middleware. Whatever is raised inside becomes an error body with all four keys
and, if it was unforeseen, shows nothing of the inside.
"""

import logging
import math
import secrets
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    ImageVariationError,
    InvalidRequestError,
    NotFoundError,
    ServiceUnavailableError,
)
from langchain_image_variation.server.connection import CROWDED
from langchain_image_variation.server.metrics import Metrics

__all__ = ["Envelope", "failed", "not_routed"]

LOGGER = logging.getLogger("langchain_image_variation.server")
_VERSION = b"2020-10-01"  # What the vendor's own answers always said.


class Envelope:
    """The outermost layer of the app.

    Args:
        app: What is inside.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spent = f"{(time.perf_counter() - start) * 1000:.0f}".encode()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", spent),
                    (b"openai-version", _VERSION),
                ]
            await send(message)

        try:
            if scope["state"].get(CROWDED):
                error = ServiceUnavailableError("There are too many connections; try again soon.")
                error.retry_after = 1.0
                response = _response(error)
                response.headers["connection"] = "close"
                await response(scope, receive, send_marked)
                return
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            pass
        except Exception as error:
            unforeseen = _unforeseen(error, request_id)
            if not status:
                await _response(unforeseen)(scope, receive, send_marked)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.count(_path_in_app(scope), status, seconds)
            self._log(scope, status, seconds, request_id)

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        line = {
            "method": scope["method"],
            "path": scope["path"],
            # Nobody was there any more to take an answer.
            "status": status or 499,
            "ms": round(seconds * 1000, 1),
            "request_id": request_id,
        }
        # A path may hold line breaks.
        LOGGER.info("%(method)s %(path)r %(status)s %(ms)s ms %(request_id)s", line)


def _path_in_app(scope: Scope) -> str:
    """Return a request's path without the path below which the app is mounted or proxied."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return below if below.startswith("/") else path


async def failed(request: Request, error: ImageVariationError) -> Response:
    """Return the answer that stands for an error of the tree, in the vendor's envelope."""
    if error.status_code == 500:
        # An engine's bug comes with what it raised, which is for the operator alone.
        error = _unforeseen(error.__cause__ or error, request.state.request_id)
    elif error.status_code > 500:
        line = {"request_id": request.state.request_id, "error": str(error)}
        LOGGER.warning("request %(request_id)s failed: %(error)s", line)
    return _response(error)


async def not_routed(request: Request, error: HTTPException) -> Response:
    """Return the vendor's own form of 404 and 405."""
    # Not by `request.url`, which a made-up Host header breaks.
    address = f"{request.method} {request.scope['path']}"[:200]
    if error.status_code == 404:
        failure: ImageVariationError = NotFoundError(f"Invalid URL ({address})")
    else:
        allowed = (error.headers or {}).get("Allow", "")
        failure = InvalidRequestError(f"{address} is not allowed; allowed is {allowed}.")
        failure.status_code = error.status_code
    response = _response(failure)
    response.headers.update(error.headers or {})
    return response


def _unforeseen(error: BaseException, request_id: str) -> ImageVariationError:
    """Tell the log what happened, and the client no more than that the fault is ours."""
    line = {"request_id": request_id}
    LOGGER.error("request %(request_id)s failed", line, exc_info=error)
    return EngineError(f"The server failed; its operator finds why in its log, at {request_id}.")


def _response(error: ImageVariationError) -> Response:
    headers = {}
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = 'Bearer realm="image variations"'
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    body = ErrorResponse.from_exception(error).to_json()
    return Response(body, error.status_code, headers, media_type="application/json")
