"""The threads that make pictures: as many as processors, shared by all engines of the process.

Whoever calls an engine only waits for them. So ten callers at once do not take turns on a
processor; nor does their memory add up, of which an allocator keeps a part for each thread that
ever needed much.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from langchain_image_variation.engines.local.progress import Progress

__all__ = ["processors", "run_all"]

T = TypeVar("T")

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
"""The threads by process, since a forked child inherits none."""


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
                futures.append(_pool().submit(make, index))
                running.add(futures[-1])
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BaseException as error:
        progress.stop(error)
        wait([future for future in running if not future.cancel()])
        raise progress.failure or error from None
    return [future.result() for future in futures]


def _pool() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()
        if process not in _pools:
            _pools.clear()
            _pools[process] = ThreadPoolExecutor(processors(), thread_name_prefix="local-engine")
        return _pools[process]
