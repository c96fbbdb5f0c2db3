"""Runs the app on uvicorn, and shuts it down without losing an answer."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server.connection import Connection

__all__ = ["MAX_CONNECTIONS", "LimitedServer", "limited_config", "listen", "run_app"]

_BACKLOG = 2048
MAX_CONNECTIONS = 1000
_MAX_ACCEPTS = 16
"""How many connections asyncio accepts before it looks at any of them."""
_FREED_BYTES = 16 * 1024 * 1024
_MAX_UNSENT_BYTES = 128 * 1024
"""The maximum number of bytes of an answer that wait in the operating system."""
_EXIT_CHECK = 0.1
"""Seconds between two checks for a second signal while the server shuts down."""
_CANCEL_SECONDS = 5
"""How long requests may take to end once their connections are closed."""

_MAX_PORT = 65_535
_OTHER_HOST = "Pass --host 127.0.0.1 for this machine only, or 0.0.0.0 for all its addresses."
_NEXT_STEPS = {
    errno.EADDRINUSE: "Stop the program that uses it, or choose another --port.",
    errno.EACCES: "Choose a --port from 1024 to 65535, which any user may open.",
    **dict.fromkeys((0, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL), _OTHER_HOST),
}
"""What to do if the server cannot listen, by the number of the error. 0 is an unknown host."""


class LimitedServer(uvicorn.Server):
    """Closes connections whose clients are idle.

    Args:
        config: The configuration, from `limited_config`.
        idle_timeout: How many seconds a client may be idle; see `Connection.close_if_idle`.
    """

    def __init__(self, config: uvicorn.Config, idle_timeout: float) -> None:
        super().__init__(config)
        self._idle_timeout = idle_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        for listener in sockets or []:
            # asyncio has one setting for the length of the queue and for how many connections it
            # accepts before it looks at any of them. The latter must be small.
            listener.listen(_BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        """Close idle connections. Return whether the server should end."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.close_if_idle(self._idle_timeout)
        return await super().on_tick(counter)


def limited_config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return the configuration of a server whose connections are limited; see `Connection`.

    Args:
        app: The app. It must refuse requests whose state has `CROWDED_KEY`.
        options: Further options of `uvicorn.Config`.
    """
    return uvicorn.Config(
        app,
        http=partial(Connection, max_connections=_max_connections()),  # type: ignore[arg-type]  # as its class
        ws="none",
        backlog=_MAX_ACCEPTS,
        access_log=False,
        # The caller has configured the log.
        log_config=None,
        server_header=False,
        **options,
    )


class _Server(LimitedServer):
    """Drains on a signal: it finishes the calls in progress and refuses new ones.

    A second signal ends it immediately.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Starlette,
        ready: Callable[[str], None],
        shutdown_timeout: float,
        idle_timeout: float,
    ) -> None:
        super().__init__(config, idle_timeout)
        self._state = app.state
        self._ready = ready
        self._shutdown_timeout = shutdown_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Engines run in these threads. By default, asyncio may start fewer.
        threads = ThreadPoolExecutor(self._state.turns.workers, thread_name_prefix="engine")
        asyncio.get_running_loop().set_default_executor(threads)
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.is_draining:
            self.should_exit = self.force_exit = True
            return
        self._state.is_draining = True
        # When it ends, uvicorn re-raises the signals that it caught. SIGTERM is handled here.
        if sig != signal.SIGTERM:
            self._captured_signals.append(sig)

    async def on_tick(self, counter: int) -> bool:
        turns, upstream = self._state.turns, self._state.upstream
        is_busy = turns.running_count or turns.waiting_count or (upstream and upstream.running)
        if self._state.is_draining and not is_busy:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._shutdown_timeout
        shutdown_task = asyncio.ensure_future(super().shutdown(sockets))
        while not shutdown_task.done():
            if self.force_exit or clock() > deadline:
                # Since Python 3.12, uvicorn also waits for open connections here, and would finish
                # and send the answers. It cancels late ones with a traceback.
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
            await asyncio.wait([shutdown_task], timeout=_EXIT_CHECK)
        await shutdown_task
        if self.force_exit:
            # After a second signal, uvicorn skips this, and cancels the lifespan with a traceback.
            await self.lifespan.shutdown()


def run_app(
    app: Starlette,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    shutdown_timeout: int = 10,
    idle_timeout: float = 30.0,
) -> None:
    """Serve an app until SIGTERM or SIGINT.

    After the signal, calls in progress are finished and new ones get a 503. A second signal ends
    the server immediately.

    Args:
        app: The app, from `create_app`.
        host: The address to listen on.
        port: The port to listen on. 0 takes a free one.
        ready: Called with the server's address once it listens.
        shutdown_timeout: How many seconds clients have to read their answers, once the engine has
            finished after a signal.
        idle_timeout: How many seconds a client may be idle before its connection is closed. An idle
            client neither sends the head of a request nor reads its answer.

    Raises:
        InvalidRequestError: If the server cannot listen on that address, or if the engine or the
            upstream would be the server itself.
        KeyboardInterrupt: After SIGINT.
    """
    listener = listen(host, port)
    if _reaches(app.state.engine_url, listener):
        listener.close()
        raise InvalidRequestError(
            "The engine would call this server itself and wait forever. Set base_url or "
            f"OPENAI_BASE_URL to another server, or listen on a port other than {port}.",
            param="base_url",
        )
    if app.state.upstream is not None and _reaches(app.state.upstream.url, listener):
        listener.close()
        raise InvalidRequestError(
            "The upstream is this server itself. Set --upstream to another server, or listen on a "
            f"port other than {port}.",
            param="upstream",
        )
    _keep_freed_memory()
    app.state.access.listen_at(host)
    config = limited_config(
        app,
        # By default, uvicorn lets any program on this machine claim another address.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=shutdown_timeout + _CANCEL_SECONDS,
    )
    with listener:
        _Server(config, app, ready, shutdown_timeout, idle_timeout).run(sockets=[listener])


def _max_connections() -> int:
    """Return how many connections the limit on open files allows. Each may have one file open."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 4 * MAX_CONNECTIONS
    files = files if hard_limit == resource.RLIM_INFINITY else min(files, hard_limit)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard_limit))
    return max(1, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))


def _keep_freed_memory() -> None:
    """Let malloc keep up to 32 MB of freed memory.

    Otherwise glibc returns the memory of each upload to the system, and getting it again costs more
    than reading the form. Freeing a large block raises the limit to twice the size of the block:
    see M_MMAP_THRESHOLD in mallopt(3). On other systems this has no effect.
    """
    bytes(_FREED_BYTES)


def _reaches(url: str | None, listener: socket.socket) -> bool:
    """Return whether a call to this URL would reach that socket."""
    parts = urlsplit(url or "")
    host, port = listener.getsockname()[:2]
    if parts.hostname is None or (parts.port or {"http": 80}.get(parts.scheme, 443)) != port:
        return False
    with suppress(OSError, UnicodeError):
        for family, _, _, _, peer in socket.getaddrinfo(parts.hostname, port):
            if host in (peer[0], "0.0.0.0", "::") and _is_local(family, str(peer[0])):
                return True
    return False


def _is_local(family: int, address: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: The address to listen on.
        port: The port to listen on. 0 takes a free one.

    Raises:
        InvalidRequestError: If the host is empty, if the port is out of range, or if the server
            cannot listen on that address.
    """
    if not host:
        raise InvalidRequestError(
            "host must not be empty. Use 0.0.0.0 to listen on all addresses of this machine."
        )
    if not 0 <= port <= _MAX_PORT:
        raise InvalidRequestError(f"port must be from 0 to {_MAX_PORT}, got {port}.")
    host = host.removeprefix("[").removesuffix("]") if ":" in host else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # A failed lookup of a host name has its own error numbers, which are negative.
        number = max(error.errno or 0, 0)
        reason = os.strerror(number) if number else "no such address"
        message = f"Cannot listen on {host}:{port}: {reason}. {_NEXT_STEPS.get(number, '')}"
        raise InvalidRequestError(message.rstrip()) from None
    # Connections inherit this. asyncio sets it only for sockets that name their protocol. Without
    # it, the body of an answer waits until the client has acknowledged the head, 40 ms on Linux.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Otherwise the system buffers megabytes of an answer, and reports late that some were read.
    with suppress(AttributeError, OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
    return listener
