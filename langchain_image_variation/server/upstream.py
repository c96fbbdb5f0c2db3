"""The upstream: one fixed server that gets the requests for paths that are not ours.

A program that sets `OPENAI_BASE_URL` to this server then keeps its chat, embeddings and files. A
client can choose neither the server nor the path below which its requests arrive there. No request
is sent twice, and redirects are passed back.
"""

import logging
import secrets

import anyio
import httpcore
from pydantic import SecretStr
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import request_response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError
from langchain_image_variation.http.connections import Connections
from langchain_image_variation.numbers import check_seconds
from langchain_image_variation.server.access import Access
from langchain_image_variation.server.draining import refuse_while_draining
from langchain_image_variation.server.forwarded_answer import (
    CONNECTION_ERRORS,
    ForwardedAnswer,
    connection_error,
)
from langchain_image_variation.server.forwarded_headers import request_headers
from langchain_image_variation.server.paths import address_advice
from langchain_image_variation.server.upstream_address import UpstreamAddress

__all__ = [
    "CONNECT_SECONDS",
    "MAX_MODELS_BYTES",
    "METHODS",
    "MODELS_SECONDS",
    "WRITE_SECONDS",
    "Upstream",
]

_LOGGER = logging.getLogger("langchain_image_variation.server")

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
"""The methods that are forwarded. TRACE would show the upstream's key to the client."""
CONNECT_SECONDS = 10.0
"""How many seconds connecting to the upstream may take. Packets take less than a second around the
world, and are sent again after 1, 3 and 7 seconds (RFC 6298)."""
WRITE_SECONDS = 60.0
"""How many seconds the upstream may read nothing of a request."""
MODELS_SECONDS = 5.0
"""How many seconds the upstream's list of models may take. The server's own models wait for it."""
MAX_MODELS_BYTES = 4 * 1024 * 1024
"""The maximum length of the upstream's list of models, in bytes. The vendor's takes 20 KB. A
gateway with hundreds of models needs less than 1 MB."""
_NOT_FOR_MODELS = frozenset(
    {
        # Compressed, a short list could expand to gigabytes.
        b"accept-encoding",
        # The body is not sent.
        *(b"content-length", b"transfer-encoding"),
        # They ask for a part or a 304.
        *(b"if-modified-since", b"if-none-match", b"range"),
    }
)


class Upstream:
    """Forwards requests to one server.

    Args:
        url: The server: what its clients set as `OPENAI_BASE_URL`.
        api_key: The key for that server, which replaces the key that clients send. If the access
            needs a key and this is None, requests are forwarded without a key.
        timeout: How many seconds the server may be silent.
        access: Decides which requests may pass.
        upload_timeout: How many seconds a client may pause while it sends a body.

    Raises:
        InvalidRequestError: If the URL or the key is not valid, or if there is a key but `access`
            needs none.
    """

    def __init__(
        self,
        url: str,
        api_key: str | SecretStr | None,
        *,
        timeout: float,
        access: Access,
        upload_timeout: float,
    ) -> None:
        self._address = UpstreamAddress(url)
        self.url = str(self._address.url)
        """The server."""
        self._account_headers = _account_headers(api_key, access)
        self._timeout = check_seconds("upstream_timeout", timeout)
        self._timeouts = {
            "connect": min(CONNECT_SECONDS, self._timeout),
            "read": self._timeout,
            "write": min(WRITE_SECONDS, self._timeout),
        }
        self._access = access
        self._upload_timeout = upload_timeout
        # A secret: a request that carries it has already passed through this server.
        self._via = f"image-variation-{secrets.token_hex(8)}"
        self._connections = Connections(self._address.url)
        self.running = set[ForwardedAnswer]()
        """The answers in progress."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request. This is an ASGI app."""
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
        else:
            await request_response(self.forward)(scope, receive, send)

    async def forward(self, request: Request) -> Response:
        """Return the upstream's answer to a request.

        Raises:
            ImageVariationError: If the request is refused here.
            HTTPException: If the path or the method is not forwarded.
        """
        self._check_access(request)
        url = self._address.for_scope(request.scope)
        # An image that is sent to almost the right address is not for the upstream.
        if url is None or address_advice(request.scope):
            raise HTTPException(404)
        if request.method not in METHODS:
            raise HTTPException(405, headers={"Allow": ", ".join(METHODS)})
        if "websocket" in request.headers.get("upgrade", "").lower():
            raise _websocket_error()
        refuse_while_draining(request)
        return ForwardedAnswer(
            self._connections,
            request,
            url,
            self._headers(request),
            timeouts=self._timeouts,
            upload_timeout=self._upload_timeout,
            running=self.running,
        )

    async def list_models(self, request: Request, models: list[dict[str, object]]) -> Response:
        """Return the list of models: ours, and then the upstream's.

        If the upstream sends no list that can be passed on, the answer has ours only.

        Args:
            request: The client's request for the list.
            models: Our models.

        Raises:
            ImageVariationError: If the request is refused here.
        """
        self._check_access(request)
        try:
            with anyio.fail_after(MODELS_SECONDS):
                body = await self._read_models(request)
            return _merge_models(models, body)
        except CONNECTION_ERRORS as error:
            reason = connection_error(error, self._timeout).message
        except TimeoutError:
            reason = f"The upstream did not answer within {MODELS_SECONDS:g} seconds."
        except _NoModelsError as error:
            reason = str(error)
        line = {"request_id": request.state.request_id, "error": reason}
        _LOGGER.warning("request %(request_id)s: no models of the upstream: %(error)s", line)
        return JSONResponse({"object": "list", "data": models})

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()

    def _check_access(self, request: Request) -> None:
        self._access.check(request)
        self._access.check_site(request)
        if self._via in ", ".join(request.headers.getlist("via")):
            error = ImageVariationError(
                "This server forwards requests to itself. Start it with another upstream."
            )
            error.status_code = 508
            raise error

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        return request_headers(
            request.scope, host=self._address.host, via=self._via, account=self._account_headers
        )

    async def _read_models(self, request: Request) -> bytes:
        """Return the body of the upstream's list of models.

        Raises:
            _NoModelsError: If the upstream does not answer 200, or if the list is too long or
                compressed.
        """
        headers = [pair for pair in self._headers(request) if pair[0] not in _NOT_FOR_MODELS]
        core_request = httpcore.Request(
            "GET",
            self._address.models(request.scope["query_string"]),
            headers=[*headers, (b"accept-encoding", b"identity")],
            extensions={"timeout": self._timeouts},
        )
        body = bytearray()
        async with self._connections.send(core_request) as answer:
            if answer.status != 200:
                raise _NoModelsError(f"The upstream answered {answer.status}.")
            if any(name.lower() == b"content-encoding" for name, _ in answer.headers):
                raise _NoModelsError("The upstream's list of models is compressed.")
            async for chunk in answer.aiter_stream():
                body += chunk
                if len(body) > MAX_MODELS_BYTES:
                    raise _NoModelsError(
                        f"The upstream's list of models is longer than {MAX_MODELS_BYTES} bytes."
                    )
        return bytes(body)


class _NoModelsError(Exception):
    """The upstream sent no list of models. The message says why, for the log."""


def _merge_models(models: list[dict[str, object]], body: bytes) -> Response:
    """Return the answer with our models, and then those in the upstream's list.

    Raises:
        _NoModelsError: If the body is not a list of models, or has a value that JSON cannot
            express, such as 1e400.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
        names = {model["id"] for model in models}
        further_models = [model for model in content["data"] if model["id"] not in names]
        return JSONResponse({**content, "object": "list", "data": [*models, *further_models]})
    except (KeyError, TypeError, ValueError):
        raise _NoModelsError("The upstream's answer is not a list of models.") from None


def _account_headers(
    api_key: str | SecretStr | None, access: Access
) -> list[tuple[bytes, bytes]] | None:
    """Return the headers that replace the clients' keys and accounts, or None to keep these."""
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if key is None:
        return [] if access.requires_key else None
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidRequestError(
            "upstream_api_key must be printable ASCII characters without blanks at either end. "
            "Leave it out for no key.",
            param="upstream_api_key",
        )
    if not access.requires_key:
        raise InvalidRequestError(
            "upstream_api_key needs api_key: without one, anyone who reaches the server could use "
            "the upstream's key. Set both, or let clients send the upstream's key themselves.",
            param="upstream_api_key",
        )
    return [(b"authorization", f"Bearer {key}".encode())]


def _websocket_error() -> ImageVariationError:
    error = ImageVariationError(
        "WebSockets are not forwarded. Connect to the upstream directly, or use its HTTP endpoints."
    )
    error.status_code = 501
    return error


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket that the ASGI server has not turned into a plain request."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        # The ASGI server answers 403.
        await WebSocketClose()(scope, receive, send)
        return
    error = _websocket_error()
    body = ErrorResponse.from_exception(error).to_json()
    answer = Response(body, error.status_code, media_type="application/json")
    await WebSocket(scope, receive, send).send_denial_response(answer)
