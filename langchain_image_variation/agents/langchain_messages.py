"""Reads a `Conversation` from LangChain messages, and from what an agent injects into a call."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.runnables import RunnableConfig

from langchain_image_variation.agents.announcement import parse_announcement
from langchain_image_variation.agents.artifact import read_image
from langchain_image_variation.agents.conversation import (
    Conversation,
    ResultImage,
    scope_name,
)
from langchain_image_variation.agents.message_image import MessageImage
from langchain_image_variation.contract import MAX_N

__all__ = [
    "block_images",
    "collect_images",
    "is_runtime",
    "messages_key",
    "read_conversation",
    "read_scope",
]


def is_runtime(value: object) -> bool:
    """Return whether a value is the `runtime` that an agent injects. A model cannot forge one.

    LangGraph is not imported here: if a value is a runtime, LangGraph is imported already.
    """
    module = sys.modules.get("langgraph.prebuilt.tool_node")
    runtime_class = getattr(module, "ToolRuntime", None)
    return isinstance(runtime_class, type) and isinstance(value, runtime_class)


def read_conversation(runtime: Any, config: RunnableConfig, tool: str) -> Conversation | None:
    """Return the conversation that a call belongs to, or None if there is none.

    Args:
        runtime: A runtime that `is_runtime` accepts, or None.
        config: The config of the call. Its `thread_id` is the identity of the conversation.
        tool: The name of the tool. Its calls are counted.
    """
    scope = read_scope(config)
    if runtime is None:
        return None if scope is None else Conversation(scope=scope, has_messages=False)
    messages = _find_messages(runtime)
    calls = _count_calls(messages, tool, runtime.tool_call_id)
    return Conversation(collect_images(messages), scope, calls)


def read_scope(config: RunnableConfig) -> str | None:
    """Return the name of a conversation's own folder, or None if the config has no `thread_id`."""
    thread_id = (config.get("configurable") or {}).get("thread_id")
    return None if thread_id is None else scope_name(str(thread_id))


def collect_images(messages: Sequence[BaseMessage]) -> list[MessageImage | ResultImage]:
    """Return the images in messages, the oldest first. Every provider's format is read."""
    images: list[MessageImage | ResultImage] = []
    for message in messages:
        results = _result_images(message) if isinstance(message, ToolMessage) else []
        # A thumbnail shows the results again, so it does not count.
        images += results or _message_images(message)
    return images


def block_images(block: str | dict[Any, Any]) -> list[MessageImage]:
    """Return the images in one block of a message's content. Every provider's format is read."""
    return _message_images(HumanMessage(content=[block]))


def messages_key(runtime: Any) -> str | None:
    """Return the key of the call's messages in the state of its graph.

    Args:
        runtime: A runtime that `is_runtime` accepts.

    Returns:
        "messages" or any other name, or None if the state is a list, which has no key.
    """
    key, _ = _call_messages(runtime)
    return key


def _find_messages(runtime: Any) -> list[BaseMessage]:
    """Return the messages that a call belongs to."""
    _, items = _call_messages(runtime)
    return [message for item in items for message in _as_messages(item)]


def _call_messages(runtime: Any) -> tuple[str | None, list[Any]]:
    """Return the list of messages that contains the call, or else the first list, and its key."""
    lists = list(_message_lists(runtime.state))
    for key, items in lists:
        messages = (item for item in reversed(items) if isinstance(item, AIMessage))
        calls = next((message.tool_calls for message in messages), [])
        if any(call["id"] == runtime.tool_call_id for call in calls):
            return key, items
    return lists[0] if lists else (None, [])


def _message_lists(state: object) -> Iterator[tuple[str | None, list[Any]]]:
    """Yield the lists of a state that have messages, with their keys. "messages" is the first."""
    if isinstance(state, list):
        values: dict[Any, Any] = {None: state}
    elif isinstance(state, Mapping):
        values = {"messages": state.get("messages"), **state}
    else:
        attributes = getattr(state, "__dict__", {})
        values = {"messages": getattr(state, "messages", None), **attributes}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, BaseMessage) for item in value):
            yield key, value


def _as_messages(item: Any) -> list[BaseMessage]:
    """Convert an item of a state, which may be a dict or a tuple. Return [] if that fails."""
    if isinstance(item, BaseMessage):
        return [item]
    try:
        return convert_to_messages([item])
    # A client may put anything into the state, and converting it may raise any error.
    except Exception:
        return []


def _count_calls(messages: Sequence[BaseMessage], tool: str, current_id: str | None) -> int:
    """Return how many calls to the tool came before the current one."""
    names: list[str] = []
    current_index = None
    for message in messages:
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            # Some models give the same id to all their calls. The last one is the current one.
            if current_id is not None and call["id"] == current_id:
                current_index = len(names)
            names.append(call["name"])
    return names[:current_index].count(tool)


def _result_images(message: ToolMessage) -> list[ResultImage]:
    """Return the results that a message of this tool names."""
    if message.artifact is None and message.status != "error":
        # Some clients store only the text. Then the results are looked up in the thread's folder.
        return parse_announcement(message.text)
    return list(_read_artifact(message.artifact))


def _read_artifact(artifact: object) -> Iterator[ResultImage]:
    """Yield the results in an artifact of this tool."""
    images = artifact.get("images") if isinstance(artifact, Mapping) else None
    for image in images[:MAX_N] if isinstance(images, list) else ():
        if (result := read_image(image)) is not None:
            yield result


def _message_images(message: BaseMessage) -> list[MessageImage]:
    if isinstance(message.content, str):
        return []
    blocks: Sequence[Any] = message.content
    if not all(map(_is_readable, blocks)):
        try:
            blocks = message.content_blocks
        # A client may put anything into a message.
        except (AttributeError, KeyError, TypeError, ValueError):
            return []
    return [image for block in blocks for image in _block_images(block)]


def _is_readable(block: object) -> bool:
    """Return whether a block can be read directly. `content_blocks` would copy its image."""
    if not isinstance(block, Mapping):
        return isinstance(block, str)
    kind = block.get("type")
    is_standard = "source_type" not in block and ("base64" in block or "url" in block)
    return (kind == "image" and is_standard) or kind in ("text", "image_url") or _is_bedrock(block)


def _is_bedrock(block: Mapping[Any, Any]) -> bool:
    """Return whether a block is a text or an image in Bedrock's own format, which has bytes."""
    is_text = isinstance(block.get("text"), str)
    return "type" not in block and (is_text or isinstance(block.get("image"), Mapping))


def _block_images(block: object) -> Iterator[MessageImage]:
    """Yield the image of a block, if it has one."""
    if not isinstance(block, Mapping):
        return
    kind = block.get("type")
    if kind == "non_standard":
        yield from _provider_images(block.get("value"))
    elif kind == "image" and not {"image", "source"} & set(block):
        yield _message_image(block.get("base64"), block.get("url"))
    elif kind in ("image", "image_url") or _is_bedrock(block):
        yield from _provider_images(block)
    elif kind == "file" and str(block.get("mime_type")).startswith("image/"):
        yield _message_image(block.get("base64"), block.get("url"))


def _provider_images(block: object) -> Iterator[MessageImage]:
    """Yield the image of a block in a provider's format that `content_blocks` does not convert."""
    if not isinstance(block, Mapping):
        return
    if block.get("type") in ("image_url", "input_image"):
        # Both APIs of OpenAI. In the older one, the URL may also stand alone.
        url = block.get("image_url")
        yield _message_image(None, url.get("url") if isinstance(url, Mapping) else url)
    for data in (block.get("inline_data"), block if block.get("type") == "media" else None):
        # Gemini.
        if isinstance(data, Mapping) and str(data.get("mime_type")).startswith("image/"):
            yield _message_image(data.get("data"), data.get("file_uri"))
    image = block.get("image")
    source = image.get("source") if isinstance(image, Mapping) else block.get("source")
    if isinstance(source, Mapping) and (block.get("type") == "image" or image is not None):
        # Anthropic and Bedrock.
        yield _message_image(source.get("data") or source.get("bytes"), source.get("url"))


def _message_image(data: object, url: object) -> MessageImage:
    if isinstance(data, bytes) and data:
        return MessageImage(None, file=data)
    if isinstance(data, str) and data:
        return MessageImage(None, data)
    return MessageImage(url if isinstance(url, str) and url else None)
