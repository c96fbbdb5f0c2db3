"""A stand-in for a chat model, with which the apps in this folder run offline.

It calls the tool once for each message: for the image that the message names or brings, and for the
number of variations in the message, or else 4.
"""

import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

IMAGE_NAME = re.compile(r"\bimg_[0-9a-f]{8}\b|\b[\w.-]+-[0-9a-f]{8,64}-\d+\b")


class OfflineModel(BaseChatModel):
    """Turns each message of the user into one call of the tool."""

    @property
    def _llm_type(self) -> str:
        return "offline"

    def bind_tools(self, tools: Any, **options: Any) -> "OfflineModel":
        """Accept any tools: it always calls the same one."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        last = messages[-1]
        answer = call_tool(last.text)
        if isinstance(last, ToolMessage):
            is_error = last.status == "error"
            answer = AIMessage(
                "That did not work." if is_error else "Name one of them to vary it again."
            )
        return ChatResult(generations=[ChatGeneration(message=answer)])


def call_tool(text: str) -> AIMessage:
    """Return a message that calls the tool, as a model makes it."""
    name = IMAGE_NAME.search(text)
    number = re.search(r"\b\d+\b", IMAGE_NAME.sub("", text))
    arguments = {
        "image": name[0] if name else "latest",
        "n": int(number[0]) if number else 4,
        "size": "512x512",
    }
    return AIMessage("", tool_calls=[{"name": "image_variation", "args": arguments, "id": "call"}])
