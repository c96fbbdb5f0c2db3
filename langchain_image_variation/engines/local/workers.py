"""The threads that make images: one per processor, shared by all engines of the process.

A thread that calls an engine only waits for them. So ten simultaneous callers do not compete for
the processors. Nor does their memory add up: an allocator keeps memory for each thread that ever
needed a lot.
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
    """Run all jobs in the threads, in order. The first failure stops all of them.

    Meanwhile the calling thread passes their progress to the listener.

    Args:
        jobs: The jobs. None may wait for another.
        threads: How many run at once, at most.
        progress: The progress of the request. The first failure stops it.

    Returns:
        The results, in order.
    """
    futures: list[Future[T]] = []
    try:
        for job in jobs:
            progress.wait_until(lambda: _count_running(futures) < threads)
            futures.append(_submit(job))
            futures[-1].add_done_callback(lambda _: progress.wake())
        progress.wait_until(lambda: not _count_running(futures))
        return [future.result() for future in futures]
    except BaseException:
        progress.stop()
        wait([future for future in futures if not future.cancel()])
        raise
    finally:
        # The frames of an error hold this list, which holds the error. The cycle would keep images.
        futures.clear()


def _submit(job: Callable[[], T]) -> Future[T]:
    try:
        return _shared.pool.submit(job)
    except RuntimeError as error:
        raise EngineError(
            "The engine cannot start a thread. The interpreter is shutting down, or the system "
            "allows no more threads."
        ) from error
    except KeyboardInterrupt:
        # A thread that was just being started is unknown to the pool and would never end. Its queue
        # ends it now, after the jobs of other requests.
        _shared.pool.shutdown(wait=False)
        _shared.pool = _new_pool()
        raise


def _count_running(futures: Sequence[Future[Any]]) -> int:
    """Return how many futures are not done. Raise the error of one that failed."""
    for index in range(len(futures)):
        # The future gets no name, because the frames of an error must not hold the error.
        if futures[index].done():
            futures[index].result()
    return sum(not future.done() for future in futures)


_in_turn: ContextVar[bool] = ContextVar("_in_turn", default=False)


@contextmanager
def turn(progress: RequestProgress) -> Iterator[None]:
    """Wait until this request may hold its source in memory. Its turn lasts for the block.

    A listener can make a request within the turn of another. That request shares the turn, because
    requests that waited for a second turn could all wait for each other.

    Raises:
        EngineError: If the request was cancelled while it waited.
    """
    if _in_turn.get():
        yield
        return
    # Kept in a variable, because a fork inside the block replaces `_shared` in the child.
    turns = _shared.turns
    while not turns.acquire(timeout=POLL_SECONDS):
        progress.check()
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)
        turns.release()


class _ProcessResources:
    """What the requests of one process share. Threads start when they are needed."""

    def __init__(self) -> None:
        # One more than threads, so that no thread waits for a source.
        self.turns = threading.BoundedSemaphore(processor_count() + 1)
        self.pool = _new_pool()


def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processor_count(), thread_name_prefix="local-engine")


_shared = _ProcessResources()


def _reset_after_fork() -> None:
    """Start over in a forked child, which did not inherit the threads."""
    global _shared
    _shared = _ProcessResources()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
