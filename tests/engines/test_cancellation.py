import asyncio
import threading

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.engines.context import cancellation
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

REQUEST = CreateImageVariationRequest(image=SquarePNG(square_png(8)))


class SlowEngine:
    """Notices a cancellation only when it may finish."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.finish = threading.Event()
        self.was_cancelled = threading.Event()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Work until it may finish, and then fail."""
        is_cancelled = cancellation()
        self.started.set()
        self.finish.wait(60)
        if is_cancelled():
            self.was_cancelled.set()
        raise RuntimeError


@pytest.mark.parametrize("wait", [True, False])
async def test_a_cancelled_call_may_wait_for_the_engine(wait: bool) -> None:
    """A cancelled call ends at once by default, and otherwise waits until the engine stops."""
    engine = SlowEngine()
    call = asyncio.create_task(call_engine_async(engine, REQUEST, wait_when_cancelled=wait))
    assert await asyncio.to_thread(engine.started.wait, 60)
    call.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert call.done() == (not wait)
    engine.finish.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(engine.was_cancelled.wait, 60)


async def test_a_second_cancellation_ends_the_call() -> None:
    """A second cancellation ends a call, so that a closing loop does not wait for the engine."""
    engine = SlowEngine()
    call = asyncio.create_task(call_engine_async(engine, REQUEST, wait_when_cancelled=True))
    assert await asyncio.to_thread(engine.started.wait, 60)
    for _ in range(2):
        call.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert call.done()
    engine.finish.set()
    with pytest.raises(asyncio.CancelledError):
        await call
