"""Runs of `image-variation batch` for tests, in this process and in one of its own."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet

from langchain_image_variation.cli import main
from langchain_image_variation.images.png import SquarePNG

__all__ = [
    "begin",
    "command",
    "largest_file",
    "manifest",
    "output_images",
    "run",
    "run_here",
    "wait_until",
]

_LIKE = ("batch", "--size", "256x256", "--workers", "2", "--engine")


def run(*arguments: str, out: str = "out") -> int:
    """Run to the end with worker processes, and return the exit code."""
    return main([*_LIKE, "logged", "--output-dir", out, *arguments])


def run_here(*arguments: str, out: str = "out") -> int:
    """Do the same with an engine that needs no processes, which takes less time."""
    return main([*_LIKE, "hosted", "--output-dir", out, *arguments])


def command(*arguments: str, out: str = "out") -> list[str]:
    """Return the command line of a run with worker processes."""
    program = [sys.executable, "-m", "langchain_image_variation"]
    return [*program, *_LIKE, "logged", "--output-dir", out, *arguments]


def begin(*arguments: str, out: str = "out") -> "subprocess.Popen[str]":
    """Begin a run in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        command(*arguments, out=out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(done: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for something to happen while a process lives."""
    while not done():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow larger, in this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def manifest(out: str = "out") -> list[dict[str, Any]]:
    """Return the rows of the manifest but for their times; both forms of it say the same."""
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(f"{out}/manifest.parquet").to_pylist()
    lines = Path(out, "manifest.jsonl")
    if lines.exists():
        assert [json.loads(line) for line in lines.read_text().splitlines()] == rows
    for row in rows:
        del row["milliseconds"]
    return rows


def output_images(out: str = "out") -> dict[str, bytes]:
    """Return all pictures by their path: each is whole, and all other files are unfinished ones."""
    found = {}
    for folder, _, names in os.walk(Path(out, "images")):
        for name in names:
            if not name.endswith(".part"):
                path = Path(folder, name)
                found[str(path.relative_to(out))] = SquarePNG(path.read_bytes()).data
    return found
