"""What the tool costs an agent: message history, checkpoints, time per call, and import time.

Claims:

- After twenty calls that make four images each, the model gets less than 20 kB of messages, and a
  checkpoint of LangGraph has less than 200 kB. The images are 256 pixels wide and made by the
  `local` engine. For comparison, the same run is shown with a tool that returns its images in
  base64.
- A call takes less than 10 ms, not counting the engine. It makes four images of 256 pixels with the
  `instant` engine, all in new files. Calls are sync and async, outside and inside an agent, and in
  a thread with twenty uploads of 4 MB, which an earlier call has kept. In that thread, the
  middleware takes less than 10 ms of a turn. On a disk, a call waits until the files are flushed.
  For comparison, the time to flush one file is shown, the times in memory (/dev/shm, if it exists),
  and a call to a tool that does nothing. Each time is a median; of all rounds, the smallest counts,
  because other work only adds to it.
- Importing the tool takes at most 1.25 times as long as importing `BaseTool` from
  `langchain_core.tools`, which every tool needs. This is CPU time, measured in separate processes
  that alternate. Of all rounds, the smallest counts.

    python benchmarks/agent.py [--calls N] [--rounds N] [--folder FOLDER]

Exits with 1 if a bar is missed. Needs the extra `test`, for LangGraph.
"""

import argparse
import asyncio
import base64
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.messages.content import create_image_block
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt.tool_node import ToolRuntime
from PIL import Image

from langchain_image_variation import (
    CreateImageVariationRequest,
    ImagesResponse,
    ImageVariationMiddleware,
    ImageVariationTool,
    load_engine,
    load_source,
)
from langchain_image_variation.contract import Size
from langchain_image_variation.engines.instant import InstantEngine

PHOTO = Path(__file__).parent.parent / "examples" / "chelsea.png"
CALLS = 20
UPLOADS = 20
UPLOAD_SIDE = 1180
"""The width and height of an upload in pixels. Its PNG, which is not compressed, takes 4 MB."""
IMAGES_PER_CALL = 4
BARS = {
    "history, bytes": 20_000,
    "checkpoint, bytes": 200_000,
    "call, ms": 10.0,
    "import, times": 1.25,
}


class _Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **options: Any) -> "_Scripted":
        """Accept any tools: the script knows them."""
        return self


def _base64_tool(folder: Path) -> BaseTool:
    """Return a tool that does the same, but puts the images into its message."""
    engine = load_engine("local", seed=1)

    def image_variation(image: str, n: int, size: Size) -> list[Any]:
        """Make variations of an image."""
        source = load_source(folder / "chelsea.png")
        request = CreateImageVariationRequest(
            image=source.png, n=n, size=size, response_format="b64_json"
        )
        images = engine.create_variation(request).data
        return [create_image_block(base64=i.b64_json, mime_type="image/png") for i in images]

    return StructuredTool.from_function(image_variation)


def _measure_conversation(tool: BaseTool) -> dict[str, float]:
    """Let an agent call a tool twenty times, and return the sizes of what is stored."""
    from langchain.agents import create_agent

    script = []
    for index in range(CALLS):
        image = "latest" if index else "chelsea.png"
        arguments = {"image": image, "n": IMAGES_PER_CALL, "size": "256x256"}
        call = {"name": tool.name, "args": arguments, "id": f"call_{index:024}"}
        script.append(AIMessage("", tool_calls=[call]))
    model = _Scripted(messages=iter([*script, AIMessage("Done.")]))
    saver = InMemorySaver()
    agent = create_agent(model, [tool], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "benchmark"}, "recursion_limit": 100}
    messages = agent.invoke({"messages": [HumanMessage("Vary it twenty times.")]}, config)
    checkpoint_tuple = saver.get_tuple(config)
    assert checkpoint_tuple is not None
    _, checkpoint = saver.serde.dumps_typed(checkpoint_tuple.checkpoint)
    all_bytes = sum(len(data) for _, data in saver.blobs.values())
    return {
        "history, bytes": len(_provider_json(messages["messages"])),
        "with artifacts": len(_messages_json(messages["messages"])),
        "checkpoint, bytes": len(checkpoint),
        "all checkpoints": all_bytes,
    }


def _provider_json(messages: Sequence[BaseMessage]) -> bytes:
    """Return messages as the provider of a chat model gets them."""
    assert messages[-1].text == "Done."
    return json.dumps(convert_to_openai_messages(list(messages)), ensure_ascii=False).encode()


def _messages_json(messages: Sequence[BaseMessage]) -> bytes:
    """Return messages as JSON, with their artifacts."""
    return json.dumps([message.model_dump(mode="json") for message in messages]).encode()


class _TimedEngine(InstantEngine):
    """Keeps the seconds that the last call took."""

    seconds = 0.0

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        start = time.perf_counter()
        answer = super().create_variation(request)
        self.seconds = time.perf_counter() - start
        return answer


@contextmanager
def _photos(folder: str | None, calls: int) -> Iterator[Path]:
    """Yield a folder with a photo for each call, so that all results are new."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for index in range(calls):
            Image.new("RGB", (256, 256), (index % 256, index // 256, 9)).save(f"{name}/{index}.png")
        yield Path(name)


def _call(name: str, index: int, **fields: Any) -> dict[str, Any]:
    arguments = {"image": f"{index}.png", "n": IMAGES_PER_CALL, "size": "256x256", **fields}
    return {"name": name, "args": arguments, "id": f"call_{index}", "type": "tool_call"}


@cache
def _uploads() -> tuple[BaseMessage, ...]:
    """Return messages of a user with an image of 4 MB each."""
    messages: list[BaseMessage] = []
    for _ in range(UPLOADS):
        size = (UPLOAD_SIDE, UPLOAD_SIDE)
        file = io.BytesIO()
        Image.frombytes("RGB", size, os.urandom(3 * UPLOAD_SIDE**2)).save(
            file, "PNG", compress_level=0
        )
        data = base64.b64encode(file.getvalue()).decode("ascii")
        block = create_image_block(base64=data, mime_type="image/png")
        messages.append(HumanMessage(content_blocks=[block]))
    return tuple(messages)


def _runtime(messages: list[BaseMessage]) -> ToolRuntime[None, dict[str, Any]]:
    """Return what an agent injects after some messages and twenty calls."""
    with _photos(None, CALLS) as root:
        tool = ImageVariationTool(root_dir=root, engine="instant")
        for index in range(CALLS):
            call: Any = _call(tool.name, index)
            messages += [AIMessage("", tool_calls=[call]), tool.invoke(call)]
    return ToolRuntime(
        state={"messages": messages},
        context=None,
        config={},
        stream_writer=lambda _: None,
        tool_call_id="call_now",
        store=None,
    )


def _time_calls(calls: int, mode: str, folder: str | None) -> float:
    """Return the median milliseconds of a call, not counting the engine."""
    engine = _TimedEngine()
    messages: list[BaseMessage] = [HumanMessage("Vary it.")]
    if "uploads" in mode:
        messages = [*_uploads()]
    fields = {"runtime": _runtime(messages)} if "agent" in mode else {}
    config: RunnableConfig = {"configurable": {"thread_id": "t"}} if "uploads" in mode else {}
    milliseconds: list[float] = []

    async def call_async(tool: BaseTool) -> None:
        for index in range(calls):
            start = time.perf_counter()
            await tool.ainvoke(_call(tool.name, index, **fields), config)
            milliseconds.append((time.perf_counter() - start - engine.seconds) * 1000)

    with _photos(folder, calls) as root:
        tool = ImageVariationTool(root_dir=root, engine=engine)
        if "async" in mode:
            asyncio.run(call_async(tool))
            return statistics.median(milliseconds)
        for index in range(calls):
            start = time.perf_counter()
            message = tool.invoke(_call(tool.name, index, **fields), config)
            milliseconds.append((time.perf_counter() - start - engine.seconds) * 1000)
        assert message.status == "success", message.content
    return statistics.median(milliseconds)


def _time_middleware(calls: int, folder: str | None) -> float:
    """Return the median milliseconds that the middleware takes of a turn, in a graph."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    with _photos(folder, 0) as root:
        middleware = ImageVariationMiddleware(ImageVariationTool(root_dir=root, engine="instant"))
        builder = StateGraph(MessagesState)
        announce: Any = middleware.before_agent
        builder.add_node("announce", announce)
        graph: Any = builder.add_edge(START, "announce").compile()
        state = graph.invoke({"messages": [*_uploads()]}, config)
        return _median(lambda _: graph.invoke(state, config), calls)


def _time_idle_tool(calls: int, folder: str | None) -> float:
    """Return the median milliseconds of a call to a tool that does nothing."""

    def image_variation(image: str, n: int, size: str) -> str:
        """Do nothing."""
        return image

    tool = StructuredTool.from_function(image_variation)
    return _median(lambda index: tool.invoke(_call(tool.name, index)), calls)


def _time_flush(calls: int, folder: str | None) -> float:
    """Return the median milliseconds to write and flush a small file."""
    with tempfile.TemporaryDirectory(dir=folder) as name:

        def write(index: int) -> None:
            with open(f"{name}/{index}", "xb") as file:
                file.write(b"x" * 400)
                file.flush()
                os.fsync(file.fileno())

        return _median(write, calls)


def _median(call: Callable[[int], object], calls: int) -> float:
    milliseconds = []
    for index in range(calls):
        start = time.perf_counter()
        call(index)
        milliseconds.append((time.perf_counter() - start) * 1000)
    return statistics.median(milliseconds)


IMPORTS = {
    "BaseTool": "from langchain_core.tools import BaseTool",
    "the tool": "import langchain_image_variation.agents.tool",
    "the name": "import langchain_core.tools",
}


def _time_imports(rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of each import, measured in separate processes."""
    milliseconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            code = f"from time import process_time as t; s = t(); {statement}; print(t() - s)"
            process = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
            )
            milliseconds[name].append(float(process.stdout) * 1000)
    return {name: min(values) for name, values in milliseconds.items()}


def _print_sizes() -> dict[str, float]:
    """Print and return the sizes of a conversation. Print those with base64 too."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "chelsea.png").write_bytes(PHOTO.read_bytes())
        engine = load_engine("local", seed=1)
        sizes = _measure_conversation(ImageVariationTool(root_dir=root, engine=engine))
        base64_sizes = _measure_conversation(_base64_tool(root))
    for name, value in sizes.items():
        other = base64_sizes[name]
        print(f"{name:20}{value:12,}   in base64 {other:14,}   {other / value:8,.0f} times")
    return sizes


def _print_times(calls: int, rounds: int, folder: str | None) -> float:
    """Print the milliseconds of calls on each kind of storage. Return the slowest on disk."""
    print(f"\nmilliseconds per call without the engine, medians of {calls}, smallest of {rounds}:")
    folders = {"disk": folder} | ({"memory": "/dev/shm"} if os.path.isdir("/dev/shm") else {})
    print(f"{'':32}" + "".join(f"{name:>12}" for name in folders))
    rows: dict[str, Callable[[str | None], float]] = {
        mode: partial(_time_calls, calls, mode)
        for mode in (
            *("sync", "async", "sync in an agent", "async in an agent"),
            *("sync in an agent with uploads", "async in an agent with uploads"),
        )
    }
    rows |= {
        "middleware with uploads": partial(_time_middleware, calls),
        "flush one file": partial(_time_flush, calls),
        "idle tool": partial(_time_idle_tool, calls),
    }
    times: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for row, measure in rows.items():
            for name, path in folders.items():
                times[row, name] = min(measure(path), times.get((row, name), math.inf))
    for row in rows:
        print(f"{row:32}" + "".join(f"{times[row, name]:12.2f}" for name in folders))
    return max(times[row, "disk"] for row in rows)


def _print_imports(rounds: int) -> float:
    """Print the CPU milliseconds of imports. Return the tool's divided by that of `BaseTool`."""
    print(f"\nCPU milliseconds of imports, smallest of {rounds}:")
    imports = _time_imports(rounds)
    for name, milliseconds in imports.items():
        print(f"{name:20}{milliseconds:12.0f}   {IMPORTS[name]}")
    return imports["the tool"] / imports["BaseTool"]


def main() -> int:
    """Measure and print the figures. Return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to write results, to measure another disk")
    arguments = parser.parse_args()
    figures = _print_sizes()
    figures["call, ms"] = _print_times(arguments.calls, arguments.rounds, arguments.folder)
    figures["import, times"] = _print_imports(arguments.rounds)
    print()
    missed = 0
    for name, bar in BARS.items():
        is_missed = figures[name] > bar
        missed += is_missed
        print(f"{name}: {figures[name]:,.2f} (bar {bar:,}){' MISSED' if is_missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
