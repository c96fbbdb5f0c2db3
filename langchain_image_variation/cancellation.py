"""Whether the caller of some work has gone away: for work in threads, which nobody can end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_image_variation.exceptions import EngineError

__all__ = ["cancel_after", "cancellation", "cancelled_error", "check_cancellation"]

_is_cancelled: ContextVar[Callable[[], bool]] = ContextVar("_is_cancelled", default=lambda: False)


def cancellation() -> Callable[[], bool]:
    """Return a function that says whether the call was cancelled.

    For engines: call this once in `create_variation`. Call the function it returns every now and
    then, from any thread. Once it returns True, nobody waits for the answer: raise any error to
    stop.
    """
    return _is_cancelled.get()


def check_cancellation() -> None:
    """Stop work that nobody waits for.

    Raises:
        EngineError: If the call was cancelled.
    """
    if _is_cancelled.get()():
        raise cancelled_error()


def cancelled_error() -> EngineError:
    """Return the error that ends work that nobody waits for."""
    return EngineError("The call was cancelled.")


@contextmanager
def cancel_after(event: threading.Event | None = None) -> Iterator[None]:
    """Cancel work of the block that goes on after its end.

    For a block that waits for a thread. If the waiting task is cancelled, the block ends at once,
    and `cancellation` tells the thread. What cancels the call around the block cancels it too.

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
