"""The threads that make pictures: as many as processors, shared by all engines of the process.

Whoever calls an engine only waits for them. So ten callers at once do not take turns on a
processor; nor does their memory add up, of which an allocator keeps a part for each thread that
ever needed much.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_image_variation.engines.local.progress import POLL_SECONDS, RequestProgress
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.exceptions import EngineError

__all__ = ["run_all", "turn"]

T = TypeVar("T")


def run_all(jobs: Sequence[Callable[[], T]], threads: int, progress: RequestProgress) -> list[T]:
    """Do all jobs in the threads, begun in order; the first failure stops all of them.

    Meanwhile the calling thread tells the listener how far they are.

    Args:
        jobs: What to do. None must wait for another.
        threads: How many to do at once, at most.
        progress: That of the request; stopped by the first failure.

    Returns:
        Their results, in order.
    """
    futures: list[Future[T]] = []
    try:
        for job in jobs:
            progress.wait_until(lambda: _running(futures) < threads)
            futures.append(_submitted(job))
            futures[-1].add_done_callback(lambda _: progress.wake())
        progress.wait_until(lambda: not _running(futures))
        return [future.result() for future in futures]
    except BaseException:
        progress.stop()
        wait([future for future in futures if not future.cancel()])
        raise
    finally:
        # An error's frames hold this list, which holds the error: that circle would keep pictures.
        futures.clear()


def _submitted(job: Callable[[], T]) -> Future[T]:
    try:
        return _shared.pool.submit(job)
    except RuntimeError as error:
        raise EngineError(
            "The engine has no thread to work in: the interpreter is shutting down, or the system "
            "allows no more threads."
        ) from error


def _running(futures: Sequence[Future[Any]]) -> int:
    """Return how many are not done; raise the error of one that failed."""
    for index in range(len(futures)):
        # No name for the future: an error's frames must not hold the error.
        if futures[index].done():
            futures[index].result()
    return sum(not future.done() for future in futures)


_in_turn: ContextVar[bool] = ContextVar("_in_turn", default=False)


@contextmanager
def turn(progress: RequestProgress) -> Iterator[None]:
    """Wait until this request may hold its source in memory; its turn lasts for the block.

    A request made within another one's turn, by its listener, shares that turn: if it waited for
    one of its own, such requests could all wait for each other.

    Raises:
        EngineError: If the request was cancelled meanwhile.
    """
    if _in_turn.get():
        yield
        return
    # After a fork inside the block, the turn to give back is not among those of the child.
    turns = _shared.turns
    while not turns.acquire(timeout=POLL_SECONDS):
        progress.check()
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)
        turns.release()


class _Shared:
    """What the requests of one process share; its threads start when they are needed."""

    def __init__(self) -> None:
        # One more than threads, so that none waits for a source.
        self.turns = threading.BoundedSemaphore(processor_count() + 1)
        self.pool = ThreadPoolExecutor(processor_count(), thread_name_prefix="local-engine")


_shared = _Shared()


def _share_anew() -> None:
    """Forget, in a forked child, what threads hold that it did not inherit."""
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_share_anew)
