"""An agent varies a photo from its user, and then one of the variations.

It runs offline. The model follows a script, in which it also makes two mistakes: it names an image
that does not exist, and it asks for too many variations. The results are saved in the folder
"variations" of the working directory:

    pip install '.[langchain]' && python examples/agent.py [PHOTO]

To use a real model, change the line that starts with `model =`, for example to
`model = "anthropic:claude-sonnet-5"`, and install its package, here langchain-anthropic.
"""

import base64
import sys
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult

from langchain_image_variation import ImageVariationTool

PHOTO = Path(__file__).parent / "chelsea.png"
PROMPT = (
    "Make four small variations of this photo, then two variations of the second one, "
    "and then one more of the last image."
)
SECOND = "the second variation"
"""What the script says instead of a name, which only the tool's answer has."""


class Scripted(GenericFakeChatModel):
    """A model that gives the answers of a script, whatever the question."""

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        """Accept any tools: the script knows them."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        """Return the next answer. Its tool call has the real name of the second variation."""
        result = super()._generate(messages, *args, **options)
        message = result.generations[0].message
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            if call["args"]["image"] == SECOND:
                first_answer = next(m for m in messages if isinstance(m, ToolMessage))
                call["args"]["image"] = first_answer.artifact["images"][1]["handle"]
        return result


def calls(**arguments: Any) -> AIMessage:
    """Return a message that calls the tool, as a model makes it."""
    call = {"name": "image_variation", "args": {**arguments, "size": "256x256"}, "id": "call"}
    return AIMessage("", tool_calls=[call])


SCRIPT = [
    calls(image="latest", n=4),
    calls(image="cat_final_v2.png", n=2),  # Does not exist: the error lists the images.
    calls(image=SECOND, n=20),  # 20 is too many.
    calls(image=SECOND, n=2),
    calls(image="latest"),
    AIMessage("Four variations, two of the second, and one more of the last image."),
]

model = Scripted(messages=iter(SCRIPT))


def main() -> None:
    """Run the agent on a message with the photo, and print what happens."""
    photo = Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTO
    image = {
        "type": "image",
        "base64": base64.b64encode(photo.read_bytes()).decode("ascii"),
        "mime_type": "image/png" if photo.suffix.lower() == ".png" else "image/jpeg",
    }
    question = HumanMessage([{"type": "text", "text": PROMPT}, image])
    agent = create_agent(model, tools=[ImageVariationTool(max_n=4)])
    print(f"user: {PROMPT} [{photo.name}]")
    # The thread_id gives the conversation its own folder of results.
    config = {"configurable": {"thread_id": photo.stem}}
    for step in agent.stream({"messages": [question]}, config, stream_mode="updates"):
        for update in step.values():
            for message in update["messages"]:
                show(message)


def show(message: BaseMessage) -> None:
    """Print a message with its tool calls, or with the paths of the new images."""
    for call in getattr(message, "tool_calls", ()):
        print(f"model calls {call['name']}: {call['args']}")
    if message.text:
        print(f"{'tool' if isinstance(message, ToolMessage) else 'model'}: {message.text}")
    if isinstance(message, ToolMessage) and message.status == "success":
        for image in message.artifact["images"]:
            print(f"  {image['path']}")


if __name__ == "__main__":
    main()
