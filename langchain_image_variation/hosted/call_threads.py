"""Runs functions at once in threads, and cancels them if the caller is interrupted."""

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import ImagesResponse

__all__ = ["Outcome", "run_in_threads"]

Outcome = ImagesResponse | Exception
"""What a function returned, or the error that it raised."""


def run_in_threads(
    functions: Sequence[Callable[[], ImagesResponse]],
    *,
    limit: int,
    stop_seconds: float,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Return what each function returned, or the error that it raised, in order.

    If this is interrupted, or if `report` raises an error, `cancellation` tells the functions that
    are running, and the others do not start. This waits for them before it raises the error.

    Args:
        functions: What to run. Even a single one has a thread, so that an interrupt cannot end it
            halfway.
        limit: The maximum number of threads.
        stop_seconds: How long to wait for functions that were cancelled, in seconds.
        report: Called in this thread with each outcome as it arrives.

    Raises:
        BaseException: What `report` raises, or what a function raises if it is not an `Exception`.
    """
    waiting: SimpleQueue[tuple[int, Callable[[], ImagesResponse]]] = SimpleQueue()
    finished: SimpleQueue[tuple[int, ImagesResponse | BaseException]] = SimpleQueue()
    outcomes: dict[int, Outcome] = {}
    for item in enumerate(functions):
        waiting.put(item)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                index, function = waiting.get_nowait()
            except Empty:
                return
            try:
                finished.put((index, function()))
            except BaseException as error:  # The waiting thread decides what it means.
                finished.put((index, error))

    threads: list[threading.Thread] = []
    try:
        with cancel_after(stop):
            for _ in range(min(limit, len(functions))):
                # Daemons, because a server that hangs must not keep the process alive.
                thread = threading.Thread(
                    target=copy_context().run,
                    args=(work,),
                    name="image-variation-call",
                    daemon=True,
                )
                thread.start()
                threads.append(thread)
            for _ in functions:
                index, outcome = finished.get()
                if not isinstance(outcome, ImagesResponse | Exception):
                    raise outcome
                outcomes[index] = outcome
                report(outcome)
    except BaseException:
        end = monotonic() + stop_seconds
        for thread in threads:
            thread.join(max(0.0, end - monotonic()))
        raise
    return [outcomes[index] for index in range(len(functions))]
