"""What the tool costs an agent: its message history, its checkpoints, its time and its import.

Claims:

- After twenty calls of four pictures each, what the model is sent is under 20 kB, and a checkpoint,
  as LangGraph's own serialiser writes it, under 200 kB; shown beside the same run with a tool that
  returns its pictures as image blocks in base64. Pictures of 256 pixels by the `local` engine.
- A call takes under 5 ms beside what the engine takes: four pictures of 256 pixels by the `instant`
  engine, each file new, sync and async, alone and in a conversation of an agent. On a disk it waits
  until the files are safe there, so what flushing one takes is shown, and the same in memory
  (/dev/shm, where there is one), and a call of a tool that does nothing. Medians, the least of all
  rounds: other work on the machine and its disk only adds to it.
- Importing the tool takes at most 1.15 times as long as importing `BaseTool` of
  `langchain_core.tools`, which every tool needs; the module alone loads next to nothing. In CPU,
  each in processes of its own, in turns, the least of all rounds.

    python benchmarks/agent.py [--calls N] [--rounds N] [--folder FOLDER]

Exits with 1 if a bar is missed. Needs the `test` extra, for LangGraph.
"""

import argparse
import asyncio
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
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.messages.content import create_image_block
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt.tool_node import ToolRuntime
from PIL import Image

from langchain_image_variation import (
    CreateImageVariationRequest,
    ImagesResponse,
    ImageVariationTool,
    load_engine,
    load_source,
)
from langchain_image_variation.contract import Size
from langchain_image_variation.engines.instant import InstantEngine

PHOTO = Path(__file__).parent.parent / "examples" / "chelsea.png"
CALLS = 20
PICTURES = 4
BARS = {
    "history, bytes": 20_000,
    "checkpoint, bytes": 200_000,
    "call, ms": 5.0,
    "import, times": 1.15,
}


class _Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **options: Any) -> "_Scripted":
        """Take any tools: the script knows them."""
        return self


def _in_base64(folder: Path) -> BaseTool:
    """Return a tool that does the same and puts the pictures into its message."""
    engine = load_engine("local", seed=1)

    def image_variation(image: str, n: int, size: Size) -> list[Any]:
        """Make variations of a picture."""
        source = load_source(folder / "chelsea.png")
        request = CreateImageVariationRequest(
            image=source.png, n=n, size=size, response_format="b64_json"
        )
        images = engine.create_variation(request).data
        return [create_image_block(base64=i.b64_json, mime_type="image/png") for i in images]

    return StructuredTool.from_function(image_variation)


def _conversation(tool: BaseTool) -> dict[str, float]:
    """Let an agent call a tool twenty times; return the bytes of what was kept."""
    from langchain.agents import create_agent

    script = []
    for index in range(CALLS):
        image = "latest" if index else "chelsea.png"
        arguments = {"image": image, "n": PICTURES, "size": "256x256"}
        call = {"name": tool.name, "args": arguments, "id": f"call_{index:024}"}
        script.append(AIMessage("", tool_calls=[call]))
    model = _Scripted(messages=iter([*script, AIMessage("Done.")]))
    saver = InMemorySaver()
    agent = create_agent(model, [tool], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "benchmark"}, "recursion_limit": 100}
    messages = agent.invoke({"messages": [HumanMessage("Vary it twenty times.")]}, config)
    kept = saver.get_tuple(config)
    assert kept is not None
    _, checkpoint = saver.serde.dumps_typed(kept.checkpoint)
    stored = sum(len(data) for _, data in saver.blobs.values())
    return {
        "history, bytes": len(_sent(messages["messages"])),
        "with artifacts": len(_kept(messages["messages"])),
        "checkpoint, bytes": len(checkpoint),
        "all checkpoints": stored,
    }


def _sent(messages: Sequence[BaseMessage]) -> bytes:
    """Return messages as a chat model's provider gets them."""
    assert messages[-1].text == "Done."
    return json.dumps(convert_to_openai_messages(list(messages)), ensure_ascii=False).encode()


def _kept(messages: Sequence[BaseMessage]) -> bytes:
    """Return messages with all that they hold, as JSON."""
    return json.dumps([message.model_dump(mode="json") for message in messages]).encode()


class _Timed(InstantEngine):
    """Keeps the seconds that it took."""

    seconds = 0.0

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        start = time.perf_counter()
        answer = super().create_variation(request)
        self.seconds = time.perf_counter() - start
        return answer


@contextmanager
def _photos(folder: str | None, calls: int) -> Iterator[Path]:
    """Yield a folder with a photo for each call, so that each result is new."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for index in range(calls):
            Image.new("RGB", (256, 256), (index % 256, index // 256, 9)).save(f"{name}/{index}.png")
        yield Path(name)


def _call(name: str, index: int, **more: Any) -> dict[str, Any]:
    arguments = {"image": f"{index}.png", "n": PICTURES, "size": "256x256", **more}
    return {"name": name, "args": arguments, "id": f"call_{index}", "type": "tool_call"}


def _runtime() -> ToolRuntime[None, dict[str, Any]]:
    """Return what an agent puts in, late in a conversation of twenty calls."""
    messages: list[BaseMessage] = [HumanMessage("Vary it.")]
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


def _time(calls: int, how: str, folder: str | None) -> float:
    """Return the milliseconds of a call beside the engine's, the median."""
    engine = _Timed()
    more = {"runtime": _runtime()} if "agent" in how else {}
    taken: list[float] = []

    async def later(tool: BaseTool) -> None:
        for index in range(calls):
            start = time.perf_counter()
            await tool.ainvoke(_call(tool.name, index, **more))
            taken.append((time.perf_counter() - start - engine.seconds) * 1000)

    with _photos(folder, calls) as root:
        tool = ImageVariationTool(root_dir=root, engine=engine)
        if "async" in how:
            asyncio.run(later(tool))
            return statistics.median(taken)
        for index in range(calls):
            start = time.perf_counter()
            message = tool.invoke(_call(tool.name, index, **more))
            taken.append((time.perf_counter() - start - engine.seconds) * 1000)
        assert message.status == "success", message.content
    return statistics.median(taken)


def _nothing(calls: int, folder: str | None) -> float:
    """Return the milliseconds that LangChain takes to call a tool that does nothing."""

    def image_variation(image: str, n: int, size: str) -> str:
        """Do nothing."""
        return image

    tool = StructuredTool.from_function(image_variation)
    return _median(lambda index: tool.invoke(_call(tool.name, index)), calls)


def _flush(calls: int, folder: str | None) -> float:
    """Return the milliseconds that a disk takes to write and flush one small file."""
    with tempfile.TemporaryDirectory(dir=folder) as name:

        def write(index: int) -> None:
            with open(f"{name}/{index}", "xb") as file:
                file.write(b"x" * 400)
                file.flush()
                os.fsync(file.fileno())

        return _median(write, calls)


def _median(call: Callable[[int], object], calls: int) -> float:
    taken = []
    for index in range(calls):
        start = time.perf_counter()
        call(index)
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


IMPORTS = {
    "BaseTool": "from langchain_core.tools import BaseTool",
    "the tool": "import langchain_image_variation.agents.tool",
    "the name": "import langchain_core.tools",
}


def _imports(rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of each import, each in processes of its own."""
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            code = f"from time import process_time as t; s = t(); {statement}; print(t() - s)"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
            )
            taken[name].append(float(done.stdout) * 1000)
    return {name: min(values) for name, values in taken.items()}


def _shown_sizes() -> dict[str, float]:
    """Print and return what a conversation keeps, beside the same in base64."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "chelsea.png").write_bytes(PHOTO.read_bytes())
        engine = load_engine("local", seed=1)
        ours = _conversation(ImageVariationTool(root_dir=root, engine=engine))
        peer = _conversation(_in_base64(root))
    for size, value in ours.items():
        print(
            f"{size:20}{value:12,}   in base64 {peer[size]:14,}   {peer[size] / value:8,.0f} times"
        )
    return ours


def _shown_times(calls: int, rounds: int, folder: str | None) -> float:
    """Print the milliseconds of calls, and return those of the slowest way to call."""
    print(f"\nmilliseconds a call beside the engine's, medians of {calls}, the least of {rounds}:")
    folders = {"disk": folder} | ({"memory": "/dev/shm"} if os.path.isdir("/dev/shm") else {})
    print(f"{'':20}" + "".join(f"{name:>12}" for name in folders))
    rows: dict[str, Callable[[str | None], float]] = {
        how: partial(_time, calls, how)
        for how in ("sync", "async", "sync in an agent", "async in an agent")
    }
    rows |= {
        "flushing one file": partial(_flush, calls),
        "a tool of nothing": partial(_nothing, calls),
    }
    found: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for row, measure in rows.items():
            for name, path in folders.items():
                found[row, name] = min(measure(path), found.get((row, name), math.inf))
    for row in rows:
        print(f"{row:20}" + "".join(f"{found[row, name]:12.2f}" for name in folders))
    return max(found[row, "disk"] for row in rows)


def _shown_imports(rounds: int) -> float:
    """Print the CPU milliseconds of imports, and return how many times `BaseTool` ours takes."""
    print(f"\nCPU milliseconds of imports, the least of {rounds}:")
    imports = _imports(rounds)
    for name, taken in imports.items():
        print(f"{name:20}{taken:12.0f}   {IMPORTS[name]}")
    return imports["the tool"] / imports["BaseTool"]


def main() -> int:
    """Measure, print the figures and the ratios, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where results are written; disks differ")
    arguments = parser.parse_args()
    found = _shown_sizes()
    found["call, ms"] = _shown_times(arguments.calls, arguments.rounds, arguments.folder)
    found["import, times"] = _shown_imports(arguments.rounds)
    print()
    missed = 0
    for name, bar in BARS.items():
        missed += found[name] > bar
        print(f"{name}: {found[name]:,.2f} (bar {bar:,}){' MISSED' if found[name] > bar else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
