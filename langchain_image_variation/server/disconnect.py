"""Cancels a call when its client disconnects, without waiting for the call to end."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

__all__ = ["cancel_on_disconnect", "cancel_without_waiting"]

_T = TypeVar("_T")

_UNWATCHED_SECONDS = 0.05
"""How long a call runs before its client is watched. Most calls end sooner, and watching would slow
them down."""

# The event loop itself keeps only weak references to its tasks.
_tasks: set[asyncio.Task[Any]] = set()


@contextmanager
def cancel_on_disconnect(
    request: Request, *, body_ended: anyio.Event | None = None
) -> Iterator[None]:
    """Cancel the block if the client disconnects.

    Args:
        request: The client's request.
        body_ended: Set once the body has been read. None if it was read before.

    Raises:
        ClientDisconnect: If the block was cancelled.
    """
    loop = asyncio.get_running_loop()
    watchers: list[asyncio.Task[None]] = []

    def start_watching() -> None:
        watchers.append(loop.create_task(_cancel_after_disconnect(request, body_ended, scope)))

    with anyio.CancelScope() as scope:
        timer = loop.call_later(_UNWATCHED_SECONDS, start_watching)
        try:
            yield
        finally:
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()
    if scope.cancelled_caught:
        raise ClientDisconnect


async def cancel_without_waiting(work: Coroutine[Any, Any, _T]) -> _T:
    """Run some work. If the caller is cancelled, cancel the work but do not wait for it to end."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    try:
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            # It may end with another error, which asyncio would log.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise
        return task.result()
    finally:
        # An error's frames would hold the task, which holds the error.
        del task


async def _cancel_after_disconnect(
    request: Request, body_ended: anyio.Event | None, scope: anyio.CancelScope
) -> None:
    if body_ended is not None:
        await body_ended.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
