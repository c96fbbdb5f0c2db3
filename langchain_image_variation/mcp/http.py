"""Serves over HTTP on this machine: requires a token, and shuts down without losing answers."""

import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.mcp.server import ImageVariationMCPServer
from langchain_image_variation.server.access import is_same_token, read_bearer_token
from langchain_image_variation.server.connection import CROWDED_KEY
from langchain_image_variation.server.run import LimitedServer, limited_config, listen

__all__ = [
    "HOST",
    "IDLE_SECONDS",
    "MIN_TOKEN_LENGTH",
    "PATH",
    "Gate",
    "run_http",
    "transport_security",
]

HOST = "127.0.0.1"
"""The address to listen on. The images belong to a user of this machine."""

PATH = "/mcp"
"""The path of the endpoint."""

MIN_TOKEN_LENGTH = 16
"""The minimum length of a token, in characters. Any program on this machine can try to guess it."""

_QUIET_SECONDS = 0.5
"""A draining server stops after this many seconds without a request. Some clients fetch a tool's
schema only after its answer."""

_DEFAULT_PORT = 80
"""The port that clients leave out of `Host` (RFC 9110, section 7.2)."""

IDLE_SECONDS = 10
"""How many seconds a client may take to send the head of a request or to read 64 KB of its answer.
The clients are programs on this machine."""

_CLOSE_SECONDS = 5
"""How many seconds clients have to read their answers, once all calls are finished."""


class Gate:
    """An ASGI app that lets only requests with a token pass. All others get a 401.

    While there are too many connections, all requests get a 503.

    Args:
        app: The app behind it.
        token: The token that clients send in the header `Authorization`, as "Bearer TOKEN".

    Raises:
        InvalidRequestError: If the token is shorter than `MIN_TOKEN_LENGTH`, or contains anything
            but visible ASCII characters.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        is_visible = token.isascii() and token.isprintable() and " " not in token
        if len(token) < MIN_TOKEN_LENGTH or not is_visible:
            raise InvalidRequestError(
                f"The token must have at least {MIN_TOKEN_LENGTH} visible ASCII characters.",
                param="token",
            )
        self._app = app
        self._token = token
        self._request_count = 0
        self._last_end = 0.0

    def quiet_seconds(self) -> float:
        """Return how long ago the last request ended, or 0 while one is in progress.

        A request is in progress once its whole body has arrived: a client may never send it.
        """
        return 0.0 if self._request_count else time.monotonic() - self._last_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope.get("state", {}).get(CROWDED_KEY):
            refusal = JSONResponse(
                {"error": "The server has too many connections. Try again later."},
                status_code=503,
                headers={"Connection": "close", "Retry-After": "1"},
            )
            await refusal(scope, receive, send)
        elif not self._has_token(scope):
            refusal = JSONResponse(
                {"error": "The token is missing or wrong. Send it as 'Authorization: Bearer ...'."},
                status_code=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
        elif scope["method"] != "POST":
            # A client keeps a GET open for messages that belong to no request.
            await self._app(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request with a body on, and count it while it is in progress."""
        is_counted = False

        async def receive_and_count() -> Message:
            nonlocal is_counted
            message = await receive()
            if not is_counted and not message.get("more_body", False):
                is_counted = True
                self._request_count += 1
            return message

        try:
            await self._app(scope, receive_and_count, send)
        finally:
            self._request_count -= is_counted
            self._last_end = time.monotonic()

    def _has_token(self, scope: Scope) -> bool:
        token = read_bearer_token(Headers(scope=scope))
        return token is not None and is_same_token(token, self._token)


class _Server(LimitedServer):
    """Drains on a signal: it finishes the calls in progress and refuses new ones.

    A second signal ends it immediately.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        refuse_calls: Callable[[], object],
        ready: Callable[[str], object],
    ) -> None:
        super().__init__(config, IDLE_SECONDS)
        self._gate = gate
        self._refuse_calls = refuse_calls
        self._ready = ready
        self._is_draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            self._ready(f"http://{HOST}:{port}{PATH}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_draining:
            self.should_exit = self.force_exit = True
            return
        self._is_draining = True
        self._refuse_calls()
        # When it ends, uvicorn re-raises the signals that it caught. SIGTERM is handled here.
        if sig != signal.SIGTERM:
            self._captured_signals.append(sig)

    async def on_tick(self, counter: int) -> bool:
        if self._is_draining and self._gate.quiet_seconds() > _QUIET_SECONDS:
            # This also ends the streams that belong to no request, which uvicorn logs as errors.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.should_exit = True
        return await super().on_tick(counter)


def run_http(
    server: ImageVariationMCPServer, *, port: int, token: str, ready: Callable[[str], object]
) -> None:
    """Serve on this machine until SIGTERM or SIGINT.

    After the signal, calls in progress are finished and new ones are refused. A second signal ends
    the server immediately.

    A request whose `Host` is not the address of the server gets a 421, and one with another
    `Origin` a 403. So web pages cannot use the server, not even by DNS rebinding, even if they knew
    the token.

    Args:
        server: The server.
        port: The port to listen on. 0 takes a free one.
        token: The token that clients must send; see `Gate`.
        ready: Called with the URL of the server once it listens.

    Raises:
        InvalidRequestError: If the token is not valid, or the server cannot listen on that port.
        KeyboardInterrupt: After SIGINT.
    """
    with listen(HOST, port) as listener:
        port = listener.getsockname()[1]
        app = server.streamable_http_app(
            streamable_http_path=PATH, transport_security=transport_security(port)
        )
        gate = Gate(app, token)
        config = limited_config(gate, proxy_headers=False, timeout_graceful_shutdown=_CLOSE_SECONDS)
        _Server(config, gate, server.refuse_calls, ready).run(sockets=[listener])


def transport_security(port: int) -> TransportSecuritySettings:
    """Return what clients of a port send as `Host`, and as `Origin` if they send one.

    The origin is that of the server. It has no pages, so no web page has this origin.
    """
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    if port == _DEFAULT_PORT:
        hosts += [HOST, "localhost"]
    origins = [f"http://{host}" for host in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
