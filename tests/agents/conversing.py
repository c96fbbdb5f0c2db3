"""Conversations for tests: images in messages, and what an agent injects into a call."""

import base64
from pathlib import Path
from typing import Any

from langchain.tools import ToolRuntime
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_image_variation.agents.tool import ImageVariationTool
from tests.agents.scripted import asks, call


def upload(image: bytes) -> HumanMessage:
    """Return a user message with an image."""
    data = base64.b64encode(image).decode("ascii")
    block = {"type": "image", "base64": data, "mime_type": "image/png"}
    return HumanMessage(content=[{"type": "text", "text": "Vary this."}, block])


def runtime(state: Any, call_id: str | None = None) -> ToolRuntime[Any, Any]:
    """Return what an agent injects into a call, with the given state."""
    return ToolRuntime(
        state=state,
        context=None,
        config={},
        stream_writer=lambda _: None,
        tool_call_id=call_id,
        store=None,
    )


class Talk:
    """A conversation between one user and an agent, in which only the tool is real.

    Args:
        tool: The tool.
        thread: The `thread_id` of the conversation, if it has one.
        messages: The messages that it starts with.
    """

    def __init__(
        self, tool: ImageVariationTool, thread: str | None = None, *messages: BaseMessage
    ) -> None:
        self.tool = tool
        self.messages: list[BaseMessage] = list(messages)
        self._config: Any = {"configurable": {"thread_id": thread}} if thread else {}

    def _next_call(self, **arguments: Any) -> dict[str, Any]:
        message = asks(size="256x256", **arguments)
        self.messages.append(message)
        (tool_call,) = message.tool_calls
        injected_runtime = runtime({"messages": self.messages}, tool_call["id"])
        return {**call(**tool_call["args"], runtime=injected_runtime), "id": tool_call["id"]}

    def vary(self, image: str, **arguments: Any) -> ToolMessage:
        """Let the model call the tool, and return the message of the tool."""
        answer = self.tool.invoke(self._next_call(image=image, **arguments), self._config)
        assert isinstance(answer, ToolMessage)
        self.messages.append(answer)
        return answer

    async def avary(self, image: str, **arguments: Any) -> ToolMessage:
        """Do what `vary` does, on the event loop."""
        answer = await self.tool.ainvoke(self._next_call(image=image, **arguments), self._config)
        assert isinstance(answer, ToolMessage)
        self.messages.append(answer)
        return answer


def files(message: ToolMessage, root: Path) -> list[bytes]:
    """Return the files of the images that a call made."""
    return [(root / image["path"]).read_bytes() for image in message.artifact["images"]]
