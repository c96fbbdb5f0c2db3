"""Conversations for tests: pictures in messages, and what an agent puts into a call."""

import base64
from pathlib import Path
from typing import Any

from langchain.tools import ToolRuntime
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_image_variation.agents.tool import ImageVariationTool
from tests.agents.scripted import asks, call


def upload(picture: bytes) -> HumanMessage:
    """Return a message of a user with a picture."""
    data = base64.b64encode(picture).decode("ascii")
    block = {"type": "image", "base64": data, "mime_type": "image/png"}
    return HumanMessage(content=[{"type": "text", "text": "Vary this."}, block])


def runtime(state: Any, call_id: str | None = None) -> ToolRuntime[Any, Any]:
    """Return what an agent puts into a call, with a state."""
    return ToolRuntime(
        state=state,
        context=None,
        config={},
        stream_writer=lambda _: None,
        tool_call_id=call_id,
        store=None,
    )


class Talk:
    """A conversation of one user with an agent, in which only the tool is real.

    Args:
        tool: The tool.
        thread: The identity of the conversation, where it has one.
        messages: Those it begins with.
    """

    def __init__(
        self, tool: ImageVariationTool, thread: str | None = None, *messages: BaseMessage
    ) -> None:
        self.tool = tool
        self.messages: list[BaseMessage] = list(messages)
        self._config: Any = {"configurable": {"thread_id": thread}} if thread else {}

    def _asked(self, **arguments: Any) -> dict[str, Any]:
        message = asks(size="256x256", **arguments)
        self.messages.append(message)
        (asked,) = message.tool_calls
        given = runtime({"messages": self.messages}, asked["id"])
        return {**call(**asked["args"], runtime=given), "id": asked["id"]}

    def vary(self, image: str, **arguments: Any) -> ToolMessage:
        """Have the model call the tool, and return the message that the tool answers with."""
        answer = self.tool.invoke(self._asked(image=image, **arguments), self._config)
        assert isinstance(answer, ToolMessage)
        self.messages.append(answer)
        return answer

    async def avary(self, image: str, **arguments: Any) -> ToolMessage:
        """Do what `vary` does, on the loop."""
        answer = await self.tool.ainvoke(self._asked(image=image, **arguments), self._config)
        assert isinstance(answer, ToolMessage)
        self.messages.append(answer)
        return answer


def files(message: ToolMessage, root: Path) -> list[bytes]:
    """Return the pictures that a call made."""
    return [(root / image["path"]).read_bytes() for image in message.artifact["images"]]
