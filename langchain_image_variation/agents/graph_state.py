"""Adds the images of a call to the state of the graph of LangGraph that it runs in.

LangGraph is not imported here before it is needed: if a call runs in a graph, it is imported
already.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage

from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.langchain_messages import messages_key
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    excerpt,
)

if TYPE_CHECKING:
    from langgraph.types import Command

__all__ = ["add_images", "check_state_key", "update_state"]


def add_images(
    images: Sequence[dict[str, Any]] | None, new_images: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Add images to those in the state of a graph. This is a reducer for the key `state_key`.

    An image that is already there is not added again. A cached call returns it once more, and so
    does a subgraph that shares the key.

    Args:
        images: The images in the state. None means that there are none yet.
        new_images: The images of an update, each with its `path`. None adds nothing.
    """
    all_images = (*(images or ()), *(new_images or ()))
    return list({image["path"]: image for image in all_images}.values())


def check_state_key(key: str) -> str:
    """Return a key of a graph's state for images, if it is valid and LangGraph is installed.

    Raises:
        InvalidRequestError: If the key is empty, or that of the messages.
        MissingExtraError: If LangGraph is not installed.
    """
    if not isinstance(key, str) or not key or key == "messages":
        raise InvalidRequestError(
            "state_key must name a key of the state for images, such as 'images', got "
            f"{excerpt(key)}.",
            param="state_key",
        )
    try:
        import langgraph.types  # noqa: F401  # `update_state` needs it
    except ImportError as error:
        raise MissingExtraError.for_package(
            "state_key", error.name, "langchain-image-variation[langchain]"
        ) from None
    return key


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
    name = messages_key(runtime)
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
