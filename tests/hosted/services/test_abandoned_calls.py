"""Paid images of a tool's call that was cancelled or interrupted: they are saved in any case."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.instant import InstantEngine
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


class Watched(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory. The test decides what happens before an image is written."""

    protocol = "watched"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before_write: ClassVar[Callable[[], object]]

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **options: Any) -> None:
        """Write a file."""
        if value.startswith(b"\x89PNG"):
            type(self).before_write()
        super().pipe_file(path, value, *arguments, **options)

    @classmethod
    def count_images(cls) -> int:
        """Return how many images were written."""
        return sum(name.endswith(".png") for name in cls.store)


@pytest.fixture
def watched() -> type[Watched]:
    """Register an empty file system."""
    fsspec.register_implementation("watched", Watched, clobber=True)
    Watched.store.clear()
    return Watched


class HostedAsyncEngine:
    """An async engine with a server, which answers at once."""

    base_url = "https://images.example/v1"

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer as the engine `instant` does."""
        return InstantEngine().create_variation(request)


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


@pytest.mark.parametrize("name", ["fal", "async"])
async def test_a_cancellation_does_not_divide_a_save(
    fal: FakeFal, open_engine: Any, root: Path, watched: type[Watched], name: str
) -> None:
    """If a call is cancelled while its images are saved, all of them are saved."""
    is_saving, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_saving.set()
        go_on.wait(60)

    watched.before_write = staticmethod(wait)
    engine = open_engine("fal", fal, seed=1) if name == "fal" else HostedAsyncEngine()
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir="watched://results")
    await cancel(tool, 3, is_saving, go_on)
    async with asyncio.timeout(30):
        while watched.count_images() < 3:
            await asyncio.sleep(0.01)


async def test_a_busy_loop_does_not_delay_the_save(
    fal: FakeFal, open_engine: Any, root: Path
) -> None:
    """Images are saved before the loop takes the answer, so a later cancellation loses none."""
    tool = ImageVariationTool(engine=open_engine("fal", fal, seed=1), root_dir=root)
    run = asyncio.create_task(tool.ainvoke({"image": "cat.png", "n": 2, "size": "256x256"}))
    while not fal.received:
        await asyncio.sleep(0.01)
    end = time.monotonic() + 30
    while len(results(root)) < 2 and time.monotonic() < end:
        time.sleep(0.01)  # The loop must be busy.
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(results(root)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_does_not_divide_a_save(
    fal: FakeFal, open_engine: Any, root: Path, watched: type[Watched]
) -> None:
    """If Ctrl-C comes while the images of a call are saved, all of them are saved."""
    interrupts = iter([signal.SIGINT])

    def interrupt() -> None:
        for signal_number in interrupts:
            os.kill(os.getpid(), signal_number)

    watched.before_write = staticmethod(interrupt)
    tool = ImageVariationTool(
        engine=open_engine("fal", fal, seed=1), root_dir=root, output_dir="watched://results"
    )
    with pytest.raises(KeyboardInterrupt):
        tool.invoke({"image": "cat.png", "n": 3, "size": "256x256"})
    assert watched.count_images() == 3


def tool_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the tool logged."""
    return [one for one in caplog.records if one.name == "langchain_image_variation.tool"]


def end_after_one(fal: FakeFal, end: Callable[[], object]) -> None:
    """Let the second of two jobs run on, and do something once the first one has its result."""
    fal.endless_seeds = {2}
    answer = fal.answer

    def answer_or_end(request: Received) -> Reply:
        has_result = any(not path.endswith("/status") for path in fal.paths("GET"))
        if has_result and len(fal.paths("POST")) == 2 and not fal.is_stopping.is_set():
            fal.is_stopping.set()
            end()
        return answer(request)

    fal.answer = answer_or_end  # type: ignore[method-assign]  # The fake is the test's own.


def block(folder: Path) -> None:
    """Put a file in the place of a folder of results."""
    for path in [*folder.iterdir()]:
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("is_blocked", [False, True])
def test_an_interrupted_call_logs_what_is_saved(
    fal: FakeFal,
    open_engine: Any,
    root: Path,
    is_blocked: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After Ctrl-C, the log names the saved images, or says why they could not be saved."""

    def interrupt() -> None:
        if is_blocked:
            block(root / "variations")
        os.kill(os.getpid(), signal.SIGINT)

    end_after_one(fal, interrupt)
    tool = ImageVariationTool(
        engine=open_engine("fal", fal, seed=1), root_dir=root, raise_on=(), cache=True
    )
    with caplog.at_level(logging.INFO, "langchain_image_variation.tool"):
        with pytest.raises(CallInterrupt):
            tool.invoke({"image": "cat.png", "n": 2, "size": "256x256"})
    [record] = tool_records(caplog)
    if is_blocked:
        assert record.levelname == "ERROR"
        assert "The tool failed with OutputError" in record.getMessage()
        return
    [result] = results(root)
    assert record.levelname == "INFO"
    assert record.getMessage().endswith(f"because they are paid for: {result.stem}.")
    # An incomplete result is not what the next call gets.
    assert len(fal.paths("POST")) == 2
    fal.endless_seeds = set()
    tool.invoke({"image": "cat.png", "n": 2, "size": "256x256"})
    assert len(fal.paths("POST")) == 4


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_a_cancelled_call_logs_what_is_saved(
    fal: FakeFal,
    open_engine: Any,
    root: Path,
    is_blocked: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a cancellation, the log names the saved images, or says why they were not saved."""
    has_result, go_on = threading.Event(), threading.Event()

    def cancel_now() -> None:
        has_result.set()
        go_on.wait(60)
        if is_blocked:
            block(root / "variations")

    end_after_one(fal, cancel_now)
    tool = ImageVariationTool(engine=open_engine("fal", fal, seed=1), root_dir=root)
    with caplog.at_level(logging.INFO, "langchain_image_variation.tool"):
        await cancel(tool, 2, has_result, go_on)
        async with asyncio.timeout(30):
            while not tool_records(caplog):
                await asyncio.sleep(0.01)
    [record] = tool_records(caplog)
    if is_blocked:
        assert record.levelname == "ERROR"
        assert "The tool failed with OutputError" in record.getMessage()
    else:
        [result] = results(root)
        assert record.getMessage().endswith(f"because they are paid for: {result.stem}.")
