"""A chat model that follows a script, for tests of agents."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

Answer: TypeAlias = Callable[[Sequence[BaseMessage]], AIMessage]


class Scripted(BaseChatModel):
    """A chat model. A function of the conversation so far makes each of its answers."""

    script: list[Answer]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        """Accept any tools: the script knows them."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        return ChatResult(generations=[ChatGeneration(message=self.script[turn](messages))])


class AnswerQueue(BaseChatModel):
    """A chat model that gives its answers one after another, however long the history is.

    It keeps the messages that each of its answers was made from.
    """

    script: list[AIMessage | Answer]
    requests: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "answer-queue"

    def bind_tools(self, tools: Any, **options: Any) -> "AnswerQueue":
        """Accept any tools: the script knows them."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.requests.append(list(messages))
        answer = self.script.pop(0)
        message = answer if isinstance(answer, AIMessage) else answer(messages)
        return ChatResult(generations=[ChatGeneration(message=message)])


def call(**arguments: Any) -> dict[str, Any]:
    """Return a call of the tool, as a model makes it."""
    return {"name": "image_variation", "args": arguments, "id": "call_1", "type": "tool_call"}


def asks(*calls: dict[str, Any], **arguments: Any) -> AIMessage:
    """Return a model's message that calls the tool once, or several times in parallel."""
    tool_calls = [{**call(**kwargs), "id": f"call_{uuid4()}"} for kwargs in calls or (arguments,)]
    return AIMessage("", tool_calls=tool_calls)
