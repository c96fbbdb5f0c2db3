"""Agents of LlamaIndex for tests: a model that follows a script, and what it says."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentWorkflow,
    BaseWorkflowAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import ToolOutput
from llama_index.core.workflow import Event

Turn = Callable[[Sequence[ChatMessage]], ChatMessage]


def scripted(*script: Turn) -> MockFunctionCallingLLM:
    """Return LlamaIndex's own model for tests, which answers by functions of the messages."""
    turns = iter(script)

    def answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        return next(turns)(messages)

    return MockFunctionCallingLLM(response_generator=answer)


def asks(*calls: dict[str, Any], tool: str = "image_variation", **arguments: Any) -> Turn:
    """Return a turn that calls the tool once, or at once with each of some arguments."""
    blocks = [
        ToolCallBlock(tool_call_id=uuid4().hex, tool_name=tool, tool_kwargs=each)
        for each in calls or (arguments,)
    ]
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)


def reasons(**arguments: Any) -> Turn:
    """Return a turn that calls the tool as a model without tool calls does, for ReAct."""
    text = f"Thought: I try.\nAction: image_variation\nAction Input: {json.dumps(arguments)}"
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, content=text)


def says(text: str = "Done.") -> Turn:
    """Return a turn that ends a run of either kind of agent."""
    content = f"Thought: I can answer without any more tools.\nAnswer: {text}"
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, content=content)


def upload(*pictures: bytes) -> ChatMessage:
    """Return a message of a user with pictures."""
    images = [ImageBlock(image=picture) for picture in pictures]
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="Vary this."), *images])


async def outputs(
    agent: BaseWorkflowAgent | AgentWorkflow,
    message: ChatMessage | str | None = "Go on.",
    **options: Any,
) -> list[ToolOutput]:
    """Run an agent to its end, and return what its tools gave back, in order."""
    handler = agent.run(user_msg=message, **options)
    found = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    assert isinstance(await handler, AgentOutput)
    return [event.tool_output for event in found]


async def events(
    agent: BaseWorkflowAgent | AgentWorkflow,
    kind: type[Event],
    message: ChatMessage | str,
    **options: Any,
) -> list[Any]:
    """Run an agent to its end, and return the events of one kind."""
    handler = agent.run(user_msg=message, **options)
    found = [event async for event in handler.stream_events() if isinstance(event, kind)]
    await handler
    return found
