"""What a call gives to the graph of LangGraph that it runs in: progress, and updates of its state.

LangGraph is not imported here before it is needed: if a call runs in a graph, it is imported
already.
"""

import contextvars
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.messages import ToolMessage

from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.langchain_messages import messages_key
from langchain_image_variation.exceptions import excerpt

if TYPE_CHECKING:
    from langgraph.types import Command

__all__ = ["StreamWriter", "add_images", "find_stream_writer", "update_state"]

StreamWriter: TypeAlias = Callable[[object], object]


def find_stream_writer(runtime: Any) -> StreamWriter | None:
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


def _ambient_writer() -> StreamWriter | None:
    """Return the writer of the node that calls the tool, or None."""
    module = sys.modules.get("langgraph.config")
    if module is None:
        return None
    try:
        writer: StreamWriter = module.get_stream_writer()
    # Raised outside a graph, without a config or with that of another runnable.
    except (KeyError, RuntimeError):
        return None
    return writer


def add_images(
    images: Sequence[dict[str, Any]], new_images: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add images to those in the state of a graph. This is a reducer for the key `state_key`.

    An image that is already there is not added again. A cached call returns it once more, and so
    does a subgraph that shares the key.

    Args:
        images: The images in the state.
        new_images: The images of an update, each with its `path`.
    """
    return list({image["path"]: image for image in (*images, *new_images)}.values())


def update_state(
    runtime: Any, key: str, message: ToolMessage, images: Sequence[Mapping[str, Any]]
) -> "Command[Any] | None":
    """Return a command that adds a message and images to the state of the graph.

    Args:
        runtime: A runtime that `is_runtime` accepts.
        key: The key of the state for the images. It needs a reducer, such as `add_images`.
        message: The answer to the call.
        images: What the artifact says about the new images.

    Returns:
        The command, or None if the state is a list of messages, which has no keys.
    """
    state = runtime.state
    name = messages_key(state)
    if name is None:
        return None
    if not (key in state if isinstance(state, Mapping) else hasattr(state, key)):
        # LangGraph ignores an unknown key.
        log_hint(
            f"The state of the graph has no list of images under the state_key {excerpt(key)}. "
            "Declare it with a reducer: Annotated[list[dict], add_images]."
        )
    from langgraph.types import Command

    return Command(update={key: [dict(image) for image in images], name: [message]})
