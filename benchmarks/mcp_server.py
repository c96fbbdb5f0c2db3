"""What the MCP server costs: its start, the bytes of an answer, and the time per call.

Claims:

- Starting `image-variation mcp --engine instant`, until its first answer and its end, takes at most
  1.25 times the CPU time of a server of the SDK with one trivial tool. The processes alternate. For
  comparison, the time to the first answer is shown. Of all rounds, the smallest counts.
- An answer about four images has less than 1,500 bytes besides its contact sheet, and the list of
  tools less than 6,000.
- A call takes less than 15 ms, not counting the engine and the contact sheet. It makes four images
  of 256 pixels with the engine `instant`, over standard input and output. The time is a median; of
  all rounds, the smallest counts.

    python benchmarks/mcp_server.py [--calls N] [--rounds N]

Exits with 1 if a bar is missed. Needs the extra `mcp`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from pytest_image_variation.samples import square_png

MAX_START = 1.25
MAX_ANSWER_BYTES = 1_500
MAX_LIST_BYTES = 6_000
MAX_CALL = 0.015

BARE = """
from mcp.server import MCPServer
server = MCPServer("bare")
@server.tool()
def greet(name: str) -> str:
    return name
server.run()
"""
PROGRAM = [sys.executable, "-m", "langchain_image_variation", "mcp", "--engine", "instant"]


class Server:
    """A server's process, and its streams.

    Args:
        *command: The command that starts it.
    """

    def __init__(self, *command: str) -> None:
        self.start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._id = 0
        parameters = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "benchmark", "version": "1"},
        }
        self.request("initialize", parameters)
        self.start_seconds = time.perf_counter() - self.start
        self._send({"method": "notifications/initialized"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._process.stdin.flush()

    def request(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request."""
        assert self._process.stdout is not None
        self._id += 1
        self._send({"id": self._id, "method": method, "params": parameters})
        result: dict[str, Any] = json.loads(self._process.stdout.readline())["result"]
        return result

    def create(self) -> dict[str, Any]:
        """Return the answer of a call that makes four images."""
        arguments = {"image": "cat.png", "n": 4, "size": "256x256"}
        return self.request(
            "tools/call", {"name": "create_image_variations", "arguments": arguments}
        )


def measure_start(*command: str) -> tuple[float, float]:
    """Return the seconds to the first answer, and the CPU seconds of the process."""
    before = os.times()
    with Server(*command) as server:
        pass
    after = os.times()
    cpu = after.children_user + after.children_system
    return server.start_seconds, cpu - before.children_user - before.children_system


def measure_engine(root: Path, calls: int) -> float:
    """Return the median seconds of the engine's own work for the call."""
    from langchain_image_variation import (
        CreateImageVariationRequest,
        call_engine,
        load_engine,
        load_source,
    )

    source = load_source(root / "cat.png")
    request = CreateImageVariationRequest(image=source.png, n=4, size="256x256")
    engine, times = load_engine("instant"), []
    for _ in range(calls):
        start = time.perf_counter()
        call_engine(engine, request)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_calls(root: Path, calls: int) -> float:
    """Return the median seconds of a call without a contact sheet."""
    with Server(*PROGRAM, "--root-dir", str(root), "--thumbnail", "none") as server:
        server.create()
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            server.create()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def smallest(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the smallest of each of two figures."""
    return min(first for first, _ in rounds), min(second for _, second in rounds)


def size(value: object) -> int:
    """Return the bytes of a value as JSON."""
    return len(json.dumps(value, separators=(",", ":")))


def main() -> int:
    """Measure, print the figures, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "cat.png").write_bytes(square_png(256))
        ours, bare = [], []
        for _ in range(arguments.rounds):
            bare.append(measure_start(sys.executable, "-c", BARE))
            ours.append(measure_start(*PROGRAM, "--root-dir", folder))
        with Server(*PROGRAM, "--root-dir", folder) as server:
            list_bytes = size(server.request("tools/list", {}))
            answer = server.create()
            total = size(answer)
            sheet = len(answer["content"][1]["data"])
        engine = min(measure_engine(root, arguments.calls) for _ in range(arguments.rounds))
        call = min(measure_calls(root, arguments.calls) for _ in range(arguments.rounds)) - engine
    (first, cpu), (bare_first, bare_cpu) = smallest(ours), smallest(bare)
    print(f"first answer: {first:.2f} s; of a bare server: {bare_first:.2f} s")
    print(f"CPU: {cpu:.2f} s; of a bare server: {bare_cpu:.2f} s; ratio {cpu / bare_cpu:.2f}")
    print(f"an answer: {total - sheet:,} bytes, and {sheet:,} of its contact sheet")
    print(f"the list of tools: {list_bytes:,} bytes")
    print(f"a call: {1000 * call:.1f} ms, besides {1000 * engine:.1f} ms of the engine")
    bars = (
        cpu / bare_cpu <= MAX_START,
        total - sheet < MAX_ANSWER_BYTES,
        list_bytes < MAX_LIST_BYTES,
        call < MAX_CALL,
    )
    return 0 if all(bars) else 1


if __name__ == "__main__":
    sys.exit(main())
