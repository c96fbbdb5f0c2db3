"""What an agent's tool pays for, and what it says about the cost."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.call import call_tool_async
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.exceptions import BillingLimitError
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import FakeFal, FakeRecraft, Received, Reply


def call(tool: ImageVariationTool, n: int, image: str = "cat.png") -> Any:
    """Call the tool as an agent does."""
    arguments = {"image": image, "n": n, "size": "256x256"}
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two images."""
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / f"{name}.png").write_bytes(square_png(32 + index))
    return tmp_path


def test_a_tool_stops_at_its_limit(fal: FakeFal, open_engine: Any, root: Path) -> None:
    """A tool makes no billed call above the limit, and a repeated call pays for nothing."""
    engine = open_engine("fal", fal, seed=1, max_billed_calls=3)
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir=root / "results", cache=True)
    first = call(tool, 2)
    again = call(tool, 2)
    assert len(fal.paths("POST")) == 2
    assert again.artifact["cached"]
    assert "usage_metadata" not in again.artifact
    assert first.artifact["usage_metadata"] == {"billed_calls": 2}
    with pytest.raises(BillingLimitError, match="used up") as caught:
        call(tool, 2, "dog.png")
    assert "2 of the 3 that max_billed_calls allows" in str(caught.value.__cause__)
    assert len(fal.paths("POST")) == 2
    call(tool, 1, "dog.png")
    assert len(fal.paths("POST")) == 3


def test_a_tool_says_what_it_cost(recraft: FakeRecraft, open_engine: Any, root: Path) -> None:
    """The artifact and the text have what Recraft says that it charged."""
    engine = open_engine("recraft", recraft)
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir=root / "results")
    message = call(tool, 7)
    assert message.artifact["usage_metadata"] == {"billed_calls": 2, "credits": 80}
    assert "Took 2 billed calls to Recraft. Recraft charged 80 credits." in message.content


@pytest.mark.parametrize("content", ["text", "thumbnail", "blocks"])
def test_a_tool_keeps_what_succeeds(
    fal: FakeFal, open_engine: Any, root: Path, content: Any
) -> None:
    """If one of three images fails, the model gets the others, and reads that one is missing."""
    fal.faults.append(Reply(400, {"detail": "Secret reason."}))
    engine = open_engine("fal", fal, seed=1)
    tool = ImageVariationTool(
        engine=engine, root_dir=root, output_dir=root / "results", cache=True, content=content
    )
    message = call(tool, 3)
    handles = [image["handle"] for image in message.artifact["images"]]
    assert len(handles) == 2
    assert sorted(path.stem for path in (root / "results").glob("*.png")) == sorted(handles)
    text = message.content if isinstance(message.content, str) else message.content[0]["text"]
    assert text.startswith(f"Made 2 variations of cat, 256x256 pixels: {', '.join(handles)}.")
    assert "1 of 3 variations failed: " in text
    assert "Secret reason" not in text
    # An incomplete result is not what the next call gets.
    assert len(call(tool, 3).artifact["images"]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_tool_saves_what_is_finished(
    fal: FakeFal, open_engine: Any, root: Path
) -> None:
    """If Ctrl-C interrupts a call of the tool, the finished image is among the results."""
    fal.endless_seeds = {2}
    answer = fal.answer

    def interrupt(request: Received) -> Reply:
        has_result = any(not path.endswith("/status") for path in fal.paths("GET"))
        if has_result and len(fal.paths("POST")) == 2 and not fal.is_stopping.is_set():
            fal.is_stopping.set()
            os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    fal.answer = interrupt  # type: ignore[method-assign]  # The fake is the test's own.
    engine = open_engine("fal", fal, seed=1)
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir=root / "results")
    with pytest.raises(CallInterrupt):
        call(tool, 2)
    assert len([*(root / "results").glob("*.png")]) == 1
    assert len(fal.cancelled) == 1


async def test_a_cancelled_tool_saves_what_is_finished(
    fal: FakeFal, open_engine: Any, root: Path
) -> None:
    """If an async call of the tool is cancelled, the finished image is soon among the results."""
    fal.endless_seeds = {2}
    engine = open_engine("fal", fal, seed=1)
    settings = ToolSettings(engine=engine, root_dir=root, output_dir=root / "results")
    arguments = ImageVariationArguments(image="cat.png", n=2, size="256x256")
    has_image = asyncio.Event()
    run = asyncio.create_task(
        call_tool_async(
            settings, LoadedEngines(), arguments, listener=lambda finished, n: has_image.set()
        )
    )
    await has_image.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    async with asyncio.timeout(30):
        while not fal.cancelled or not [*(root / "results").glob("*.png")]:
            await asyncio.sleep(0.01)
    assert len([*(root / "results").glob("*.png")]) == 1
