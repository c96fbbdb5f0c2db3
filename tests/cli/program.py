"""Runs the program as a user would: in its own process, and in a terminal."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

from langchain_image_variation.cli import main

PROGRAM = [sys.executable, "-m", "langchain_image_variation"]


def run(
    *arguments: str,
    input: bytes | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60,
    warnings: str = "error",
) -> subprocess.CompletedProcess[bytes]:
    """Run the program with more environment variables, and return what it wrote as bytes.

    Args:
        *arguments: The arguments of the program.
        input: What it reads from standard input.
        env: More environment variables.
        timeout: The most seconds that it may take.
        warnings: What Python does with a warning.
    """
    return subprocess.run(
        [sys.executable, "-W", warnings, *PROGRAM[1:], *arguments],
        input=input,
        env={**os.environ, **(env or {})},
        capture_output=True,
        timeout=timeout,
    )


def call(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program in this process, which takes milliseconds, and return what it wrote."""
    stdin, stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3))
    stdin.write(input)
    stdin.seek(0)
    with (
        patch.object(sys, "stdin", stdin),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = main(arguments)
    stdout.seek(0)
    stderr.seek(0)
    return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def run_in_terminal(
    arguments: Sequence[str],
    *,
    columns: int = 80,
    env: dict[str, str] | None = None,
    watch: Callable[[str], object] | None = None,
    stdout: int | None = None,
    program: Sequence[str] = PROGRAM,
) -> tuple[int, str]:
    """Run the program in a terminal, and return its exit code and everything that it wrote there.

    Args:
        arguments: The arguments of the program.
        columns: The width of the terminal. Some containers report 0.
        env: More environment variables.
        watch: Called with everything that was written, whenever there is more of it.
        stdout: The standard output of the program. By default, the terminal.
        program: The command that runs it.
    """
    terminal, child_side = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*program, *arguments],
        stdin=child_side,
        stdout=child_side if stdout is None else stdout,
        stderr=child_side,
        env={**os.environ, "TERM": "xterm", **(env or {})},
    )
    os.close(child_side)
    output = b""
    # On Linux the end of a terminal is an error, elsewhere an empty read.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            output += data
            if watch is not None:
                watch(output.decode(errors="replace"))
    os.close(terminal)
    return process.wait(timeout=60), output.decode()


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after this output, without blanks at their ends."""
    lines = []
    for line in output.split("\n"):
        cells: list[str] = []
        column = 0
        for character in line:
            if character == "\r":
                column = 0
                continue
            cells[column : column + 1] = character
            column += 1
        lines.append("".join(cells).rstrip())
    return lines


def declare(folder: Path, name: str, engines: str) -> None:
    """Write the metadata of a distribution that declares engines to a folder."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[langchain_image_variation.engines]\n{engines}")
