"""The real app on 127.0.0.1, in a thread, with a journal and faults on demand.

One server serves any number of tests at once: each has a `View` of its own under an address of its
own, so that no test sees another's faults or requests.
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
from langchain_image_variation.server import create_app
from pytest_image_variation.expectations import Asked, Play, Unexpected
from pytest_image_variation.forms import Form
from pytest_image_variation.scenarios import Answer, Maker
from pytest_image_variation.session import Session

__all__ = ["Loopback", "View"]

API_KEY = "sk-image-variation-loopback"
"""A key to send; the server takes any."""

_QUEUE = 10_000
_LOGGERS = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")


class View(Session):
    """A test's own view of a server.

    As long as no scenario is asked for, the server answers any request as the app does: legal ones
    with pictures, others with the error that says what is wrong.
    """

    def __init__(self, apps: "_Apps", base_url: str) -> None:
        super().__init__(base_url, API_KEY)
        self._apps = apps
        self._delay = 0.0

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Answer the next requests with a fault, whatever they ask.

        Args:
            name: A scenario whose kind is "fault", such as "rate_limit".
            times: How often.

        Raises:
            ValueError: If there is no such fault, or `times` is no whole number from 1.
        """
        self.expectations.fail_next(name, times)

    def delay(self, seconds: float) -> None:
        """Let every answer from now on wait so long; 0 ends it.

        Raises:
            ValueError: If that is no number of seconds from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError(f"seconds must be a number, got {type(seconds).__name__}.")
        if not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be from 0 to 3600, got {seconds}.")
        self._delay = float(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        form = Form.parse(request.headers.get("content-type"), body)
        asked = Asked.of(
            scope["method"], scope["path"], form, has_key="authorization" in request.headers
        )
        exchange = self.enter(asked, request.headers)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                # A client that is never closed would keep its socket, and Python warns of that.
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        try:
            # Reading what was given out is no request for pictures.
            play = None if asked.method in ("GET", "HEAD") else self.expectations.take(asked)
        except Unexpected as error:
            await _refused(error)(scope, receive, marked)
            return
        exchange.scenario = None if play is None else play.scenario.name
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._answer(play, body, scope, receive, marked)

    async def _answer(
        self, play: Play | None, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = Answer() if play is None else play.answer
        if answer.made_by == "table":
            await _from_table(answer)(scope, receive, send)
            return
        app = self._apps[answer.made_by]
        if answer.error is not None and answer.error.code == "invalid_api_key":
            scope = _with_a_key(scope)
        again = _again(body, receive)
        if answer.nulls or answer.cut:
            start, made = await _collected(app, scope, again)
            await _changed(answer, start, made, send)
        else:
            await app(scope, again, send)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _with_a_key(scope: Scope) -> Scope:
    """Return a request that has some key, so that it can be wrong."""
    others = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    return {**scope, "headers": [*others, (b"authorization", b"Bearer wrong")]}


def _refused(error: Unexpected) -> Response:
    return Response(error.to_json(), 400, media_type="application/json")


def _from_table(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.error is not None:
        headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    return Response(answer.to_bytes(), answer.status, headers)


async def _collected(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return what an app answers: the message that starts it, and the whole body."""
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


async def _changed(answer: Answer, start: Message, body: bytes, send: Send) -> None:
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
    sent = body[: len(body) // 2] if answer.cut else body
    # uvicorn closes the connection of an app that ends before its answer does.
    await send({"type": "http.response.body", "body": sent, "more_body": answer.cut})


class _Apps:
    """The apps that answer, each made when it is needed first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, maker: Maker) -> ASGIApp:
        match maker:
            case "app with another key":
                return self._locked
            case "app whose addresses expire at once":
                return self._expiring
        return self._open

    @cached_property
    def _open(self) -> ASGIApp:
        return create_app(InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files")

    @cached_property
    def _locked(self) -> ASGIApp:
        key = secrets.token_hex()
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", api_key=key
        )

    @cached_property
    def _expiring(self) -> ASGIApp:
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", url_ttl=0.001
        )


class Loopback:
    """A server on a free port of 127.0.0.1, in a thread, for as long as it is open.

    Use it as a context manager, or call `close`. `view` gives each test an address of its own.

    Raises:
        OSError: If no socket may be opened.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="image-variation-")
        self._apps = _Apps(Path(self._folder.name))
        self._views: dict[str, View] = {}
        try:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        except BaseException:
            self._folder.cleanup()
            raise
        # Else the body of an answer waits for the client to acknowledge its head. asyncio does the
        # same, but not for sockets that come from `create_server`.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = self._listener.getsockname()[1]
        self._server = _Server(self._route)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="loopback", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(30) or not self._server.started:
            self.close()
            raise OSError("The server did not start; what it raised is in the log of uvicorn.")

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give an address of its own to one test, while the block runs."""
        key = secrets.token_hex(4)
        view = View(self._apps, f"http://127.0.0.1:{self._port}/{key}/v1")
        self._views[key] = view
        try:
            yield view
        finally:
            del self._views[key]

    def close(self) -> None:
        """Stop serving. Connections are closed, and pictures given as addresses are removed."""
        self._server.end()
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
        """Pass a request on to the view whose name its path begins with."""
        _, key, rest = f"{scope['path']}//".split("/", 2)
        view = self._views.get(key)
        if view is None:
            over = Unexpected("The test that this address belonged to is over.")
            await _refused(over)(scope, receive, send)
            return
        path = f"/{rest.removesuffix('//').removesuffix('/')}"
        below = {**scope, "path": path, "raw_path": path.encode(), "root_path": f"/{key}"}
        await view(below, receive, send)


class _Server(uvicorn.Server):
    """uvicorn, but it ends as soon as it is told to."""

    def __init__(self, app: ASGIApp) -> None:
        # Its own logging settings would change those of an app that the tests are about.
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

        def elsewhere(record: logging.LogRecord) -> bool:
            # An answer that nobody waits for any more ends with the server.
            if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
                return False
            # An app that ends before its answer does is what a cut body is made of.
            return record.thread != thread or record.exc_info is not None

        loggers = [logging.getLogger(name) for name in _LOGGERS]
        for logger in loggers:
            logger.addFilter(elsewhere)
        try:
            asyncio.run(self.serve(sockets))
        finally:
            for logger in loggers:
                logger.removeFilter(elsewhere)
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    async def main_loop(self) -> None:
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # A client may have its answer while the file that was sent is still being closed.
        await self._ended(0.2)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._ended(5)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # A transport is closed in the next turn of the loop, and says so in the one after.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _ended(self, seconds: float) -> None:
        """Wait until no request is answered any more, but not for longer."""
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=seconds)

    def end(self) -> None:
        """Stop, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # It has ended already.
                self._loop.call_soon_threadsafe(self._over.set)
