"""From LlamaIndex messages and the context of an agent's run to a `Conversation`."""

import asyncio
import base64
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

from langchain_image_variation.agents.conversation import (
    Conversation,
    MadePicture,
    SharedPicture,
    announced,
    scope_name,
)
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["CALLS_KEY", "conversation_of", "pictures_of"]

CALLS_KEY = "image_variation_calls"
"""Where the calls of the tool are noted in the store of a context."""

_OBSERVATION = "\nObservation: "


async def conversation_of(ctx: Context, tool: str) -> Conversation:
    """Return the conversation that a call belongs to.

    The pictures are those in the agent's memory and in the results of the run so far. What gives
    the conversation an identity is the memory's `session_id` or its own `chat_store_key`, as it was
    at the first call; if it has none, the context, in whose store it is noted.

    Args:
        ctx: The context of the agent's run.
        tool: The tool's name, to count its calls: those noted in the context, and before the first
            of them the answers in the memory.

    Raises:
        InvalidRequestError: If the context has a typed state that cannot note the calls.
    """
    memory = await ctx.store.get("memory", default=None)
    past = await _messages(memory)
    results = await ctx.store.get("current_tool_calls", default=[])
    # Pictures of many megabytes may lie in the messages.
    pictures = await asyncio.to_thread(pictures_of, [*past, *_unread(results, past)])
    answers = sum(bool(_made(message)) for message in past)
    scope, calls = await _noted(ctx, tool, _identity(memory), answers)
    return Conversation(pictures, scope, calls)


def pictures_of(messages: Iterable[ChatMessage]) -> list[SharedPicture | MadePicture]:
    """Return the pictures of messages, the oldest first."""
    pictures: list[SharedPicture | MadePicture] = []
    for message in messages:
        # A thumbnail beside the text shows the same pictures.
        pictures += _made(message) or _shared(message.blocks)
    return pictures


async def _messages(memory: object) -> list[ChatMessage]:
    if not isinstance(memory, BaseMemory):
        return []
    try:
        return await memory.aget_all()
    # What a memory raises that can only be searched.
    except (NotImplementedError, ValueError):
        return []


def _unread(results: object, past: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the results of the run so far that are not in the memory yet, as messages.

    An agent puts them there when it has finished, or when it hands over to another agent. Their ids
    are unique in one run at most: some models use the name of the tool.
    """
    read: list[Any] = []
    for message in reversed(past):
        if message.role == MessageRole.USER:
            break
        if message.role == MessageRole.TOOL:
            read.append(message.additional_kwargs.get("tool_call_id"))
    unread = []
    for result in results if isinstance(results, list) else ():
        if isinstance(result, ToolCallResult):
            if result.tool_id in read:
                read.remove(result.tool_id)
            else:
                blocks = result.tool_output.blocks
                unread.append(ChatMessage(role=MessageRole.TOOL, blocks=blocks))
    return unread


def _made(message: ChatMessage) -> list[MadePicture]:
    """Return the results that an answer of the tool names: its own message, or a step of ReAct."""
    texts: list[str] = []
    for block in message.blocks:
        if isinstance(block, TextBlock) and message.role == MessageRole.TOOL:
            texts.append(block.text)
        elif isinstance(block, TextBlock) and message.role == MessageRole.ASSISTANT:
            texts += block.text.split(_OBSERVATION)[1:]
    return [picture for text in texts for picture in announced(text)]


def _shared(blocks: Sequence[Any]) -> list[SharedPicture]:
    return [SharedPicture(url) for block in blocks for url in _urls(block)]


def _urls(block: object) -> Iterator[str | None]:
    """Yield the URL of a block that is a picture; None if the block does not hold it.

    A block's own methods would read any path and fetch any URL.
    """
    if isinstance(block, ImageBlock):
        yield _url(block.image, block.url)
    elif isinstance(block, DocumentBlock):
        if str(block.document_mimetype).startswith("image/"):
            yield _url(block.data, block.url)
    elif isinstance(block, CitableBlock):
        for nested in block.content:
            yield from _urls(nested)


def _url(data: object, url: object) -> str | None:
    if isinstance(data, io.BytesIO):
        data = base64.b64encode(data.getvalue())
    # A block keeps its bytes in base64.
    if isinstance(data, bytes) and data:
        return f"data:;base64,{data.decode('ascii', 'replace')}"
    return str(url) if url else None


def _identity(memory: object) -> str | None:
    """Return what tells a memory from all others, if anything does."""
    key = getattr(memory, "chat_store_key", DEFAULT_CHAT_STORE_KEY)
    return getattr(memory, "session_id", None) or (key if key != DEFAULT_CHAT_STORE_KEY else None)


async def _noted(ctx: Context, tool: str, identity: str | None, answers: int) -> tuple[str, int]:
    """Note a call, and return the scope of the conversation and how many calls came before.

    Calls that run at once each set an entry of their own, which the store puts one after another.
    An edit of the whole state would copy the memory with its pictures.
    """
    call = secrets.token_hex(8)
    noted = await ctx.store.get(CALLS_KEY, default=None) or {}
    first = next(iter(noted.values()), {"of": identity or call, "answers": answers})
    try:
        await ctx.store.set(f"{CALLS_KEY}.{call}", {**first, "tool": tool})
    except (AttributeError, TypeError, ValueError):
        raise InvalidRequestError(
            "The state of this workflow cannot note the calls of the tool; give it a field "
            f"{CALLS_KEY}: dict = {{}}."
        ) from None
    noted = await ctx.store.get(CALLS_KEY)
    first = next(iter(noted.values()))
    own = [key for key, note in noted.items() if note["tool"] == tool]
    return scope_name(first["of"]), first["answers"] + own.index(call)
