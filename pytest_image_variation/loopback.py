"""The real app on 127.0.0.1, in a thread.

One server serves any number of tests at once. Each test has its own `LoopbackSession` at its own
base URL, so no test sees the faults or requests of another.
"""

import asyncio
import logging
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import PermissionDeniedError
from langchain_image_variation.server.access import Access
from pytest_image_variation.expectations import UnexpectedRequest
from pytest_image_variation.loopback_session import Apps, LoopbackSession, refuse_unexpected

__all__ = ["Loopback"]

_LOGGERS = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def _forbidden() -> Response:
    error = PermissionDeniedError(
        "A test's server accepts only requests to its own base URL, and none from web pages of "
        "other origins."
    )
    body = ErrorResponse.from_exception(error).to_json()
    return Response(body, error.status_code, media_type="application/json")


class Loopback:
    """A server on a free port of 127.0.0.1, in a thread, until it is closed.

    Use it as a context manager, or call `close`. `view` gives each test its own base URL.

    Raises:
        OSError: If a socket cannot be opened.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="image-variation-")
        self._apps = Apps(Path(self._folder.name))
        self._access = Access(api_key=None, public_url=None)
        self._views: dict[str, LoopbackSession] = {}
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
    def view(self) -> Iterator[LoopbackSession]:
        """Give one test its own base URL while the block runs."""
        key = secrets.token_hex(4)
        view = LoopbackSession(self._apps, f"http://127.0.0.1:{self._port}/{key}/v1")
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
            await refuse_unexpected(error)(scope, receive, send)
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
