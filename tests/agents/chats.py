"""Conversations with uploads for tests: an agent, a thread, and what a user sends in it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from langchain_image_variation.agents.middleware import ImageVariationMiddleware
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from tests.agents.scripted import Answer, AnswerQueue


class RecordingEngine(InstantEngine):
    """The instant engine. It keeps the images that it got."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[bytes] = []

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return images of one color."""
        self.images.append(request.image.data)
        return super().create_variation(request)

    @property
    def hashes(self) -> list[str]:
        """The SHA-256 of each image, in hex."""
        return [hashlib.sha256(image).hexdigest() for image in self.images]


def image_block(image: bytes, **fields: Any) -> dict[str, Any]:
    """Return an image as a user's message contains it."""
    data = base64.b64encode(image).decode("ascii")
    return {"type": "image", "base64": data, "mime_type": "image/png", **fields}


def question(text: str, *images: bytes) -> HumanMessage:
    """Return a user's message with images."""
    return HumanMessage([{"type": "text", "text": text}, *map(image_block, images)])


def summarization(summary: str = "-", *, trigger: int = 4) -> SummarizationMiddleware[Any, Any]:
    """Return LangChain's middleware, which leaves a summary and the newest message."""
    return SummarizationMiddleware(
        AnswerQueue(script=[AIMessage(summary)] * 9),
        trigger=("messages", trigger),
        keep=("messages", 1),
    )


class Chat:
    """A thread of a real agent, whose model follows a script.

    Args:
        root: The folder of the tool.
        thread: The `thread_id`.
        saver: The checkpointer.
        middleware: Further middleware, which comes before ours.
        announces: Whether the agent has our middleware.
    """

    def __init__(
        self,
        root: Path,
        thread: str,
        saver: Any,
        *,
        middleware: Sequence[Any] = (),
        announces: bool = True,
    ) -> None:
        self.engine = RecordingEngine()
        self.model = AnswerQueue(script=[])
        self.config = RunnableConfig(configurable={"thread_id": thread})
        tool = ImageVariationTool(root_dir=root, engine=self.engine, fixed_size="256x256")
        ours = [ImageVariationMiddleware(tool)] if announces else []
        self.agent: Any = create_agent(
            self.model, [tool], middleware=[*middleware, *ours], checkpointer=saver
        )

    def say(
        self, message: HumanMessage | str, *answers: AIMessage | Answer, config: Any = None
    ) -> list[ToolMessage]:
        """Run a turn in which the model answers as given. Return what the tool answered."""
        self.model.script[:] = [*answers, AIMessage("Done.")]
        calls: list[str | None] = []
        results: dict[str, ToolMessage] = {}
        # The state at the end may lack some messages of this turn.
        for update in self.agent.stream({"messages": [message]}, config or self.config):
            for new in (update.get("model") or {}).get("messages", ()):
                calls += [call["id"] for call in new.tool_calls]
            for new in (update.get("tools") or {}).get("messages", ()):
                results[new.tool_call_id] = new
        return [results[call] for call in calls if call is not None]

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages of the thread."""
        messages: list[BaseMessage] = self.agent.get_state(self.config).values["messages"]
        return messages
