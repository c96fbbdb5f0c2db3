"""Calls an engine, sync or async: checks it and its answer, and reports its progress."""

from __future__ import annotations

import threading
from contextvars import copy_context
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.background_loop import run_in_background
from langchain_image_variation.engines.checks import (
    check_answer,
    check_engine,
    check_request,
    find_place_of_error,
)
from langchain_image_variation.engines.context import (
    ProgressListener,
    ProgressReporter,
    call_context,
)
from langchain_image_variation.exceptions import EngineError, ImageVariationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["call_engine", "call_engine_async"]


def call_engine(
    engine: VariationEngine | AsyncVariationEngine,
    request: CreateImageVariationRequest,
    *,
    progress: ProgressListener | None = None,
) -> ImagesResponse:
    """Ask an engine for variations, and check its answer.

    Args:
        engine: The engine. An async one runs on a loop in a thread of this module.
        request: What to ask for.
        progress: Called with each `Progress`, from any thread, but never from two at once. The last
            one has all images finished, whether or not the engine reports anything. An error that
            it raises ends the call and is passed on.

    Returns:
        The engine's answer. If only some of its images are wrong, reading one of those raises an
        error. The images of a hosted engine are not checked.

    Raises:
        InvalidRequestError: If `engine` is not an engine, or `request` is not a request.
        ImageVariationError: If the engine fails. An error from outside the tree becomes an
            `EngineError`, with that error as its `__cause__`. An answer that breaks a rule of
            `VariationEngine` is an `EngineError` too, which says what to return instead.
    """
    check_request(request)
    reporter = ProgressReporter(request.n, progress)
    try:
        # A property of the engine may raise any error.
        check_engine(engine)
        with call_context(reporter):
            answer: Any = _create(engine, request)
            if isawaitable(answer):
                answer = run_in_background(answer)
        response = _finish(answer, request, engine)
    except Exception as error:
        if isinstance(error, ImageVariationError) or reporter.listener_failed:
            raise
        raise _foreign_error(engine, error) from error
    reporter.all_finished()
    return response


async def call_engine_async(
    engine: VariationEngine | AsyncVariationEngine,
    request: CreateImageVariationRequest,
    *,
    progress: ProgressListener | None = None,
    wait_when_cancelled: bool = False,
    executor: Executor | None = None,
    on_answer: Callable[[ImagesResponse], object] | None = None,
) -> ImagesResponse:
    """Do what `call_engine` does without blocking the loop. A sync engine runs in a thread.

    If the call is cancelled, so is `engines.context.cancellation`, and the engine can stop.

    Args:
        engine: The engine.
        request: What to ask for.
        progress: See `call_engine`.
        wait_when_cancelled: Whether a cancelled call ends only when the thread of a sync engine
            does. By default the call ends immediately, and the thread continues until the engine
            stops.
        executor: The threads in which a sync engine runs, unless `wait_when_cancelled` is set. By
            default, those of `asyncio.to_thread`.
        on_answer: Called in such a thread with the answer of a sync engine, also if the call was
            cancelled. Billed engines then return what is finished. Without `on_answer`, an answer
            is lost if the call is cancelled before the loop takes it.

    Raises:
        ImageVariationError: See `call_engine`.
    """
    import asyncio

    cancel_event = threading.Event()
    check_request(request)
    reporter = ProgressReporter(request.n, progress)
    try:
        check_engine(engine)
        with call_context(reporter, cancel_event):
            answer: Any
            if iscoroutinefunction(engine.create_variation):
                # It does nothing before it is awaited, so it needs no thread.
                answer = engine.create_variation(request)
            elif wait_when_cancelled:
                answer = await _call_in_thread(engine, request, cancel_event)
            else:

                def create() -> Any:
                    answer = _create(engine, request)
                    if on_answer is not None and not isawaitable(answer):
                        answer = _finish(answer, request, engine)
                        on_answer(answer)
                    return answer

                run = partial(copy_context().run, create)
                answer = await asyncio.get_running_loop().run_in_executor(executor, run)
            if isawaitable(answer):
                answer = await _await(engine, answer)
        response = _finish(answer, request, engine)
    except Exception as error:
        if isinstance(error, ImageVariationError) or reporter.listener_failed:
            raise
        raise _foreign_error(engine, error) from error
    reporter.all_finished()
    return response


def _finish(answer: Any, request: CreateImageVariationRequest, engine: object) -> ImagesResponse:
    """Check an answer, and name its model if the request did and the engine did not."""
    response = check_answer(answer, request, engine)
    response.model = response.model or request.named_model
    return response


def _create(
    engine: VariationEngine | AsyncVariationEngine, request: CreateImageVariationRequest
) -> Any:
    """Call an engine, and translate errors that have a meaning for asyncio.

    A thread of asyncio cannot pass a `StopIteration` on: its caller would wait forever. A
    `CancelledError` would count as the caller's own cancellation, which no log shows.
    """
    from asyncio import CancelledError

    try:
        return engine.create_variation(request)
    except (StopIteration, CancelledError) as error:
        raise _foreign_error(engine, error) from error


async def _await(engine: object, answer: Any) -> Any:
    """Wait for an async engine, and translate a cancellation that the engine caused."""
    import asyncio

    try:
        return await answer
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _foreign_error(engine, error) from error


async def _call_in_thread(
    engine: VariationEngine | AsyncVariationEngine,
    request: CreateImageVariationRequest,
    cancel_event: threading.Event,
) -> Any:
    """Call an engine in a thread. If the caller is cancelled, tell the engine and wait for it."""
    import asyncio

    def call() -> Any:
        if cancel_event.is_set():
            # All threads were busy until now.
            raise asyncio.CancelledError
        return _create(engine, request)

    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancel_event.set()
            # The engine ends with any error. asyncio would log one that nobody has read.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait([task])
            raise
        return task.result()
    finally:
        # An error's frames would hold the task, which holds the error.
        del task


def _foreign_error(engine: object, error: BaseException) -> EngineError:
    """Return an error for one from outside the tree. It names the place, but not the text."""
    # No context manager raises it: since Python 3.12, an error that a generator's context manager
    # raises is part of a reference cycle, which would keep the images of the request.
    # The author of the engine may not know that an error can happen, such as one of a network.
    place = find_place_of_error(engine, error)
    return EngineError(
        f"The engine {type(engine).__name__} failed with {type(error).__name__}. Correct "
        f"{f'it at {place}' if place else 'the engine'}, or raise an ImageVariationError there."
    )
