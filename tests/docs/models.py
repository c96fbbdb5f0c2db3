"""Chat models that call the tool as the pages' conversations expect, and need no service."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tests.agents.scripted import asks

FIRST: dict[str, Any] = {"image": "chelsea.png", "n": 3, "size": "256x256"}
NEXT: dict[str, Any] = {"image": "latest", "size": "256x256"}


class Caller(BaseChatModel):
    """A model of LangChain that answers each question with one call, and then ends the turn.

    It varies `chelsea.png` first, or the image that the user sent, and the newest one after that.
    """

    @property
    def _llm_type(self) -> str:
        return "caller"

    def bind_tools(self, tools: Any, **options: Any) -> "Caller":
        """Accept any tools: the model always calls ours."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = AIMessage("Done.")
        if not isinstance(messages[-1], ToolMessage):
            has_upload = any(isinstance(message.content, list) for message in messages)
            has_result = any(isinstance(message, ToolMessage) for message in messages)
            answer = asks(
                **({**FIRST, "image": "latest"} if has_upload else NEXT if has_result else FIRST)
            )
        return ChatResult(generations=[ChatGeneration(message=answer)])


def llama_index_model() -> Any:
    """Return a model of LlamaIndex that does the same, and ends each turn with the tool's text."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.llms.mock import MockFunctionCallingLLM

    from tests.agents.llama import asks, says

    def answer(messages: list[ChatMessage], **_: Any) -> ChatMessage:
        texts = [str(message.content) for message in messages]
        if messages[-1].role == MessageRole.TOOL:
            return says(texts[-1])(messages)
        later = any(message.role == MessageRole.TOOL for message in messages)
        if later or any("Answer: Made" in text for text in texts):
            assert any("Make three variations" in text for text in texts)
            return asks(**NEXT)(messages)
        return asks(**FIRST)(messages)

    return MockFunctionCallingLLM(response_generator=answer)
