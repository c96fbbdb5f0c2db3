"""The threads that make pictures: as many as processors, shared by all engines of the process.

Whoever calls an engine only waits for them. So ten callers at once do not take turns on a
processor; nor does their memory add up, of which an allocator keeps a part for each thread that
ever needed much.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from langchain_image_variation.engines.local.progress import Progress

__all__ = ["processors", "run_all", "turn"]

T = TypeVar("T")


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(make: Callable[[int], T], count: int, threads: int, progress: Progress) -> list[T]:
    """Call `make` for each index in the threads; the first failure stops all of them.

    Args:
        make: What to do. It must not wait for another task.
        count: How many indices there are.
        threads: How many to do at once, at most.
        progress: That of the request; told to stop by the first failure.
    """
    futures: list[Future[T]] = []
    indices = iter(range(count))
    running: set[Future[T]] = set()
    try:
        while len(futures) < count or running:
            for index in islice(indices, threads - len(running)):
                futures.append(_shared.pool.submit(make, index))
                running.add(futures[-1])
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BaseException as error:
        progress.stop(error)
        wait([future for future in running if not future.cancel()])
        raise progress.failure or error from None
    return [future.result() for future in futures]


@contextmanager
def turn() -> Iterator[None]:
    """Wait until this request may hold its source in memory; its turn lasts for the block."""
    # After a fork inside the block, the turn to give back is not among those of the child.
    turns = _shared.turns
    with turns:
        yield


class _Shared:
    """What the requests of one process share; its threads start when they are needed."""

    def __init__(self) -> None:
        # One more than threads, so that none waits for a source.
        self.turns = threading.BoundedSemaphore(processors() + 1)
        self.pool = ThreadPoolExecutor(processors(), thread_name_prefix="local-engine")


_shared = _Shared()


def _share_anew() -> None:
    """Forget, in a forked child, what threads hold that it did not inherit."""
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_share_anew)
