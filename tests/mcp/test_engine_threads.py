import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.mcp.engine_threads import MAX_ENGINE_CALLS, EngineThreads


@pytest.fixture
def threads() -> Iterator[EngineThreads]:
    """Threads that end after the test."""
    with EngineThreads() as threads:
        yield threads


def test_waiting_has_a_limit(threads: EngineThreads) -> None:
    """The wait ends although a call is in progress."""
    finish = threading.Event()
    future = threads.submit(finish.wait, 60)
    threads.wait_until_idle(0)
    assert not future.done()
    finish.set()


def test_waiting_ends_with_the_last_call(threads: EngineThreads) -> None:
    """The wait ends once all calls have ended, whether or not they failed."""
    finish = threading.Event()
    futures: list[Future[Any]] = [threads.submit(finish.wait, 60), threads.submit(int, "x")]
    threading.Timer(0.05, finish.set).start()
    threads.wait_until_idle(60)
    assert all(future.done() for future in futures)


def test_too_many_calls_are_refused(threads: EngineThreads) -> None:
    """A call that would have to wait for a thread is refused."""
    finish = threading.Event()
    futures = [threads.submit(finish.wait, 60) for _ in range(MAX_ENGINE_CALLS)]
    with pytest.raises(RateLimitError, match=f"{MAX_ENGINE_CALLS} engine calls are in progress"):
        threads.submit(int)
    finish.set()
    for future in futures:
        assert future.result()
