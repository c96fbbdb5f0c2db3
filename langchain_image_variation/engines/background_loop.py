"""The event loop on which async engines run when they are called synchronously."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from langchain_image_variation.contract import ImagesResponse

if TYPE_CHECKING:
    import asyncio

__all__ = ["run_in_background"]


def run_in_background(answer: Awaitable[ImagesResponse]) -> ImagesResponse:
    """Wait for an async engine from a thread that has no loop, or whose loop must not block.

    Args:
        answer: What the engine's method returned.

    Raises:
        BaseException: If the engine raises it.
    """
    import asyncio

    future = asyncio.run_coroutine_threadsafe(_outcome(answer), _background.loop())
    try:
        outcome = future.result()
    except BaseException:
        future.cancel()
        raise
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def _outcome(answer: Awaitable[ImagesResponse]) -> ImagesResponse | BaseException:
    try:
        return await answer
    except (KeyboardInterrupt, SystemExit) as error:
        # Raised here, they would end the loop that later calls need.
        return error


class _Background:
    """A thread with the one loop on which async engines run when they are called synchronously.

    There is only one, because an engine's connections belong to the loop that opened them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop. The first call, from any thread, starts it."""
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="image-variation", daemon=True
                ).start()
            return self._loop


_background = _Background()


def _replace_background() -> None:
    """Forget the loop in a forked child, which has none of its parent's threads."""
    global _background
    _background = _Background()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_background)
