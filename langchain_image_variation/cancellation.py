"""Tells work in a thread what its caller wants, because threads cannot be killed.

A call is *cancelled* if nobody waits for its answer anymore. It is *stopped* if its caller still
waits, but only for images that are finished or already paid for.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_image_variation.exceptions import EngineError

__all__ = [
    "DELAY_SECONDS",
    "cancel_after",
    "cancellation",
    "cancelled_error",
    "check_cancellation",
    "delay_cancellation",
    "ignore_cancellation",
    "stop_request",
    "stop_when",
]

DELAY_SECONDS = 5.0
"""How long images that are paid for may still be downloaded and converted, in seconds, after their
call was cancelled."""

_is_cancelled: ContextVar[Callable[[], bool]] = ContextVar("_is_cancelled", default=lambda: False)
_is_stopped: ContextVar[Callable[[], bool]] = ContextVar("_is_stopped", default=lambda: False)


def cancellation() -> Callable[[], bool]:
    """Return a function that says whether the call was cancelled.

    In an engine, call this once in `create_variation`. Call the function that it returns now and
    then, from any thread. Once that returns True, nobody is waiting for the answer: raise any error
    to stop.
    """
    return _is_cancelled.get()


def check_cancellation() -> None:
    """Stop work that nobody is waiting for.

    Raises:
        EngineError: If the call was cancelled.
    """
    if _is_cancelled.get()():
        raise cancelled_error()


def cancelled_error() -> EngineError:
    """Return the error that ends cancelled work."""
    return EngineError("The call was cancelled.")


@contextmanager
def cancel_after(event: threading.Event | None = None) -> Iterator[None]:
    """Cancel work that the block started and that continues after its end.

    Use this around code that waits for a thread. If the waiting task is cancelled, the block ends
    at once, and `cancellation` tells the thread. Cancelling an enclosing call has the same effect.

    Args:
        event: Set at the end of the block, or earlier to cancel the call. By default, a new event.
    """
    event, is_outer_cancelled = event or threading.Event(), _is_cancelled.get()
    token = _is_cancelled.set(lambda: event.is_set() or is_outer_cancelled())
    try:
        yield
    finally:
        _is_cancelled.reset(token)
        event.set()


@contextmanager
def ignore_cancellation() -> Iterator[None]:
    """Let work in the block continue although its caller was cancelled.

    Use this around work that is short, and that cleans up or must not stop halfway.
    """
    token = _is_cancelled.set(lambda: False)
    try:
        yield
    finally:
        _is_cancelled.reset(token)


@contextmanager
def delay_cancellation() -> Iterator[None]:
    """Let work in the block continue for `DELAY_SECONDS` after its caller was cancelled.

    Use this around work on images that are paid for, such as their download, if it may take long.
    """
    is_cancelled, end = _is_cancelled.get(), float("inf")

    def is_cancelled_for_long() -> bool:
        nonlocal end
        if end == float("inf") and is_cancelled():
            end = time.monotonic() + DELAY_SECONDS
        return time.monotonic() > end

    token = _is_cancelled.set(is_cancelled_for_long)
    try:
        yield
    finally:
        _is_cancelled.reset(token)


def stop_request() -> Callable[[], bool]:
    """Return a function that says whether the call was stopped.

    For engines that are billed: once it returns True, start nothing more that costs money, cancel
    what can be cancelled, finish the rest, and return the finished images.
    """
    return _is_stopped.get()


@contextmanager
def stop_when(is_stopped: Callable[[], bool]) -> Iterator[None]:
    """Stop calls in the block once `is_stopped` or that of an enclosing block returns True."""
    is_outer_stopped = _is_stopped.get()
    token = _is_stopped.set(lambda: is_stopped() or is_outer_stopped())
    try:
        yield
    finally:
        _is_stopped.reset(token)
