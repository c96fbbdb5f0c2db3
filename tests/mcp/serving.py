"""Servers for tests, and engines that wait or fail."""

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from tests.extras import skip_without

skip_without("mcp_types")

from mcp import Client  # noqa: E402  # not without the extra
from mcp_types import CallToolResult, ImageContent, TextContent  # noqa: E402

from langchain_image_variation.mcp.server import ImageVariationMCPServer  # noqa: E402

__all__ = [
    "KEY",
    "TOOL",
    "FailingEngine",
    "PatientEngine",
    "StubbornEngine",
    "check_clean",
    "create",
    "serve",
    "text",
    "thumbnails",
]

KEY = "sk-verysecretkey"
TOOL = "create_image_variations"


class PatientEngine:
    """An engine that waits until it is released or cancelled."""

    def __init__(self) -> None:
        self.calls = 0
        self.was_cancelled = threading.Event()
        self.started = threading.Event()
        self.released = threading.Event()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Wait, and then answer as the engine `instant` does."""
        is_cancelled, report = cancellation(), progress_reporter()
        self.calls += 1
        report.image_finished()
        self.started.set()
        while not self.released.wait(0.01):
            if is_cancelled():
                self.was_cancelled.set()
                raise RuntimeError("cancelled")
        return InstantEngine().create_variation(request)


class StubbornEngine:
    """An engine that goes on although its call was cancelled, until it is released."""

    def __init__(self) -> None:
        self.calls = 0
        self.released = threading.Event()
        self._lock = threading.Lock()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Wait, and then answer as the engine `instant` does."""
        with self._lock:
            self.calls += 1
        assert self.released.wait(60)
        return InstantEngine().create_variation(request)


class FailingEngine:
    """An engine that raises an error.

    Args:
        error: The error.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail."""
        raise self.error


def serve(
    root: Path, engine: Any = "instant", engines: Iterable[Any] = (), **options: Any
) -> ImageVariationMCPServer:
    """Return a server of a folder. Options are those of the server or of the tool."""
    names = ("thumbnail", "max_thumbnail_base64")
    ours = {name: options.pop(name) for name in names if name in options}
    settings = ToolSettings(engine=engine, root_dir=root, **options)
    return ImageVariationMCPServer(settings, engines=engines, **ours)


async def create(
    server: ImageVariationMCPServer, image: object = "cat.png", **arguments: Any
) -> CallToolResult:
    """Call the tool for small images."""
    async with Client(server) as client:
        return await client.call_tool(TOOL, {"image": image, "size": "256x256", **arguments})


def check_clean(text: str, root: Path) -> None:
    """Check that a text has no key, no image data and no absolute path."""
    assert KEY not in text
    assert not re.search(r"[A-Za-z0-9+=]{60}", text)
    assert str(root) not in text


def text(answer: CallToolResult) -> str:
    """Return the text of an answer."""
    block = answer.content[0]
    assert isinstance(block, TextContent)
    return block.text


def thumbnails(answer: CallToolResult) -> list[str]:
    """Return the images of an answer, in base64."""
    images = [block for block in answer.content[1:] if isinstance(block, ImageContent)]
    assert len(images) == len(answer.content) - 1
    assert all(image.mime_type == "image/jpeg" for image in images)
    return [image.data for image in images]
