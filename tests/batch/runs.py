"""Runs of `image-variation batch` for tests, in this process and in a new one."""

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
    "limit_file_size",
    "output_images",
    "portable_rows",
    "read_manifest",
    "run",
    "run_command",
    "run_hosted",
    "start_run",
    "wait_until",
]

_ARGUMENTS = (
    *("batch", "--allow-storage", "shelf", "--allow-storage", "pier"),
    *("--size", "256x256", "--workers", "2", "--engine"),
)


def run(*arguments: str, out: str = "out") -> int:
    """Run with worker processes to the end, and return the exit code."""
    return main([*_ARGUMENTS, "logged", "--output-dir", out, *arguments])


def run_hosted(*arguments: str, out: str = "out") -> int:
    """Run with a hosted engine, which is faster because it needs no processes."""
    return main([*_ARGUMENTS, "hosted", "--output-dir", out, *arguments])


def run_command(*arguments: str, out: str = "out") -> list[str]:
    """Return the command line of a run with worker processes."""
    program = [sys.executable, "-m", "langchain_image_variation"]
    return [*program, *_ARGUMENTS, "logged", "--output-dir", out, *arguments]


def start_run(*arguments: str, out: str = "out") -> "subprocess.Popen[str]":
    """Start a run in a new process group, as a terminal does."""
    return subprocess.Popen(
        run_command(*arguments, out=out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a condition, and fail if the process ends first."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files that this process and its children write in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_manifest(out: str = "out") -> list[dict[str, Any]]:
    """Return the rows of the manifest without their times. Both formats must be equal."""
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(f"{out}/manifest.parquet").to_pylist()
    json_lines = Path(out, "manifest.jsonl")
    if json_lines.exists():
        assert [json.loads(line) for line in json_lines.read_text().splitlines()] == rows
    for row in rows:
        del row["milliseconds"]
    return rows


def output_images(out: str = "out") -> dict[str, bytes]:
    """Return all variations by path. Each must be intact. Temporary files are skipped."""
    images = {}
    for folder, _, names in os.walk(Path(out, "images")):
        for name in names:
            if not name.endswith(".part"):
                path = Path(folder, name)
                images[str(path.relative_to(out))] = SquarePNG(path.read_bytes()).data
    return images


def portable_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the file names of their sources, whose folders or URLs may differ."""
    return [{**row, "source_path": Path(row["source_path"]).name} for row in rows]
