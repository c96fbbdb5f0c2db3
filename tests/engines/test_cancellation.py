import asyncio
import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.context import cancellation
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import EngineError
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


async def test_an_engine_passes_its_cancellation_on() -> None:
    """An engine that calls another engine stops it when its own call is cancelled."""
    inner = SlowEngine()

    class OuterEngine:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            return call_engine(inner, request)

    call = asyncio.create_task(call_engine_async(OuterEngine(), REQUEST))
    assert await asyncio.to_thread(inner.started.wait, 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    inner.finish.set()
    assert await asyncio.to_thread(inner.was_cancelled.wait, 60)


async def test_errors_of_cancelled_engines_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An engine may stop with any error. The text of one may hold a secret."""
    engine = SlowEngine()
    call = asyncio.create_task(call_engine_async(engine, REQUEST, wait_when_cancelled=True))
    assert await asyncio.to_thread(engine.started.wait, 60)
    call.cancel()
    await asyncio.sleep(0)
    engine.finish.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    del call
    await asyncio.sleep(0)
    # asyncio logs an error that nobody has read when its task is collected.
    gc.collect()
    assert not caplog.records


async def test_a_call_cancelled_before_its_thread_starts() -> None:
    """While other work keeps all threads busy, the engine has not started."""
    engine, is_free = SlowEngine(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(is_free.wait, 60)
        call = asyncio.create_task(call_engine_async(engine, REQUEST, wait_when_cancelled=True))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(0)
        engine.finish.set()
        is_free.set()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert not engine.started.is_set()


async def test_errors_of_engines_free_their_images() -> None:
    """A cycle between an error and a task would keep the images of a request for a while."""
    engine = SlowEngine()
    engine.finish.set()
    gc.disable()
    try:
        with pytest.raises(EngineError) as info:
            await call_engine_async(engine, REQUEST, wait_when_cancelled=True)
        error = weakref.ref(info.value)
        del info
        await asyncio.sleep(0)
        assert error() is None
    finally:
        gc.enable()


class InnerCancellation:
    """An engine that fails because it cancelled its own task."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail as code does that waits for the task."""
        raise asyncio.CancelledError


class AsyncInnerCancellation:
    """The async twin of `InnerCancellation`."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Cancel a task, and wait for it."""
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        raise AssertionError


@pytest.mark.parametrize("engine", [InnerCancellation(), AsyncInnerCancellation()])
async def test_a_cancellation_inside_an_engine_is_its_failure(engine: Any) -> None:
    """A call that nobody cancelled does not end as if it had been cancelled."""
    message = f"The engine {type(engine).__name__} failed with CancelledError"
    for waits in (False, True):
        with pytest.raises(EngineError, match=message) as caught:
            await call_engine_async(engine, REQUEST, wait_when_cancelled=waits)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    with pytest.raises(EngineError, match=message):
        call_engine(engine, REQUEST)


async def test_a_cancelled_async_engine_is_cancelled() -> None:
    """The cancellation of a call reaches an async engine, and ends the call."""
    was_cancelled = False

    class Waiting:
        async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            nonlocal was_cancelled
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                was_cancelled = True
                raise
            raise AssertionError

    call = asyncio.create_task(call_engine_async(Waiting(), REQUEST))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert was_cancelled


async def test_a_call_that_is_cancelled_early_leaves_nothing() -> None:
    """If a call is cancelled as it starts, the coroutine of an async engine is still awaited."""

    class Engine:
        async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            await asyncio.Event().wait()
            raise AssertionError

    with warnings.catch_warnings(record=True) as caught:
        call = asyncio.create_task(call_engine_async(Engine(), REQUEST, wait_when_cancelled=True))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        del call
        gc.collect()
    assert not caught


class LateEngine:
    """Answers although its call was cancelled.

    Args:
        answer: What it returns, right or wrong.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.started = threading.Event()
        self.finish = threading.Event()

    def create_variation(self, request: CreateImageVariationRequest) -> Any:
        """Answer once it may."""
        self.started.set()
        self.finish.wait(60)
        return self.answer


@pytest.mark.parametrize("is_right", [True, False])
async def test_the_answer_of_a_cancelled_call_is_not_lost(is_right: bool) -> None:
    """A late answer is passed on from the engine's thread, unless it breaks a rule."""
    response = ImagesResponse.from_pngs([square_png(256)], response_format="b64_json")
    engine = LateEngine(response if is_right else "no response")
    answers: list[tuple[ImagesResponse, bool]] = []
    with ThreadPoolExecutor(1) as executor:
        call = asyncio.create_task(
            call_engine_async(
                engine,
                CreateImageVariationRequest(image=SquarePNG(square_png(8)), size="256x256"),
                executor=executor,
                on_answer=lambda answer: answers.append((answer, cancellation()())),
            )
        )
        assert await asyncio.to_thread(engine.started.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        engine.finish.set()
    assert answers == ([(response, True)] if is_right else [])


async def test_the_answer_of_an_async_engine_is_only_returned() -> None:
    """An async engine has no thread from which its answer could be passed on."""

    class Engine:
        async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            return InstantEngine().create_variation(request)

    answers: list[ImagesResponse] = []
    response = await call_engine_async(Engine(), REQUEST, on_answer=answers.append)
    assert len(response.data) == 1
    assert answers == []
