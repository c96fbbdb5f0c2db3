"""Running the app on uvicorn, and ending it so that nobody loses an answer."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server.connection import Connection

__all__ = ["listening", "run_app"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 32 * 1024 * 1024, 8 * 1024 * 1024
_BACKLOG = 2048
_MOST_CONNECTIONS = 1000
_ACCEPTED_AT_ONCE = 16
_UNSENT_IN_SYSTEM = 128 * 1024
_FORCED_EXIT_CHECK = 0.1
"""Seconds between two checks for a second signal while the server shuts down."""


class _Draining(uvicorn.Server):
    """Ends on a signal when what runs is finished; what is new is refused until then.

    A second signal ends it at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Starlette,
        ready: Callable[[str], None],
        patience: float,
    ) -> None:
        super().__init__(config)
        self._state = app.state
        self._ready = ready
        self._patience = patience

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Engines run in these threads, and asyncio has few of its own.
        threads = ThreadPoolExecutor(self._state.turns.workers, thread_name_prefix="engine")
        asyncio.get_running_loop().set_default_executor(threads)
        await super().startup(sockets)
        for listener in sockets or []:
            # asyncio takes one number for how many connections wait and how many it accepts at
            # once, before any of them is looked at and may be closed.
            listener.listen(_BACKLOG)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining:
            self.should_exit = self.force_exit = True
            return
        self._state.draining = True
        # uvicorn raises the signals it has caught once more at its end; this one was answered.
        if sig != signal.SIGTERM:
            self._captured_signals.append(sig)

    async def on_tick(self, counter: int) -> bool:
        turns = self._state.turns
        if self._state.draining and not turns.running and not turns.waiting:
            self.should_exit = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.check(self._patience)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        finishing = asyncio.ensure_future(super().shutdown(sockets))
        while not finishing.done():
            if self.force_exit:
                # From Python 3.12 on, uvicorn's wait for its listeners includes their connections,
                # which it leaves open: answers would still be finished and sent.
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
            await asyncio.wait([finishing], timeout=_FORCED_EXIT_CHECK)
        await finishing
        if self.force_exit:
            # uvicorn leaves the app's lifespan out then. It would be cancelled with a traceback.
            await self.lifespan.shutdown()


def run_app(
    app: Starlette,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    grace: int = 10,
    patience: float = 30.0,
) -> None:
    """Serve until a signal comes: SIGTERM or SIGINT.

    What runs is finished then and what is new is refused with 503; a second signal ends at once.

    Args:
        app: What `create_app` returned.
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.
        ready: Called with the address, once the server listens.
        grace: When the engine is done after a signal, connections have so many seconds to take
            their answers.
        patience: A connection on which the client does not go on, neither sends the head of a
            request nor reads an answer, is closed after so many seconds.

    Raises:
        InvalidRequestError: If the address cannot be listened at, or the app's engine asks this
            very address.
        KeyboardInterrupt: After SIGINT.
    """
    listener = listening(host, port)
    if _leads_to(app.state.engine_url, listener):
        listener.close()
        raise InvalidRequestError(
            "The engine would ask this very server and wait for ever; set base_url (--base-url, or "
            f"OPENAI_BASE_URL) to another, or listen at another port than {port}.",
            param="base_url",
        )
    _keep_freed_memory()
    app.state.access.listen_at(host)
    config = uvicorn.Config(
        app,
        http=partial(Connection, most=_most_connections()),  # type: ignore[arg-type]  # it makes them
        ws="none",
        backlog=_ACCEPTED_AT_ONCE,
        access_log=False,
        # Who calls this has set up the log already.
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        # For whoever does not read his answer, or has begun to send and does not go on.
        timeout_graceful_shutdown=grace,
    )
    with listener:
        _Draining(config, app, ready, patience).run(sockets=[listener])


def _most_connections() -> int:
    """Return how many connections there may be, each of which may have one file open too."""
    if sys.platform == "win32":
        return _MOST_CONNECTIONS
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 4 * _MOST_CONNECTIONS
    files = files if most == resource.RLIM_INFINITY else min(files, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return max(1, min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3))


def _keep_freed_memory() -> None:
    """Let malloc keep 32 MB that were freed.

    By default glibc gives an upload's memory back after each request, and taking it anew costs more
    than reading the form. Other systems have no such setting.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _leads_to(url: str | None, listener: socket.socket) -> bool:
    """Say whether who asks this address reaches that socket."""
    parts = urlsplit(url or "")
    host, port = listener.getsockname()[:2]
    if parts.hostname is None or (parts.port or {"http": 80}.get(parts.scheme, 443)) != port:
        return False
    with suppress(OSError, UnicodeError):
        for family, _, _, _, there in socket.getaddrinfo(parts.hostname, port):
            if host in (there[0], "0.0.0.0", "::") and _is_of_this_machine(family, str(there[0])):
                return True
    return False


def _is_of_this_machine(family: int, address: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.

    Raises:
        InvalidRequestError: If there is no host, or the address cannot be listened at.
    """
    if not host:
        raise InvalidRequestError("host is empty; 0.0.0.0 is all addresses of this machine.")
    host = host.removeprefix("[").removesuffix("]") if ":" in host else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        # The name of a host fails with numbers of its own, below zero.
        reason = os.strerror(number) if number and number > 0 else "no such address or port"
        raise InvalidRequestError(f"Cannot listen at {host}:{port}: {reason}.") from None
    # Connections inherit it. asyncio sets it only for sockets that name their protocol; without it
    # an answer's body waits for the client to acknowledge its head, 40 ms on Linux.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Else the system takes megabytes of an answer, and only says much later that some were read.
    with suppress(AttributeError, OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_IN_SYSTEM)
    return listener
