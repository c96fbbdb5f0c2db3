"""The LangChain middleware that tells a model the names of the images in its conversation."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PureWindowsPath
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from langchain_image_variation.agents.conversation import Conversation, ResultImage
from langchain_image_variation.agents.conversation_storage import keep_images
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.langchain_messages import (
    block_images,
    collect_images,
    read_scope,
)
from langchain_image_variation.agents.message_image import MessageImage
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    excerpt,
)

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, TracePolicy
    from langchain.agents.middleware.types import ToolCallRequest, omit_payload
    from langgraph.config import get_config
    from langgraph.graph.message import REMOVE_ALL_MESSAGES
    from langgraph.runtime import Runtime
    from langgraph.types import Command
except ImportError as error:
    raise MissingExtraError.for_package(
        "The middleware", error.name, "langchain-image-variation[langchain]"
    ) from None

__all__ = ["ImageVariationMiddleware"]

_MAX_FILE_NAME = 80
"""The maximum length of a file name in a caption, in characters. Users choose these names,
and can make them long."""

_CAPTION = re.compile(r"(?: ?\[img_[0-9a-f]{8}(?:: [^\[\]]*)?\])+")


class ImageVariationMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Tells the model the names of the images in its conversation, and keeps these images.

    The names go into the messages, as a caption after each image: `[img_7c1e09ab: photo.jpg,
    1200x800]`. So the model knows them before its first call of the tool, and a summary can contain
    them. If the conversation has a `thread_id`, each image is also kept in its folder, within the
    limits of the tool. It can then be varied after its message was removed.

    Images from users are announced before the agent starts, and images from other tools when these
    return them. Both happen before a summary is made, so the position of this middleware in the
    list does not matter. A message is changed once and keeps its id.

    The tool is just as safe without this middleware. But it then keeps images only when it is
    called, and the model learns their names only from the tool's answers.

    Args:
        tool: The tool. It need not be a tool of the same agent: with `deepagents`, give this
            middleware to the agent that talks to the user, and the tool to a subagent.

    Raises:
        InvalidRequestError: If `tool` is something else.
    """

    # Otherwise each call of a tool would put all messages into a trace, with their images.
    trace_policy = TracePolicy(process_inputs=omit_payload)

    def __init__(self, tool: ImageVariationTool) -> None:
        super().__init__()
        if not isinstance(tool, ImageVariationTool):
            raise InvalidRequestError(
                f"tool must be an ImageVariationTool, got {excerpt(tool)}.", param="tool"
            )
        self._tool = tool

    def before_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Announce the images in the messages."""
        return self._update(state["messages"], get_config())

    async def abefore_agent(
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Do what `before_agent` does, without blocking the loop."""
        return await asyncio.to_thread(self._update, state["messages"], get_config())

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Announce the images that a tool returns."""
        return self._announce_result(handler(request), request.runtime.config)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Do what `wrap_tool_call` does, without blocking the loop."""
        result = await handler(request)
        return await asyncio.to_thread(self._announce_result, result, request.runtime.config)

    def _update(
        self, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> dict[str, Any] | None:
        """Return the update of the state: the messages that have changed, if there are any."""
        announced: list[BaseMessage] = self._announce(messages, config)
        changed = [new for old, new in zip(messages, announced, strict=True) if new is not old]
        if any(message.id is None for message in changed):
            # Without an id, an updated message would be added instead of replacing the old one.
            # With deepagents, a message that was passed as a tuple has none.
            return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *map(_with_id, announced)]}
        return {"messages": changed} if changed else None

    def _announce_result(
        self, result: ToolMessage | Command[Any], config: RunnableConfig
    ) -> ToolMessage | Command[Any]:
        if isinstance(result, ToolMessage):
            message: ToolMessage = self._announce([result], config)[0]
            return message
        update = result.update
        if isinstance(update, dict) and isinstance(messages := update.get("messages"), list):
            return replace(result, update={**update, "messages": self._announce(messages, config)})
        return result

    def _announce(self, messages: Sequence[Any], config: RunnableConfig) -> list[Any]:
        """Keep the images of messages, and return the messages with their names."""
        images = collect_images([m for m in messages if isinstance(m, BaseMessage)])
        if not any(isinstance(image, MessageImage) for image in images):
            return list(messages)
        try:
            keep_images(self._tool, Conversation(images, read_scope(config)))
        except ImageVariationError as error:
            # The agent can go on without it. A call of the tool reports the failure.
            log_hint(error.message)
        return [_with_names(message) for message in messages]


def _with_id(message: BaseMessage) -> BaseMessage:
    return message if message.id else message.model_copy(update={"id": str(uuid4())})


def _with_names(message: Any) -> Any:
    """Return a message with the names of its images, or the message itself if it has them."""
    # Providers refuse a model's answer that was changed.
    if not isinstance(message, HumanMessage | ToolMessage) or isinstance(message.content, str):
        return message
    # A thumbnail shows the results of a call, which have their own names.
    if any(isinstance(image, ResultImage) for image in collect_images([message])):
        return message
    content: list[Any] = []
    caption = ""
    for block in message.content:
        text = _text(block)
        if caption:
            content.append(block if text == caption else _text_block(caption))
            caption = ""
            # The caption of another image is forged, or left over from an edit.
            if _CAPTION.fullmatch(text):
                continue
        content.append(block)
        captions = (_caption(block, image) for image in block_images(block))
        caption = " ".join(filter(None, captions))
    if caption:
        content.append(_text_block(caption))
    if content == message.content:
        return message
    return message.model_copy(update={"content": content})


def _caption(block: Any, image: MessageImage) -> str:
    """Return the text with the name of an image, or "" if it has no name."""
    identity = image.identity
    if identity is None:
        return ""
    size = "x".join(map(str, identity.size)) if identity.size else None
    details = ", ".join(filter(None, (_file_name(block), size)))
    return f"[{identity.name}: {details}]" if details else f"[{identity.name}]"


def _file_name(block: Any) -> str | None:
    """Return the name of a block's file, if it has one that can be shown."""
    for part in (block, *(block.get(key) for key in ("extras", "metadata"))):
        for key in ("filename", "name"):
            value = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(value, str):
                name = PureWindowsPath(value).name
                is_short = 0 < len(name) <= _MAX_FILE_NAME
                if is_short and name.isprintable() and not {"[", "]"} & set(name):
                    return name
    return None


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _text(block: Any) -> str:
    text = block.get("text") if isinstance(block, Mapping) else block
    return text if isinstance(text, str) else ""
