"""Threads that write the files of one response at the same time."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["start_jobs"]

T = TypeVar("T")

_WRITERS = 4
"""The number of files to write at once. Writing four takes a disk little longer than one."""


def start_jobs(jobs: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Start jobs in other threads. Return a function for each, which waits for its result."""
    try:
        return [_writers.submit(job).result for job in jobs]
    except RuntimeError:
        # The interpreter is shutting down. A job that has already started runs twice, without harm.
        return list(jobs)


def _new_writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS - 1, thread_name_prefix="image-variation-writer")


# Kept, because starting a thread takes as long as writing an image.
_writers = _new_writers()


def _replace_writers() -> None:
    """Create new writers in a forked child, which does not have its parent's threads."""
    global _writers
    _writers = _new_writers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_writers)
