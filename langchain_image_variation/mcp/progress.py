"""Reports finished images to the host, which shows them as progress."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcp.server.mcpserver import Context

from langchain_image_variation.agents.image_listener import ImageListener, await_each

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

    async def report(finished: int, n: int) -> None:
        await context.report_progress(finished, n, f"{finished} of {n} images")

    async with await_each(report) as listener:
        yield listener
