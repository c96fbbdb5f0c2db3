"""Runs functions at once in threads, and stops them if the caller is interrupted."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic

from langchain_image_variation.cancellation import (
    cancel_after,
    stop_request,
    stop_when,
)
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
    unbegun_error: Exception,
    unended_error: Exception,
) -> tuple[list[Outcome], KeyboardInterrupt | None]:
    """Return what each function returned, or the error that it raised, in order.

    The first `KeyboardInterrupt` stops the functions (see `stop_request`), and is returned when
    they have ended. A second one ends the wait. If the caller has stopped the functions already,
    an interrupt is raised at once. If `report` raises another error, the functions are cancelled,
    and the error is raised when they have ended.

    Args:
        functions: What to run. Even a single one has a thread, so that an interrupt cannot end it
            halfway.
        limit: The maximum number of threads.
        stop_seconds: How long to wait for functions that were stopped or cancelled, in seconds.
        report: Called in this thread with each outcome as it arrives.
        unbegun_error: The outcome of functions that were stopped before they began.
        unended_error: The outcome of functions that have not ended when the wait does. They are
            cancelled.

    Raises:
        BaseException: What `report` raises, or what a function raises if it is not an `Exception`.
    """
    waiting: SimpleQueue[tuple[int, Callable[[], ImagesResponse]]] = SimpleQueue()
    finished: SimpleQueue[int] = SimpleQueue()
    outcomes: dict[int, ImagesResponse | BaseException] = {}
    unbegun: set[int] = set()
    for item in enumerate(functions):
        waiting.put(item)
    stop, is_outer_stopped = threading.Event(), stop_request()
    threads: list[threading.Thread] = []

    def work() -> None:
        with suppress(Empty):
            while True:
                index, function = waiting.get_nowait()
                try:
                    outcomes[index] = function()
                except BaseException as error:  # The waiting thread decides what it means.
                    outcomes[index] = error
                finished.put(index)

    def outcome_of(index: int) -> Outcome:
        outcome = outcomes.get(index)
        if outcome is None:
            return unbegun_error if index in unbegun else unended_error
        if not isinstance(outcome, ImagesResponse | Exception):
            raise outcome
        return outcome

    def take_back_unbegun() -> None:
        with suppress(Empty):
            while True:
                unbegun.add(waiting.get_nowait()[0])

    def join() -> None:
        end = monotonic() + stop_seconds
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, end - monotonic()))

    interrupt: KeyboardInterrupt | None = None
    try:
        with cancel_after(), stop_when(stop.is_set):
            try:
                for _ in range(min(limit, len(functions))):
                    # Daemons, because a server that hangs must not keep the process alive.
                    thread = threading.Thread(
                        target=copy_context().run,
                        args=(work,),
                        name="image-variation-call",
                        daemon=True,
                    )
                    # Listed first, because an interrupt may come while it starts.
                    threads.append(thread)
                    thread.start()
                for _ in functions:
                    report(outcome_of(finished.get()))
            except KeyboardInterrupt as error:
                if is_outer_stopped():
                    raise  # It is the second one.
                interrupt = error
                stop.set()
                with suppress(KeyboardInterrupt):
                    take_back_unbegun()
                    join()
    except KeyboardInterrupt:
        raise
    except BaseException:
        join()
        raise
    try:
        return [outcome_of(index) for index in range(len(functions))], interrupt
    finally:
        # The frames of the errors hold the dictionary.
        outcomes.clear()
