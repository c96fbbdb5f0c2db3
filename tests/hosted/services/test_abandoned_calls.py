"""Paid images of a tool's call that was cancelled or interrupted: they are saved in any case."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.agents.tool import ImageVariationTool
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import (
    FakeFal,
    FakeImages,
    FakeReplicate,
    FakeService,
    Received,
    Reply,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image."""
    (tmp_path / "cat.png").write_bytes(square_png())
    return tmp_path


@pytest.fixture
def images() -> Iterator[FakeImages]:
    """A fake server for the engine `gpt-image` on loopback."""
    service = FakeImages()
    with service.running():
        yield service


def results(root: Path) -> list[Path]:
    """Return the files of the results."""
    return [*root.glob("variations/*.png")]


def hold(
    service: FakeService, matches: Callable[[Received], bool]
) -> tuple[threading.Event, threading.Event]:
    """Let a service hold some answers back.

    Returns:
        What is set once the first request for one has come, and what lets the service answer.
    """
    answer, arrived, go_on = service.answer, threading.Event(), threading.Event()

    def wait_and_answer(request: Received) -> Reply:
        if matches(request):
            arrived.set()
            go_on.wait(60)
        return answer(request)

    service.answer = wait_and_answer  # type: ignore[method-assign]  # The fake is the test's own.
    return arrived, go_on


async def cancel(
    tool: ImageVariationTool, n: int, moment: threading.Event, go_on: threading.Event
) -> None:
    """Call a tool, cancel the call at a moment, and then let the service or the save go on."""
    run = asyncio.create_task(tool.ainvoke({"image": "cat.png", "n": n, "size": "256x256"}))
    assert await asyncio.to_thread(moment.wait, 30)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    go_on.set()


async def wait_for_results(root: Path, n: int) -> None:
    """Wait until there are as many results."""
    async with asyncio.timeout(30):
        while len(results(root)) < n:
            await asyncio.sleep(0.01)


async def test_a_download_outlasts_a_cancellation(
    replicate: FakeReplicate, open_engine: Any, root: Path
) -> None:
    """Images that are being downloaded when the call is cancelled are saved."""
    is_downloading, go_on = hold(replicate, lambda request: request.parts[0] == "files")
    tool = ImageVariationTool(engine=open_engine("replicate", replicate, seed=1), root_dir=root)
    await cancel(tool, 2, is_downloading, go_on)
    await wait_for_results(root, 2)
    assert replicate.cancelled == []


async def test_the_result_of_a_finished_job_outlasts_a_cancellation(
    fal: FakeFal, open_engine: Any, root: Path
) -> None:
    """An image whose job is completed when the call is cancelled is saved."""
    is_completed, go_on = hold(
        fal, lambda request: request.method == "GET" and not request.path.endswith("/status")
    )
    tool = ImageVariationTool(engine=open_engine("fal", fal, seed=1), root_dir=root)
    await cancel(tool, 1, is_completed, go_on)
    await wait_for_results(root, 1)


async def test_earlier_calls_outlast_a_cancellation(
    images: FakeImages, open_engine: Any, root: Path
) -> None:
    """If a request of several calls is cancelled, the images of the finished calls are saved."""
    is_second, go_on = hold(images, lambda _: len(images.received) == 2)
    engine = open_engine("gpt-image", images, n_per_call=1)
    tool = ImageVariationTool(engine=engine, root_dir=root)
    await cancel(tool, 3, is_second, go_on)
    await wait_for_results(root, 1)
    assert len(images.received) == 2
