"""A chat page with Streamlit: send a photo, and see its variations.

It runs offline, with a stand-in for a model. The images are saved in the folder "chat-images" of
the working directory. To start it:

    pip install '.[langchain]' streamlit
    streamlit run examples/streamlit_app.py

To use a real model, change the line that starts with `model =`, for example to
`model = "anthropic:claude-sonnet-5"`, and install its package, here langchain-anthropic.
"""

import asyncio
import base64
from pathlib import Path
from typing import Any
from uuid import uuid4

import streamlit as st
from langchain.agents import create_agent
from langchain_core.messages import AnyMessage, ContentBlock, HumanMessage, ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from offline_model import OfflineModel

from langchain_image_variation import ImageVariationTool
from langchain_image_variation.agents.tool import PROGRESS_EVENT
from langchain_image_variation.exceptions import OutputError

COLUMNS = 4


@st.cache_resource
def open_chat() -> tuple[Any, ImageVariationTool]:
    """Return the agent and its tool, which all visitors share."""
    folder = Path("chat-images")
    folder.mkdir(exist_ok=True)
    # A failure becomes a text, so that the chat goes on.
    tool = ImageVariationTool(root_dir=folder, max_n=8, raise_on=())
    model = OfflineModel()
    return create_agent(model, tools=[tool], checkpointer=InMemorySaver()), tool


def show(message: AnyMessage, tool: ImageVariationTool) -> None:
    """Show a message of the chat, with its images."""
    if isinstance(message, HumanMessage):
        with st.chat_message("user"):
            for block in message.content_blocks:
                if block["type"] == "image":
                    st.image(base64.b64decode(block["base64"]), width=240)
            st.markdown(message.text)
    elif isinstance(message, ToolMessage) and message.status == "error":
        st.chat_message("assistant").warning(message.text)
    elif isinstance(message, ToolMessage):
        with st.chat_message("assistant"):
            columns = st.columns(COLUMNS)
            for index, image in enumerate(message.artifact["images"]):
                column = columns[index % COLUMNS]
                try:
                    file = tool.open_result(message.artifact, index)
                    column.image(file, caption=image["handle"])
                except OutputError as error:
                    column.warning(error.problem)
    elif message.text:
        st.chat_message("assistant").markdown(message.text)


async def run(agent: Any, question: HumanMessage, config: RunnableConfig) -> None:
    """Run the agent, and show its progress."""
    with st.status("Thinking…") as status:
        async for event in agent.astream_events({"messages": [question]}, config):
            if event["name"] == PROGRESS_EVENT:
                status.update(label="{done} of {n} images".format(**event["data"]))


def main() -> None:
    """Show the chat so far, and answer the next message."""
    st.set_page_config("Image variations", "🖼️")
    st.title("Image variations")
    st.caption("Send a photo. Say how many variations you want, or name one to vary it again.")
    agent, tool = open_chat()
    thread = st.session_state.setdefault("thread", uuid4().hex)
    config: RunnableConfig = {"configurable": {"thread_id": thread}}
    messages = agent.get_state(config).values.get("messages", [])
    for message in messages:
        show(message, tool)
    files = ["png", "jpg", "jpeg", "webp"]
    prompt: Any = st.chat_input("Make 4 variations", accept_file=True, file_type=files)
    if not prompt:
        return
    blocks: list[ContentBlock] = [create_text_block(prompt.text or "Vary this.")]
    for file in prompt.files:
        data = base64.b64encode(file.getvalue()).decode("ascii")
        blocks.append(create_image_block(base64=data, mime_type=file.type))
    question = HumanMessage(content_blocks=blocks)
    show(question, tool)
    asyncio.run(run(agent, question, config))
    for message in agent.get_state(config).values["messages"][len(messages) + 1 :]:
        show(message, tool)


main()
