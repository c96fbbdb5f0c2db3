"""Agents of AutoGen."""

from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import Host

openai = pytest.importorskip("autogen_ext.models.openai")


@pytest.fixture
def model(host: Host) -> Any:
    """Return a model of AutoGen."""
    return openai.OpenAIChatCompletionClient(
        model="scripted",
        base_url=f"{host.server.address}/v1",
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "family": "unknown",
            "structured_output": False,
        },
    )


def test_an_agent_recovers_from_a_mistake(host: Host, model: Any) -> None:
    """An agent varies an image, survives a mistake, and varies its own result."""
    host.run_example("AutoGen", model)
    host.check()
    parameters = host.server.requests[0]["tools"][0]["function"]["parameters"]
    assert [*parameters["properties"]] == ["image", "n", "size"]
    assert parameters["required"] == ["image"]
    assert parameters["properties"]["n"]["maximum"] == 10


def test_a_conversation_has_its_own_folder(host: Host, model: Any, thread: Context) -> None:
    """A context with a `thread_id` gives the results of the agent their own folder."""
    thread.run(host.run_example, "AutoGen", model)
    host.check("variations/*")
