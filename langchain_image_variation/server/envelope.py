"""What wraps every request: an ID, its duration, a line in the log, and errors as answers.

First of all, the `Host` of a request is checked. Every error becomes an error body with all four
keys. The body of an unexpected error shows no internals.
"""

import logging
import math
import re
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
    PermissionDeniedError,
    ServiceUnavailableError,
)
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.connection import CROWDED_KEY
from langchain_image_variation.server.metrics import Metrics
from langchain_image_variation.server.paths import address_advice, path_in_app
from langchain_image_variation.server.target import with_origin_form

__all__ = [
    "BILLED_KEY",
    "LOGGED_ID",
    "REQUEST_ID_KEY",
    "Envelope",
    "ErrorAnswers",
    "error_answer",
    "error_response",
    "routing_error_response",
]

_LOGGER = logging.getLogger("langchain_image_variation.server")
_VERSION = b"2020-10-01"  # The vendor sent this version with every answer.
_UPSTREAM_ADVICE = (
    "This server answers image variations. Its option --upstream sends other requests on."
)
"""What a request for another path of the vendor's API gets, such as one for chat completions."""
LOGGED_ID = re.compile(rb"[!-~]{1,128}")
"""The IDs of clients and upstreams that are logged. Others could be long, or garble the log."""
BILLED_KEY = "may_be_billed"
"""Set to True in the state of requests for which a hosted engine was called."""
REQUEST_ID_KEY = "image_variation_request_id"
"""Set in the state of requests that already have an ID, such as one of Ray Serve."""


class Envelope:
    """An ASGI middleware that wraps every request.

    Args:
        app: The app inside.
        metrics: Where requests are counted.
        access: Decides which hosts requests may name.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, access: Access) -> None:
        self._app = app
        self._metrics = metrics
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        state = scope.setdefault("state", {})
        request_id = state.get(REQUEST_ID_KEY) or f"req_{secrets.token_hex(16)}"
        state["request_id"] = request_id
        status = 0
        upstream_id: str | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status, upstream_id
            if message["type"] == "http.response.start":
                status = message["status"]
                milliseconds = f"{(time.perf_counter() - start) * 1000:.0f}".encode()
                own_headers = {
                    b"x-request-id": request_id.encode(),
                    b"openai-processing-ms": milliseconds,
                    b"openai-version": _VERSION,
                }
                # A forwarded answer keeps the upstream's values.
                for name, value in message["headers"]:
                    own_headers.pop(name.lower(), None)
                    if name.lower() == b"x-request-id" and LOGGED_ID.fullmatch(value):
                        upstream_id = value.decode()
                message["headers"] = [*message["headers"], *own_headers.items()]
            await send(message)

        try:
            try:
                scope = with_origin_form(scope)
                self._access.check_host(Request(scope))
            except (PermissionDeniedError, InvalidRequestError) as error:
                await error_answer(error)(scope, receive, send_with_headers)
                return
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.count(path_in_app(scope), status, seconds)
            self._log(scope, status, seconds, request_id, upstream_id)

    def _log(
        self, scope: Scope, status: int, seconds: float, request_id: str, upstream_id: str | None
    ) -> None:
        line = {
            "method": scope["method"],
            "path": scope["path"],
            # The client disconnected before it got an answer.
            "status": status or 499,
            "ms": round(seconds * 1000, 1),
            "request_id": request_id,
        }
        # A path can contain line breaks.
        text = "%(method)s %(path)r %(status)s %(ms)s ms %(request_id)s"
        if upstream_id is not None:
            line["upstream_request_id"] = upstream_id
            text += " (upstream: %(upstream_request_id)s)"
        _LOGGER.info(text, line)


class ErrorAnswers:
    """An ASGI middleware that answers unexpected errors, and requests on too many connections.

    It is inside the CORS middleware, so that web pages can read these answers too.

    Args:
        app: The app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["state"].get(CROWDED_KEY):
            await _too_many_connections_response()(scope, receive, send)
            return
        has_started = False

        async def send_and_record_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_start)
        except ClientDisconnect:
            pass
        except Exception as error:
            engine_error = _log_unexpected(error, scope["state"]["request_id"])
            if not has_started:
                await error_answer(engine_error)(scope, receive, send)


def _too_many_connections_response() -> Response:
    error = ServiceUnavailableError("The server has too many connections. Please try again in 1s.")
    error.retry_after = 1.0
    response = error_answer(error)
    response.headers["connection"] = "close"
    return response


async def error_response(request: Request, error: ImageVariationError) -> Response:
    """Return the answer for an error from our own tree."""
    if error.status_code == 500:
        # Only the operator may see the cause of a bug in an engine.
        error = _log_unexpected(error.__cause__ or error, request.state.request_id)
    elif error.status_code > 500:
        line = {"request_id": request.state.request_id, "error": str(error)}
        _LOGGER.warning("request %(request_id)s failed: %(error)s", line)
    response = error_answer(error)
    if error.status_code in (500, 502, 504) and getattr(request.state, BILLED_KEY, False):
        # Otherwise SDKs repeat the request at once. The engine has repeated what costs nothing.
        response.headers["x-should-retry"] = "false"
    return response


async def routing_error_response(request: Request, error: HTTPException) -> Response:
    """Return the answer for an unknown path (404) or a wrong method (405), as the vendor's."""
    # `request.url` breaks if the Host header is invalid.
    endpoint = f"{request.method} {request.scope['path']}"[:200]
    if error.status_code == 404:
        advice = address_advice(request.scope)
        if not advice and path_in_app(request.scope).startswith("/v1/"):
            advice = _UPSTREAM_ADVICE if request.app.state.upstream is None else ""
        message = f"Invalid URL ({endpoint})"
        wire_error: ImageVariationError = NotFoundError(
            f"{message}. {advice}" if advice else message
        )
    else:
        methods = (error.headers or {}).get("Allow", "")
        wire_error = InvalidRequestError(f"Method not allowed ({endpoint}). Use {methods}.")
        wire_error.status_code = error.status_code
    response = error_answer(wire_error)
    response.headers.update(error.headers or {})
    return response


def _log_unexpected(error: BaseException, request_id: str) -> ImageVariationError:
    """Log an error, and return the one that the client may see."""
    line = {"request_id": request_id}
    _LOGGER.error("request %(request_id)s failed", line, exc_info=error)
    return EngineError(
        f"The server failed. Its operator can find the cause in the log, under {request_id}."
    )


def error_answer(error: ImageVariationError) -> Response:
    """Return the answer for an error, with nothing logged."""
    headers = {}
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = 'Bearer realm="image variations"'
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    body = ErrorResponse.from_exception(error).to_json()
    return Response(body, error.status_code, headers, media_type="application/json")
