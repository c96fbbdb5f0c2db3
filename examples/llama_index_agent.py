"""A LlamaIndex agent varies a photo, and then one of the variations.

It runs offline, with a model that follows a script. The results are saved in `examples/variations`:

    pip install '.[llama-index]' && python examples/llama_index_agent.py

To use a real model, install LlamaIndex's package for it, and change the line in `main` that starts
with `llm =`, for example to `llm = OpenAI(model="gpt-5")` from `llama_index.llms.openai`.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCall, ToolCallResult
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory

from langchain_image_variation import ImageVariationToolSpec, load_engine
from langchain_image_variation.agents.tool_spec import ImageVariationProgress

HERE = Path(__file__).parent


def scripted_answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
    """Answer like a model that guesses a file name, reads the error, and corrects itself."""
    last = messages[-1]
    if last.role == "tool":
        text = str(last.content)
        if "There is no image" in text:
            return asks(image="latest", n=3, size="256x256")
        return ChatMessage(role="assistant", content=f"Done: {names(text)}.")
    if "second" in str(last.content):
        answer = next(m for m in reversed(messages) if m.role == "tool")
        return asks(image=names(str(answer.content)).split(", ")[1], size="256x256")
    return asks(image="cat.png", n=3, size="256x256")


def asks(**arguments: Any) -> ChatMessage:
    """Return a model's message that calls the tool."""
    block = ToolCallBlock(tool_name="image_variation", tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[block])


def names(text: str) -> str:
    """Return the names of the new images in an answer of the tool."""
    match = re.search(r"pixels: (.*?)\. Saved", text)
    return match[1] if match else "nothing"


async def say(agent: FunctionAgent, memory: Memory, *blocks: TextBlock | ImageBlock) -> None:
    """Send a message to the agent, and print what happens."""
    handler = agent.run(user_msg=ChatMessage(role="user", blocks=[*blocks]), memory=memory)
    async for event in handler.stream_events():
        if isinstance(event, ImageVariationProgress):
            print(f"  image {event.done} of {event.n}")
        elif isinstance(event, ToolCallResult):
            print(f"  {event.tool_name}: {event.tool_output.content}")
        elif isinstance(event, ToolCall):
            print(f"  calls {event.tool_name} with {event.tool_kwargs}")
    print(f"Agent: {await handler}")


async def main() -> None:
    """Ask for variations of a photo, and then of one of the variations."""
    llm = MockFunctionCallingLLM(response_generator=scripted_answer)
    spec = ImageVariationToolSpec(root_dir=HERE, engine=load_engine("local", seed=7), max_n=4)
    agent = FunctionAgent(tools=[*spec.to_tool_list()], llm=llm)
    memory = Memory.from_defaults(session_id="example")

    print("User: Make three variations of this cat. [chelsea.png]")
    photo = ImageBlock(image=(HERE / "chelsea.png").read_bytes())
    await say(agent, memory, TextBlock(text="Make three variations of this cat."), photo)
    print("User: Now vary the second.")
    await say(agent, memory, TextBlock(text="Now vary the second."))


if __name__ == "__main__":
    asyncio.run(main())
