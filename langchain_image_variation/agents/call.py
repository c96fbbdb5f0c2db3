"""A call of the tool: find the image, call the engine, save the results and describe them.

`call_tool` and `call_tool_async` do the same. A framework's tool only translates: from its
arguments and messages to `ImageVariationArguments` and a `Conversation`, and from a `CallResult` to
its own message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.call_result import CallResult, save_result
from langchain_image_variation.agents.conversation import Conversation
from langchain_image_variation.agents.image_listener import (
    ImageListener,
    listen_on_loop,
    report_finished_images,
)
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.paid_images import save_paid_images
from langchain_image_variation.agents.prepared_call import PreparedCall, prepare_call
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.context import ProgressListener
from langchain_image_variation.engines.traits import engine_base_url
from langchain_image_variation.exceptions import RateLimitError

__all__ = ["call_tool", "call_tool_async"]


def call_tool(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    listener: ImageListener | None = None,
) -> CallResult:
    """Make variations and save them.

    Args:
        settings: The settings of the tool.
        engines: Loads the engine of the settings, and keeps it for the next call.
        arguments: The arguments from the model.
        conversation: The conversation that the call belongs to. Without one, the call may use all
            results under `output_dir`.
        fields: Additional fields of the request: `model`, `response_format`, `user`.
        listener: Called after each finished image, from any thread.

    Returns:
        The text for the model, the artifact, and the images for the message.

    Raises:
        ToolCallError: If the model made a mistake. The message says what it can do, and which
            images it may use.
        Exception: If anything else fails. Wrap the call in `ToolErrorTranslation`, so that no model
            sees the original text.
    """
    flow = _flow(settings, engines, arguments, conversation, fields or {}, listener)
    step = next(flow)
    while True:
        outcome = step.run()
        try:
            step = flow.send(outcome)
        except StopIteration as end:
            result: CallResult = end.value
            return result


async def call_tool_async(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    listener: ImageListener | None = None,
    executor: Executor | None = None,
) -> CallResult:
    """Do what `call_tool` does without blocking the loop. The listener is called on the loop.

    Args:
        settings: See `call_tool`.
        engines: See `call_tool`.
        arguments: See `call_tool`.
        conversation: See `call_tool`.
        fields: See `call_tool`.
        listener: See `call_tool`.
        executor: The threads of sync engines; see `call_engine_async`.

    Raises:
        Exception: See `call_tool`.
    """
    with listen_on_loop(listener) as loop_listener:
        flow = _flow(
            settings, engines, arguments, conversation, fields or {}, loop_listener, executor
        )
        step = next(flow)
        while True:
            outcome = await step.run_async()
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: CallResult = end.value
                return result


@dataclass(frozen=True, slots=True)
class _Step:
    """A blocking part of a call, in its sync and async form. Its result is sent back to `_flow`."""

    run: Callable[[], Any]
    run_async: Callable[[], Awaitable[Any]]


def _work(function: Callable[[], Any]) -> _Step:
    """Return a step that reads or writes files. The async driver runs it in a thread."""

    async def run_async() -> Any:
        with cancel_after():
            return await asyncio.to_thread(function)

    return _Step(function, run_async)


def _flow(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None,
    fields: Mapping[str, Any],
    listener: ImageListener | None,
    executor: Executor | None = None,
) -> Generator[_Step, Any, CallResult]:
    """Yield the blocking steps of a call to the sync or the async driver, and return its result."""
    call: PreparedCall = yield _work(
        partial(prepare_call, settings, engines, arguments, conversation, fields)
    )
    n = call.request.n
    response = call.cached_response
    if response is None:
        limiter = settings.rate_limiter
        # A blocking `acquire` of LangChain's limiters always returns True. Others may refuse.
        if limiter is not None and (yield _Step(limiter.acquire, limiter.aacquire)) is False:
            raise RateLimitError("The rate limiter refused this call. Try again later.")
        progress = None if listener is None else report_finished_images(listener)
        if engine_base_url(call.engine) is not None:
            return (yield _paid_work(call, progress, executor))  # type: ignore[no-any-return]  # a step
        response = yield _Step(
            partial(call_engine, call.engine, call.request, progress=progress),
            partial(
                call_engine_async, call.engine, call.request, progress=progress, executor=executor
            ),
        )
    elif listener is not None:
        for finished in range(1, n + 1):
            listener(finished, n)
    return (yield _work(partial(save_result, call, response)))  # type: ignore[no-any-return]  # a step


def _paid_work(
    call: PreparedCall, progress: ProgressListener | None, executor: Executor | None
) -> _Step:
    """Return a step that calls a hosted engine and saves its images, in any case."""

    def run() -> CallResult:
        try:
            response = call_engine(call.engine, call.request, progress=progress)
        except CallInterrupt as interrupt:
            # If this fails, the log says so.
            with suppress(Exception):
                save_paid_images(call, interrupt.response, is_interrupted=True)
            raise
        return save_paid_images(call, response)

    async def run_async() -> CallResult:
        results: list[CallResult] = []
        response = await call_engine_async(
            call.engine,
            call.request,
            progress=progress,
            executor=executor,
            on_answer=lambda response: results.append(save_paid_images(call, response)),
        )
        if results:
            return results[0]
        # The engine is async, so nothing is saved yet.
        with cancel_after():
            save = partial(copy_context().run, save_paid_images, call, response)
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, save))

    return _Step(run, run_async)
