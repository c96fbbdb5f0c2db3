"""Agents of Pydantic AI."""

from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, CALLS, Host

pydantic_ai = pytest.importorskip("pydantic_ai")
langchain = pytest.importorskip("pydantic_ai.ext.langchain")
openai = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")


@pytest.fixture
def model(host: Host) -> Any:
    """Return a model of Pydantic AI."""
    provider = providers.OpenAIProvider(base_url=f"{host.server.address}/v1")
    return openai.OpenAIChatModel("scripted", provider=provider)


def test_an_agent_recovers_from_a_mistake(host: Host, model: Any) -> None:
    """An agent varies an image, survives a mistake, and varies its own result."""
    host.run_example("Pydantic AI", model)
    host.check()
    function = host.server.requests[0]["tools"][0]["function"]
    assert function["description"] == host.tool.description
    assert [*function["parameters"]["properties"]] == ["image", "n"]
    assert function["parameters"]["properties"]["n"].items() >= BOUNDS.items()


async def test_an_async_agent_does_the_same(host: Host, model: Any) -> None:
    """`run` does the same as `run_sync`."""
    host.start(*CALLS, "Done.")
    agent = pydantic_ai.Agent(model, tools=[langchain.tool_from_langchain(host.tool)])
    assert (await agent.run("Vary chelsea.png.")).output == "Done."
    host.check()


def test_a_conversation_has_its_own_folder(host: Host, model: Any, thread: Context) -> None:
    """A context with a `thread_id` gives the results of the agent their own folder."""
    thread.run(host.run_example, "Pydantic AI", model)
    host.check("variations/*")
