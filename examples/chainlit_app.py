"""A chat with Chainlit: send a photo, and see its variations.

It runs offline, with a stand-in for a model. The images are saved in the folder "chat-images" of
the working directory. To start it:

    pip install '.[langchain]' chainlit
    chainlit run examples/chainlit_app.py

To use a real model, change the line that starts with `model =`, for example to
`model = "anthropic:claude-sonnet-5"`, and install its package, here langchain-anthropic.
"""

import asyncio
import base64
from pathlib import Path

import chainlit as cl
from langchain.agents import create_agent
from langchain_core.messages import ContentBlock, HumanMessage, ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from offline_model import OfflineModel

from langchain_image_variation import ImageVariationTool
from langchain_image_variation.agents.tool import PROGRESS_EVENT

FOLDER = Path("chat-images")
FOLDER.mkdir(exist_ok=True)

model = OfflineModel()
# A failure becomes a text, so that the chat goes on.
tool = ImageVariationTool(root_dir=FOLDER, max_n=8, raise_on=())
agent = create_agent(model, tools=[tool], checkpointer=InMemorySaver())


@cl.on_chat_start
async def greet() -> None:
    """Say what the chat can do."""
    await cl.Message(
        "Send a photo. Say how many variations you want, or name one to vary it again."
    ).send()


@cl.on_message
async def answer(message: cl.Message) -> None:
    """Run the agent, and show its progress, its images and its words."""
    blocks: list[ContentBlock] = [create_text_block(message.content or "Vary this.")]
    for element in message.elements:
        if element.path and (element.mime or "").startswith("image/"):
            data = base64.b64encode(Path(element.path).read_bytes()).decode("ascii")
            blocks.append(create_image_block(base64=data, mime_type=element.mime))
    # Each chat has its own folder of results.
    config: RunnableConfig = {"configurable": {"thread_id": cl.context.session.thread_id}}
    question = HumanMessage(content_blocks=blocks)
    status = cl.Message("")
    async for event in agent.astream_events({"messages": [question]}, config):
        if event["name"] == PROGRESS_EVENT:
            status.content = "{done} of {n} images".format(**event["data"])
            await status.update()
        elif event["event"] == "on_tool_start":
            status.content = "Varying the image…"
            await status.send()
        elif event["event"] == "on_tool_end":
            await show_results(event["data"]["output"], status)
        elif event["event"] == "on_chat_model_end" and event["data"]["output"].text:
            await cl.Message(event["data"]["output"].text).send()


async def show_results(answer: ToolMessage, status: cl.Message) -> None:
    """Show the images of a call, or the text of a mistake."""
    images = [] if answer.status == "error" else answer.artifact["images"]
    if images:
        status.content += f": {', '.join(image['handle'] for image in images)}"
    else:
        status.content = answer.text
    await status.update()
    for index, image in enumerate(images):
        file = await asyncio.to_thread(tool.open_result, answer.artifact, index)
        # One after another: the elements of a message would be shown in any order.
        await cl.Image(name=image["handle"], content=file.read()).send(for_id=status.id)
