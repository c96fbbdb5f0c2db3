"""Reports each finished image to LangChain's callbacks and to the custom stream of a graph."""

import contextlib
import contextvars
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig

from langchain_image_variation.agents.image_listener import ImageListener, await_each

__all__ = ["PROGRESS_EVENT", "report_progress", "report_progress_async"]

PROGRESS_EVENT = "image_variation_progress"
"""The name of the custom event for each finished image, and the `type` of its chunk."""

_StreamWriter: TypeAlias = Callable[[object], object]


@contextlib.contextmanager
def report_progress(
    run: CallbackManagerForToolRun | None, runtime: Any
) -> Iterator[ImageListener | None]:
    """Yield a thread-safe listener that reports each finished image, or None if nobody can listen.

    Args:
        run: The run of the tool. Its handlers get the custom event `PROGRESS_EVENT`.
        runtime: A runtime that `is_runtime` accepts, or None. The custom stream of the graph gets a
            chunk with the same content.
    """
    write_chunk = _chunk_writer(runtime)
    if run is None and write_chunk is None:
        yield None
        return
    config = None if run is None else _event_config(run)
    errors: list[Exception] = []

    def dispatch(finished: int, n: int) -> None:
        try:
            if write_chunk is not None:
                write_chunk(finished, n)
            if config is not None:
                dispatch_custom_event(PROGRESS_EVENT, {"done": finished, "n": n}, config=config)
        # The engine calls this, and a handler's error must not look like one of the engine.
        except Exception as error:
            errors.append(error)

    yield dispatch
    if errors:
        raise errors[0]


@contextlib.asynccontextmanager
async def report_progress_async(
    run: AsyncCallbackManagerForToolRun | None, runtime: Any
) -> AsyncIterator[ImageListener | None]:
    """Do what `report_progress` does. The listener is called on the event loop."""
    write_chunk = _chunk_writer(runtime)
    if run is None and write_chunk is None:
        yield None
        return
    config = None if run is None else _event_config(run)

    async def dispatch(finished: int, n: int) -> None:
        if write_chunk is not None:
            write_chunk(finished, n)
        if config is not None:
            event = {"done": finished, "n": n}
            await adispatch_custom_event(PROGRESS_EVENT, event, config=config)

    async with await_each(dispatch) as listener:
        yield listener


def _chunk_writer(runtime: Any) -> ImageListener | None:
    """Return a thread-safe listener that writes to the custom stream of the call's graph."""
    write = _find_stream_writer(runtime)
    if write is None:
        return None
    call_id = None if runtime is None else runtime.tool_call_id

    def write_chunk(finished: int, n: int) -> None:
        write({"type": PROGRESS_EVENT, "tool_call_id": call_id, "done": finished, "n": n})

    return write_chunk


def _find_stream_writer(runtime: Any) -> _StreamWriter | None:
    """Return a function that writes to the custom stream of the graph, from any thread.

    Args:
        runtime: A runtime that `is_runtime` accepts, or None. Without one, the call may still run
            in a node of a graph.

    Returns:
        The function, or None outside a graph.
    """
    writer = _ambient_writer() if runtime is None else runtime.stream_writer
    if writer is None:
        return None
    # A graph's writer reads the name of its node from the context. An engine's thread has none.
    context = contextvars.copy_context()

    def write(chunk: object) -> None:
        context.copy().run(writer, chunk)

    return write


def _ambient_writer() -> _StreamWriter | None:
    """Return the writer of the node that calls the tool, or None."""
    module = sys.modules.get("langgraph.config")
    if module is None:
        return None
    try:
        writer: _StreamWriter = module.get_stream_writer()
    # Raised outside a graph, without a config or with that of another runnable.
    except (KeyError, RuntimeError):
        return None
    return writer


def _event_config(
    run: CallbackManagerForToolRun | AsyncCallbackManagerForToolRun,
) -> RunnableConfig:
    """Return a config for events of a run. The call's own config may have callbacks of others."""
    manager = run.get_child()
    # A child has the callbacks of the call, but not those of the tool's constructor.
    for handler in run.handlers:
        manager.add_handler(handler, inherit=False)
    return {"callbacks": manager}
