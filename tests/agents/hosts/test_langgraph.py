"""Graphs of LangGraph whose own nodes call the tool."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from tests.agents.hosts.conversation import CALLS, Host
from tests.agents.scripted import AnswerQueue, asks

pytestmark = pytest.mark.slow
THREAD: Any = {"configurable": {"thread_id": "user-7"}}


def conversation() -> list[Any]:
    """Return the model's answers of one conversation."""
    return [*(asks(*calls) for calls in CALLS), AIMessage("Done.")]


def texts(model: AnswerQueue) -> str:
    """Return the texts that the model has seen by the end."""
    return " ".join(message.text for message in model.requests[-1])


async def test_a_tool_node_calls_the_tool(host: Host) -> None:
    """A `ToolNode` in a graph, with another name of the messages, calls the tool."""
    model = AnswerQueue(script=conversation())
    graph = host.run_example("LangGraph", model)["agent"]
    host.check_texts(texts(model))
    for kind in ("sync", "async"):
        model.script[:] = conversation()
        host.start()
        messages = {"chat": [("user", "Vary chelsea.png.")]}
        if kind == "sync":
            graph.invoke(messages, THREAD)
        else:
            await graph.ainvoke(messages, THREAD)
        host.check_texts(texts(model), "variations/*")
