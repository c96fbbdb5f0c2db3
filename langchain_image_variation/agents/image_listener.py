"""Listeners of the tool, which learn about each finished image."""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias

from langchain_image_variation.engines.context import Progress, ProgressListener

__all__ = ["ImageListener", "await_each", "listen_on_loop", "report_finished_images"]

ImageListener: TypeAlias = Callable[[int, int], None]
"""Called after each finished image with the number of finished images and the number requested."""


def report_finished_images(listener: ImageListener) -> ProgressListener:
    """Return a listener for an engine that passes on finished images only."""
    last_finished = 0

    def listen(progress: Progress) -> None:
        nonlocal last_finished
        if progress.finished > last_finished:
            last_finished = progress.finished
            listener(progress.finished, progress.n)

    return listen


@contextlib.contextmanager
def listen_on_loop(listener: ImageListener | None) -> Iterator[ImageListener | None]:
    """Yield a thread-safe listener that calls another one on the event loop, in order."""
    if listener is None:
        yield None
        return
    loop, context, is_active = asyncio.get_running_loop(), contextvars.copy_context(), True

    def call_listener(finished: int, n: int) -> None:
        if is_active:
            listener(finished, n)

    def schedule(finished: int, n: int) -> None:
        # A cancelled engine may finish an image after the loop was closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call_listener, finished, n, context=context)

    try:
        yield schedule
    finally:
        is_active = False


@contextlib.asynccontextmanager
async def await_each(
    report: Callable[[int, int], Awaitable[object]],
) -> AsyncIterator[ImageListener]:
    """Yield a listener for the event loop whose images an async function reports, in order.

    At the end, all images have been reported. If an error ends the context, the others are dropped.

    Args:
        report: Called with what the listener is called with. What it raises is raised at the end.
    """
    events: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    async def report_events() -> None:
        while (event := await events.get()) is not None:
            await report(*event)

    task = asyncio.create_task(report_events())
    try:
        yield lambda finished, n: events.put_nowait((finished, n))
        events.put_nowait(None)
        await task
    finally:
        task.cancel()
