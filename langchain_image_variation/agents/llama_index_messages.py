"""Reads a `Conversation` from LlamaIndex messages, and from the context of an agent's run."""

import asyncio
import io
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_index.core.agent.workflow.workflow_events import ToolCallResult
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.memory import BaseMemory
from llama_index.core.memory.types import DEFAULT_CHAT_STORE_KEY
from llama_index.core.workflow import Context

from langchain_image_variation.agents.announcement import parse_announcement
from langchain_image_variation.agents.conversation import (
    Conversation,
    ResultImage,
    scope_name,
)
from langchain_image_variation.agents.message_image import MessageImage
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["CALLS_KEY", "collect_images", "read_conversation"]

CALLS_KEY = "image_variation_calls"
"""The key under which the store of a context records the calls to the tool."""

_OBSERVATION = "\nObservation: "
"""What precedes a tool's answer in the messages of a ReAct agent."""


async def read_conversation(ctx: Context, tool: str) -> Conversation:
    """Return the conversation that a call belongs to.

    Its images are those in the agent's memory and in the results of the current run. Its identity
    is the memory's `session_id`, or its `chat_store_key` if that is not the default, at the time of
    the first call. Without either, it is the context, whose store records it.

    Args:
        ctx: The context of the agent's run.
        tool: The name of the tool. Its calls are counted: those recorded in the context, and the
            answers that the memory had before the first of them.

    Raises:
        InvalidRequestError: If the context has a typed state that cannot record the calls.
    """
    memory = await ctx.store.get("memory", default=None)
    known_messages = await _memory_messages(memory)
    messages = known_messages or []
    tool_results = await ctx.store.get("current_tool_calls", default=[])
    all_messages = [*messages, *_new_messages(tool_results, messages)]
    # The messages may contain many megabytes of images.
    images = await asyncio.to_thread(collect_images, all_messages)
    answers = sum(bool(_result_images(message)) for message in messages)
    scope, calls = await _record_call(ctx, tool, _identity(memory), answers)
    return Conversation(images, scope, calls, has_messages=known_messages is not None)


def collect_images(messages: Iterable[ChatMessage]) -> list[MessageImage | ResultImage]:
    """Return the images in messages, the oldest first."""
    images: list[MessageImage | ResultImage] = []
    for message in messages:
        # A thumbnail shows the results again, so it does not count.
        images += _result_images(message) or _message_images(message.blocks)
    return images


async def _memory_messages(memory: object) -> list[ChatMessage] | None:
    """Return the messages in a memory, or None if there is no memory that can list them."""
    if not isinstance(memory, BaseMemory):
        return None
    try:
        return await memory.aget_all()
    # Raised by a memory that can only be searched.
    except (NotImplementedError, ValueError):
        return None


def _new_messages(tool_results: object, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the tool results of this run that are not in the memory yet, as messages.

    An agent adds them to the memory when it finishes, or when it hands over to another agent. Their
    ids are unique only within a run: some models use the name of the tool.
    """
    ids_in_memory: list[Any] = []
    for message in reversed(messages):
        if message.role == MessageRole.USER:
            break
        if message.role == MessageRole.TOOL:
            ids_in_memory.append(message.additional_kwargs.get("tool_call_id"))
    new_messages = []
    for result in tool_results if isinstance(tool_results, list) else ():
        if isinstance(result, ToolCallResult):
            if result.tool_id in ids_in_memory:
                ids_in_memory.remove(result.tool_id)
            else:
                blocks = result.tool_output.blocks
                new_messages.append(ChatMessage(role=MessageRole.TOOL, blocks=blocks))
    return new_messages


def _result_images(message: ChatMessage) -> list[ResultImage]:
    """Return the results that an answer of the tool names, in a message or in a ReAct step."""
    texts: list[str] = []
    for block in message.blocks:
        if isinstance(block, TextBlock) and message.role == MessageRole.TOOL:
            texts.append(block.text)
        elif isinstance(block, TextBlock) and message.role == MessageRole.ASSISTANT:
            texts += block.text.split(_OBSERVATION)[1:]
    return [image for text in texts for image in parse_announcement(text)]


def _message_images(blocks: Sequence[Any]) -> list[MessageImage]:
    return [image for block in blocks for image in _block_images(block)]


def _block_images(block: object) -> Iterator[MessageImage]:
    """Yield the image of a block, if it has one.

    The methods of a block itself would read any path and fetch any URL.
    """
    if isinstance(block, ImageBlock):
        yield _message_image(block.image, block.url)
    elif isinstance(block, DocumentBlock):
        if str(block.document_mimetype).startswith("image/"):
            yield _message_image(block.data, block.url)
    elif isinstance(block, CitableBlock):
        for nested_block in block.content:
            yield from _block_images(nested_block)


def _message_image(data: object, url: object) -> MessageImage:
    if isinstance(data, io.BytesIO):
        return MessageImage(None, file=data.getvalue())
    # The bytes of a block are base64 already.
    if isinstance(data, bytes) and data:
        return MessageImage(None, data)
    return MessageImage(str(url) if url else None)


def _identity(memory: object) -> str | None:
    """Return what distinguishes a memory from all others, or None."""
    key = getattr(memory, "chat_store_key", DEFAULT_CHAT_STORE_KEY)
    return getattr(memory, "session_id", None) or (key if key != DEFAULT_CHAT_STORE_KEY else None)


async def _record_call(
    ctx: Context, tool: str, identity: str | None, answers: int
) -> tuple[str, int]:
    """Record a call. Return the scope of the conversation, and how many calls came before.

    Parallel calls each add an entry, and the store puts these in order. Editing the state as a
    whole would copy the memory with its images.
    """
    call_id = secrets.token_hex(8)
    records = await ctx.store.get(CALLS_KEY, default=None) or {}
    first_record = next(
        iter(records.values()), {"conversation": identity or call_id, "answers": answers}
    )
    try:
        await ctx.store.set(f"{CALLS_KEY}.{call_id}", {**first_record, "tool": tool})
    except (AttributeError, TypeError, ValueError):
        raise InvalidRequestError(
            "The state of this workflow cannot record the calls to the tool. Add this field to it: "
            f"{CALLS_KEY}: dict = {{}}."
        ) from None
    records = await ctx.store.get(CALLS_KEY)
    first_record = next(iter(records.values()))
    call_ids = [key for key, record in records.items() if record["tool"] == tool]
    earlier_calls = first_record["answers"] + call_ids.index(call_id)
    return scope_name(first_record["conversation"]), earlier_calls
