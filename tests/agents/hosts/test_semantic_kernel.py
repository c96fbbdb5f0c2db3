"""Agents of Semantic Kernel."""

from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, Host

kernel = pytest.importorskip("semantic_kernel.connectors.ai.open_ai")
openai = pytest.importorskip("openai")


@pytest.fixture
def model(host: Host) -> Any:
    """Return a service of Semantic Kernel."""
    client = openai.AsyncOpenAI(base_url=f"{host.server.address}/v1")
    return kernel.OpenAIChatCompletion("scripted", async_client=client)


def test_an_agent_recovers_from_a_mistake(host: Host, model: Any) -> None:
    """An agent varies an image, survives a mistake, and varies its own result."""
    host.run_example("Semantic Kernel", model)
    host.check()
    function = host.server.requests[0]["tools"][0]["function"]
    assert function["name"] == "images-image_variation"
    assert [*function["parameters"]["properties"]] == ["image", "n"]
    assert function["parameters"]["required"] == ["image"]
    assert function["parameters"]["properties"]["n"].items() >= BOUNDS.items()


def test_a_conversation_has_its_own_folder(host: Host, model: Any, thread: Context) -> None:
    """A context with a `thread_id` gives the results of the agent their own folder."""
    thread.run(host.run_example, "Semantic Kernel", model)
    host.check("variations/*")
