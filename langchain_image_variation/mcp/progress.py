"""Reports finished images to the host, which shows them as progress."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcp.server.mcpserver import Context

from langchain_image_variation.agents.image_listener import ImageListener

__all__ = ["report_images"]


@contextlib.asynccontextmanager
async def report_images(context: Context[Any, Any] | None) -> AsyncIterator[ImageListener | None]:
    """Yield a listener for the event loop that reports each finished image to the host.

    Args:
        context: The context of the request. Without one, nothing is reported.
    """
    if context is None:
        yield None
        return
    events: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    async def report() -> None:
        while (event := await events.get()) is not None:
            finished, n = event
            await context.report_progress(finished, n, f"{finished} of {n} images")

    task = asyncio.create_task(report())
    try:
        yield lambda finished, n: events.put_nowait((finished, n))
        events.put_nowait(None)
        await task
    finally:
        task.cancel()
