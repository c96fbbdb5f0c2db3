"""The real app on 127.0.0.1, in a thread, with a journal and faults on demand.

One server serves any number of tests at once. Each test has its own `View` at its own base URL, so
no test sees the faults or requests of another.
"""

import asyncio
import json
import logging
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import PermissionDeniedError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.access import Access
from pytest_image_variation.expectations import Match, ReceivedRequest, UnexpectedRequest
from pytest_image_variation.forms import Form
from pytest_image_variation.scenarios import Answer, AnswerSource
from pytest_image_variation.session import Session

__all__ = ["Loopback", "View"]

API_KEY = "sk-image-variation-loopback"
"""A key for clients. The server accepts any key."""

_QUEUE = 10_000
_LOGGERS = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")


class View(Session):
    """A test's own view of the loopback server.

    Until a scenario is named, the app answers every request: legal ones with images, others with
    the error that explains what is wrong.
    """

    def __init__(self, apps: "_Apps", base_url: str) -> None:
        super().__init__(base_url, API_KEY)
        self._apps = apps
        self._delay = 0.0

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Answer the next requests with a fault, whatever they contain.

        Args:
            name: A scenario whose kind is "fault", such as "rate_limit".
            times: How many times to play it.

        Raises:
            ValueError: If the fault does not exist, or `times` is not a positive integer.
        """
        self.expectations.fail_next(name, times)

    def delay(self, seconds: float) -> None:
        """Delay every response from now on. 0 ends the delay.

        Raises:
            ValueError: If `seconds` is not a number from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError(f"seconds must be a number, got {type(seconds).__name__}.")
        if not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be from 0 to 3600, got {seconds}.")
        self._delay = float(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: the ASGI entry point."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        form = Form.parse(request.headers.get("content-type"), body)
        received = ReceivedRequest.from_form(
            scope["method"], scope["path"], form, has_key="authorization" in request.headers
        )
        exchange = self.add_to_journal(received, request.headers)

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                # A client that nobody closes would keep its socket open, and Python would warn.
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        try:
            # GET and HEAD download images or list models, which no scenario expects.
            reads = received.method in ("GET", "HEAD")
            match = None if reads else self.expectations.match(received)
        except UnexpectedRequest as error:
            await _bad_request(error)(scope, receive, send_and_close)
            return
        exchange.scenario = None if match is None else match.scenario.name
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._answer(match, body, scope, receive, send_and_close)

    async def _answer(
        self, match: Match | None, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = Answer() if match is None else match.answer
        if answer.source == "table":
            await _table_response(answer)(scope, receive, send)
            return
        app = self._apps[answer.source]
        if answer.error is not None and answer.error.code == "invalid_api_key":
            scope = _with_wrong_key(scope)
        receive = _replay_body(body, receive)
        if answer.nulls or answer.cut:
            start, content = await _collect(app, scope, receive)
            await _send_modified(answer, start, content, send)
        else:
            await app(scope, receive, send)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that starts with a body that was read before."""
    replayed = False

    async def receive_body_first() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body_first


def _with_wrong_key(scope: Scope) -> Scope:
    """Return a request with a wrong key, even if it had none."""
    others = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    return {**scope, "headers": [*others, (b"authorization", b"Bearer wrong")]}


def _bad_request(error: UnexpectedRequest) -> Response:
    return Response(error.to_json(), 400, media_type="application/json")


def _forbidden() -> Response:
    error = PermissionDeniedError(
        "A test's server accepts only requests to its own base URL, and none from web pages of "
        "other origins."
    )
    body = ErrorResponse.from_exception(error).to_json()
    return Response(body, error.status_code, media_type="application/json")


def _table_response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.error is not None:
        headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    return Response(answer.to_bytes(), answer.status, headers)


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return an app's response: the message that starts it, and the whole body."""
    start: Message = {}
    body = b""

    async def collect(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        else:
            body += message.get("body", b"")

    await app(scope, receive, collect)
    return start, body


async def _send_modified(answer: Answer, start: Message, body: bytes, send: Send) -> None:
    if start["status"] == 200 and answer.nulls:
        content = json.loads(body)
        content["data"] = [
            {"b64_json": None, "url": None, "revised_prompt": None, **entry}
            for entry in content["data"]
        ]
        body = json.dumps(content, indent=2).encode() + b"\n"
    headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
    length = (b"content-length", str(len(body)).encode())
    await send({**start, "headers": [*headers, length]})
    content = body[: len(body) // 2] if answer.cut else body
    # uvicorn closes the connection if the app returns before its response is complete.
    await send({"type": "http.response.body", "body": content, "more_body": answer.cut})


class _Apps:
    """The apps behind the scenarios, each created on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, source: AnswerSource) -> ASGIApp:
        match source:
            case "app with another key":
                return self._locked_app
            case "app with expired URLs":
                return self._expiring_app
        return self._open_app

    @cached_property
    def _open_app(self) -> ASGIApp:
        return create_app(InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files")

    @cached_property
    def _locked_app(self) -> ASGIApp:
        key = secrets.token_hex()
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", api_key=key
        )

    @cached_property
    def _expiring_app(self) -> ASGIApp:
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", url_ttl=0.001
        )


class Loopback:
    """A server on a free port of 127.0.0.1, in a thread, until it is closed.

    Use it as a context manager, or call `close`. `view` gives each test its own base URL.

    Raises:
        OSError: If a socket cannot be opened.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="image-variation-")
        self._apps = _Apps(Path(self._folder.name))
        self._access = Access(api_key=None, public_url=None)
        self._views: dict[str, View] = {}
        try:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        except BaseException:
            self._folder.cleanup()
            raise
        # Without this, a response's body waits until the client acknowledges the headers. asyncio
        # sets it too, but not for sockets from `create_server`.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = self._listener.getsockname()[1]
        self._server = _Server(self._route)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="loopback", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(30) or not self._server.started:
            self.close()
            raise OSError("The loopback server did not start. See uvicorn's log for the reason.")

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give one test its own base URL while the block runs."""
        key = secrets.token_hex(4)
        view = View(self._apps, f"http://127.0.0.1:{self._port}/{key}/v1")
        self._views[key] = view
        try:
            yield view
        finally:
            del self._views[key]

    def close(self) -> None:
        """Stop the server, close its connections, and remove the files behind image URLs."""
        self._server.stop()
        self._thread.join(10)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the view that its path begins with."""
        try:
            # A web page whose name was made to resolve to this machine (DNS rebinding) is refused.
            self._access.check_host(Request(scope))
            self._access.check(Request(scope))
        except PermissionDeniedError:
            await _forbidden()(scope, receive, send)
            return
        _, key, rest = f"{scope['path']}//".split("/", 2)
        view = self._views.get(key)
        if view is None:
            error = UnexpectedRequest("The test that this base URL belonged to has ended.")
            await _bad_request(error)(scope, receive, send)
            return
        path = f"/{rest.removesuffix('//').removesuffix('/')}"
        scope = {**scope, "path": path, "raw_path": path.encode(), "root_path": f"/{key}"}
        await view(scope, receive, send)


class _Server(uvicorn.Server):
    """A uvicorn server that stops without delay."""

    def __init__(self, app: ASGIApp) -> None:
        # No log_config: it would change the logging of the program under test.
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        thread = threading.get_ident()

        def is_unexpected(record: logging.LogRecord) -> bool:
            # When the server stops, it cancels responses that nobody waits for anymore.
            if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
                return False
            # The scenario cut_body works by returning before the response is complete.
            return record.thread != thread or record.exc_info is not None

        loggers = [logging.getLogger(name) for name in _LOGGERS]
        for logger in loggers:
            logger.addFilter(is_unexpected)
        try:
            asyncio.run(self.serve(sockets))
        finally:
            for logger in loggers:
                logger.removeFilter(is_unexpected)
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    async def main_loop(self) -> None:
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # A client may have its response while the app still closes the file that it sent.
        await self._wait_for_tasks(0.2)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._wait_for_tasks(5)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # A transport closes in the next iteration of the loop, and reports it in the one after.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _wait_for_tasks(self, seconds: float) -> None:
        """Wait until all requests are answered, but at most for this long."""
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=seconds)

    def stop(self) -> None:
        """Stop the server. Safe to call from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop is closed already.
                self._loop.call_soon_threadsafe(self._stopping.set)
