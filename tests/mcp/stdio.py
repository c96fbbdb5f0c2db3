"""A host that speaks the protocol line by line, so that it can also break it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

__all__ = ["COMMAND", "MODERN", "Host", "install_engine", "wait_until_sigterm_is_ignored"]

COMMAND = [sys.executable, "-m", "langchain_image_variation", "mcp"]

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

_ENGINE = '''
import os, sys, time
from langchain_image_variation.engines.instant import InstantEngine
print("imported")
os.write(2, b"loaded\\n")

class StubbornEngine(InstantEngine):
    """Prints, and never looks whether its call was cancelled."""

    def create_variation(self, request):
        print("called")
        if request.n == 2:
            os.write(2, b"working\\n")
            time.sleep(600)
        os.write(1, b"from a library in C\\n")
        os.system("echo from a child")
        return super().create_variation(request)
'''

_NO_NETWORK = """
import socket, sys

def refuse(*arguments, **others):
    sys.stderr.write("NETWORK\\n")
    raise OSError("no network")

socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
"""


def install_engine(folder: Path) -> dict[str, str]:
    """Install the engine `stubborn`, without a network. Return the environment that has both."""
    (folder / "stubborn.py").write_text(_ENGINE)
    (folder / "sitecustomize.py").write_text(_NO_NETWORK)
    metadata = folder / "stubborn-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[langchain_image_variation.engines]\nstubborn = stubborn:StubbornEngine\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


def wait_until_sigterm_is_ignored(process: subprocess.Popen[Any]) -> None:
    """Wait until a process of Linux ignores SIGTERM, or has ended."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        match = re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
        if match and int(match[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


class Host:
    """The process of a server, and its streams.

    Args:
        root: The folder of images.
        *arguments: The arguments of the command.
        env: The environment of the process.
    """

    def __init__(self, root: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--root-dir", str(root), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        self._id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            # `finish` has closed the first.
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def send_bytes(self, data: bytes) -> None:
        """Write anything to standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, method: str, **parameters: Any) -> int:
        """Send a request and return its id."""
        self._id += 1
        request = {
            "jsonrpc": "2.0",
            "id": self._id,
            "method": method,
            "params": {"_meta": MODERN, **parameters},
        }
        self.send_bytes(json.dumps(request).encode() + b"\n")
        return self._id

    def receive(self) -> dict[str, Any]:
        """Return the next message. Each line must be one."""
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        return message

    def request(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a request and return the message that answers it."""
        number = self.send(method, **parameters)
        while (message := self.receive()).get("id") != number:
            pass
        return message

    def wait_for_log(self, line: bytes) -> None:
        """Wait for a line on standard error."""
        assert self.process.stderr is not None
        while self.process.stderr.readline().strip() != line:
            assert self.process.poll() is None

    def finish(self) -> tuple[bytes, bytes]:
        """Close standard input. Return what the process still wrote to its other streams."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None
        out, err = self.process.communicate(timeout=120)
        return out, err

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of standard error."""
        assert self.process.stderr is not None
        yield from self.process.stderr
