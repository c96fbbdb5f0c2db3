"""Agents of LlamaIndex for tests, with a model that follows a script."""

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
    """Return LlamaIndex's own mock model. A function of the messages makes each answer."""
    turns = iter(script)

    def answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        return next(turns)(messages)

    return MockFunctionCallingLLM(response_generator=answer)


def asks(*calls: dict[str, Any], tool: str = "image_variation", **arguments: Any) -> Turn:
    """Return a turn that calls the tool once, or several times in parallel."""
    blocks = [
        ToolCallBlock(tool_call_id=uuid4().hex, tool_name=tool, tool_kwargs=kwargs)
        for kwargs in calls or (arguments,)
    ]
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)


def reasons(**arguments: Any) -> Turn:
    """Return a turn that calls the tool in the text format of ReAct."""
    text = f"Thought: I try.\nAction: image_variation\nAction Input: {json.dumps(arguments)}"
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, content=text)


def says(text: str = "Done.") -> Turn:
    """Return a turn that ends the run of either kind of agent."""
    content = f"Thought: I can answer without any more tools.\nAnswer: {text}"
    return lambda _: ChatMessage(role=MessageRole.ASSISTANT, content=content)


def upload(*pngs: bytes) -> ChatMessage:
    """Return a user message with images."""
    images = [ImageBlock(image=png) for png in pngs]
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="Vary this."), *images])


async def outputs(
    agent: BaseWorkflowAgent | AgentWorkflow,
    message: ChatMessage | str | None = "Go on.",
    **options: Any,
) -> list[ToolOutput]:
    """Run an agent to its end, and return the outputs of its tools, in order."""
    handler = agent.run(user_msg=message, **options)
    all_events = [event async for event in handler.stream_events()]
    assert isinstance(await handler, AgentOutput)
    return [event.tool_output for event in all_events if isinstance(event, ToolCallResult)]


async def events(
    agent: BaseWorkflowAgent | AgentWorkflow,
    kind: type[Event],
    message: ChatMessage | str,
    **options: Any,
) -> list[Any]:
    """Run an agent to its end, and return its events of one kind."""
    handler = agent.run(user_msg=message, **options)
    matches = [event async for event in handler.stream_events() if isinstance(event, kind)]
    await handler
    return matches
