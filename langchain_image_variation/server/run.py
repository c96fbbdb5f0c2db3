"""Running the app on uvicorn, and ending it so that nobody loses an answer."""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["listening", "run_app"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 32 * 1024 * 1024, 8 * 1024 * 1024


class _Draining(uvicorn.Server):
    """Ends on a signal when what runs is finished; what is new is refused until then.

    A second signal ends it at once.
    """

    def __init__(
        self, config: uvicorn.Config, app: Starlette, ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._state = app.state
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Engines run in these threads, and asyncio has few of its own.
        threads = ThreadPoolExecutor(self._state.turns.workers, thread_name_prefix="engine")
        asyncio.get_running_loop().set_default_executor(threads)
        await super().startup(sockets)
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
        return await super().on_tick(counter)


def run_app(
    app: Starlette, *, host: str, port: int, ready: Callable[[str], None], grace: int = 10
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

    Raises:
        InvalidRequestError: If the address cannot be listened at.
        KeyboardInterrupt: After SIGINT.
    """
    listener = listening(host, port)
    _keep_freed_memory()
    app.state.loopback = listener.getsockname()[0] in ("127.0.0.1", "::1")
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=30,
        # For whoever does not read his answer, or has begun to send and does not go on.
        timeout_graceful_shutdown=grace,
    )
    with listener:
        _Draining(config, app, ready).run(sockets=[listener])


def _keep_freed_memory() -> None:
    """Let malloc keep 32 MB that were freed.

    By default glibc gives an upload's memory back after each request, and taking it anew costs more
    than reading the form. Other systems have no such setting.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.

    Raises:
        InvalidRequestError: If the address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        # The name of a host fails with numbers of its own, below zero.
        reason = os.strerror(number) if number and number > 0 else "no such address or port"
        raise InvalidRequestError(f"Cannot listen at {host}:{port}: {reason}.") from None
    # Connections inherit it. asyncio sets it only for sockets that name their protocol; without it
    # an answer's body waits for the client to acknowledge its head, 40 ms on Linux.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
