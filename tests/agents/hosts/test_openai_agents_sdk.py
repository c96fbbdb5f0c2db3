"""Agents of the OpenAI Agents SDK."""

import asyncio
from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, CALLS, Host

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")


@pytest.fixture
def model(host: Host) -> Any:
    """Return a model of the SDK."""
    client = openai.AsyncOpenAI(base_url=f"{host.server.address}/v1")
    return agents.OpenAIChatCompletionsModel("scripted", client)


def test_an_agent_recovers_from_a_mistake(host: Host, model: Any) -> None:
    """An agent varies an image, survives a mistake, and varies its own result."""
    host.run_example("OpenAI Agents SDK", model)
    host.check()
    function = host.server.requests[0]["tools"][0]["function"]
    assert function["description"] == host.tool.description
    assert [*function["parameters"]["properties"]] == ["image", "n"]
    assert function["parameters"]["required"] == ["image"]
    assert function["parameters"]["properties"]["n"].items() >= BOUNDS.items()


def test_an_async_agent_in_a_conversation(host: Host, model: Any, thread: Context) -> None:
    """`Runner.run` in a context with a `thread_id` uses the conversation's own folder."""
    agent = host.run_example("OpenAI Agents SDK", model)["agent"]
    host.start(*CALLS, "Done.")
    result = thread.run(asyncio.run, agents.Runner.run(agent, "Vary chelsea.png."))
    assert result.final_output == "Done."
    host.check("variations/*")
