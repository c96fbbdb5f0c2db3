"""An agent varies a photo that its user put into the conversation, and goes on from a variation.

It runs offline: the model follows a script, in which it also names a picture that does not exist
and asks for too many. Results go to the folder "variations" where it is run:

    pip install . 'langchain>=1.3.9' && python examples/agent.py [PHOTO]

For a real model, change the line that begins with `model =`, for example to
`model = "anthropic:claude-sonnet-5"`, and install its package, here langchain-anthropic.
"""

import base64
import sys
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_image_variation import ImageVariationTool

PHOTO = Path(__file__).parent / "chelsea.png"
ASKED = (
    "Make four small variations of this photo, then two of the second of them, "
    "and then one more of the last picture."
)


class Scripted(GenericFakeChatModel):
    """A model that says what is in a list, whatever it is asked."""

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        """Take any tools: the script knows them."""
        return self


def calls(**arguments: Any) -> AIMessage:
    """Return a message that calls the tool, as a model makes it."""
    call = {"name": "image_variation", "args": {**arguments, "size": "256x256"}, "id": "call"}
    return AIMessage("", tool_calls=[call])


SCRIPT = [
    calls(image="latest", n=4),
    calls(image="cat_final_v2.png", n=2),  # No such picture: the answer lists those there are.
    calls(image="img_3", n=20),  # img_1 is the photo, so the second variation; 20 are too many.
    calls(image="img_3", n=2),
    calls(image="latest"),
    AIMessage("Four variations, two of the second, and one more of the last picture."),
]

model = Scripted(messages=iter(SCRIPT))


def main() -> None:
    """Put the photo into a conversation, run the agent, and print what happens."""
    photo = Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTO
    picture = {
        "type": "image",
        "base64": base64.b64encode(photo.read_bytes()).decode("ascii"),
        "mime_type": "image/png" if photo.suffix.lower() == ".png" else "image/jpeg",
    }
    question = HumanMessage([{"type": "text", "text": ASKED}, picture])
    agent = create_agent(model, tools=[ImageVariationTool(max_n=4)])
    print(f"user: {ASKED} [{photo.name}]")
    # The conversation's identity: its results are kept in a folder of its own.
    config = {"configurable": {"thread_id": photo.stem}}
    for step in agent.stream({"messages": [question]}, config, stream_mode="updates"):
        for update in step.values():
            for message in update["messages"]:
                show(message)


def show(message: BaseMessage) -> None:
    """Print a message, and what a program reads from the artifact of a tool's."""
    for call in getattr(message, "tool_calls", ()):
        print(f"model calls {call['name']}: {call['args']}")
    if message.text:
        print(f"{'tool' if isinstance(message, ToolMessage) else 'model'}: {message.text}")
    if isinstance(message, ToolMessage) and message.status == "success":
        for image in message.artifact["images"]:
            print(f"  {image['path']}")


if __name__ == "__main__":
    main()
