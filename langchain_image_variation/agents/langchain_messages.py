"""From LangChain messages and the runtime of an agent to a `Conversation`."""

import base64
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig

from langchain_image_variation.agents.conversation import (
    Conversation,
    MadePicture,
    SharedPicture,
    announced,
    scope_name,
)
from langchain_image_variation.contract import MAX_N

__all__ = ["conversation_of", "is_runtime", "pictures_of"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HANDLE = re.compile(r"\w[\w.-]{0,99}")


def is_runtime(value: object) -> bool:
    """Say whether a value is what an agent puts in as `runtime`, and nothing a model could forge.

    Whoever makes one has imported LangGraph, so this need not.
    """
    module = sys.modules.get("langgraph.prebuilt.tool_node")
    kind = getattr(module, "ToolRuntime", None)
    return isinstance(kind, type) and isinstance(value, kind)


def conversation_of(runtime: Any, config: RunnableConfig, tool: str) -> Conversation | None:
    """Return the conversation a call belongs to, or None if it belongs to none.

    Args:
        runtime: A genuine runtime, or None.
        config: Of the call; its `thread_id` gives the conversation an identity.
        tool: The tool's name, to count its calls.
    """
    thread = (config.get("configurable") or {}).get("thread_id")
    scope = None if thread is None else scope_name(str(thread))
    if runtime is None:
        return None if scope is None else Conversation(scope=scope)
    messages = _messages(runtime.state)
    return Conversation(pictures_of(messages), scope, _calls(messages, tool, runtime.tool_call_id))


def pictures_of(messages: Sequence[BaseMessage]) -> list[SharedPicture | MadePicture]:
    """Return the pictures of messages, the oldest first, whatever provider's shape they came in."""
    pictures: list[SharedPicture | MadePicture] = []
    for message in messages:
        made = _results(message) if isinstance(message, ToolMessage) else []
        # A thumbnail beside the artifact shows the same pictures.
        pictures += made or _shared(message)
    return pictures


def _messages(state: Any) -> list[BaseMessage]:
    """Return the messages of a graph's state: under "messages", or under whatever name it has."""
    if isinstance(state, Mapping):
        values = [state.get("messages"), *state.values()]
    elif isinstance(state, list):
        values = [state]
    else:
        values = [getattr(state, "messages", None), *getattr(state, "__dict__", {}).values()]
    for value in values:
        if isinstance(value, list) and any(isinstance(item, BaseMessage) for item in value):
            return [message for item in value for message in _message(item)]
    return []


def _message(item: Any) -> list[BaseMessage]:
    """Return a message, also of a form that models take and a state may keep, or nothing."""
    if isinstance(item, BaseMessage):
        return [item]
    try:
        return convert_to_messages([item])
    # A client may have put anything there.
    except Exception:
        return []


def _calls(messages: Sequence[BaseMessage], tool: str, current: str | None) -> int:
    names: list[str] = []
    before = None
    for message in messages:
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            # Some models give all their calls the same id: this one is the last of it.
            if current is not None and call["id"] == current:
                before = len(names)
            names.append(call["name"])
    return names[:before].count(tool)


def _results(message: ToolMessage) -> list[MadePicture]:
    """Return the results that a message of this tool names."""
    if message.artifact is None and message.status != "error":
        # A client may keep the text alone; then they are found in the thread's own folder.
        return announced(message.text)
    return list(_made(message.artifact))


def _made(artifact: Any) -> Iterator[MadePicture]:
    """Yield the results that an artifact of this tool names."""
    images = artifact.get("images") if isinstance(artifact, Mapping) else None
    for image in images[:MAX_N] if isinstance(images, list) else ():
        if not isinstance(image, Mapping):
            continue
        handle, path, sha256 = (image.get(key) for key in ("handle", "path", "sha256"))
        if not (isinstance(handle, str) and isinstance(path, str) and isinstance(sha256, str)):
            continue
        # Whoever forges a message may put anything there, and a handle is shown.
        if _HANDLE.fullmatch(handle) and _SHA256.fullmatch(sha256):
            yield MadePicture(handle, path, sha256)


def _shared(message: BaseMessage) -> list[SharedPicture]:
    if isinstance(message.content, str):
        return []
    blocks: Sequence[Any] = message.content
    if not all(map(_is_common, blocks)):
        try:
            blocks = message.content_blocks
        # A client may have put anything into a message.
        except (AttributeError, KeyError, TypeError, ValueError):
            return []
    return [picture for block in blocks for picture in _pictures(block)]


def _is_common(block: Any) -> bool:
    """Say whether a block is read as it is; `content_blocks` copies the pictures of others."""
    if not isinstance(block, Mapping):
        return isinstance(block, str)
    kind = block.get("type")
    ours = kind == "image" and ("base64" in block or "url" in block) and "source_type" not in block
    return ours or kind in ("text", "image_url")


def _pictures(block: Any) -> Iterator[SharedPicture]:
    """Yield what a block holds, if it is a picture."""
    if not isinstance(block, Mapping):
        return
    kind = block.get("type")
    if kind == "non_standard":
        yield from _foreign(block.get("value"))
    elif kind == "image" and not {"image", "source"} & set(block):
        yield _picture(block.get("base64"), block.get("url"))
    elif kind in ("image", "image_url"):
        yield from _foreign(block)
    elif kind == "file" and str(block.get("mime_type")).startswith("image/"):
        yield _picture(block.get("base64"), block.get("url"))


def _foreign(value: Any) -> Iterator[SharedPicture]:
    """Yield the picture of a shape that `content_blocks` leaves as it is."""
    if not isinstance(value, Mapping):
        return
    if value.get("type") in ("image_url", "input_image"):
        # OpenAI's two APIs, the older one in short too.
        address = value.get("image_url")
        yield _picture(None, address.get("url") if isinstance(address, Mapping) else address)
    for data in (value.get("inline_data"), value if value.get("type") == "media" else None):
        # Gemini.
        if isinstance(data, Mapping) and str(data.get("mime_type")).startswith("image/"):
            yield _picture(data.get("data"), data.get("file_uri"))
    image = value.get("image")
    source = image.get("source") if isinstance(image, Mapping) else value.get("source")
    if isinstance(source, Mapping) and (value.get("type") == "image" or image is not None):
        # Anthropic and Bedrock.
        yield _picture(source.get("data") or source.get("bytes"), source.get("url"))


def _picture(data: object, url: object) -> SharedPicture:
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode("ascii")
    if isinstance(data, str) and data:
        return SharedPicture(None, data)
    return SharedPicture(url if isinstance(url, str) and url else None)
