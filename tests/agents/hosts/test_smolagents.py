"""Agents of smolagents."""

from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, Host

smolagents = pytest.importorskip("smolagents")


@pytest.fixture
def model(host: Host) -> Iterator[Any]:
    """Return a model of smolagents."""
    model = smolagents.OpenAIModel("scripted", api_base=f"{host.server.address}/v1")
    yield model
    model.client.close()


def test_an_agent_that_calls_tools(host: Host, model: Any) -> None:
    """A `ToolCallingAgent` varies an image, survives a mistake, and varies its own result."""
    host.run_example("smolagents", model, end=("final_answer", {"answer": "Done."}))
    host.check()
    parameters = host.server.requests[0]["tools"][0]["function"]["parameters"]
    assert [*parameters["properties"]] == ["image", "n"]
    assert parameters["properties"]["n"].items() >= BOUNDS.items()
    for name, schema in parameters["properties"].items():
        assert schema["description"] == host.tool.args[name]["description"]


CODE = """
<code>
print(image_variation(image="dog.png"))
print(image_variation(image="chelsea.png", n=2))
final_answer(image_variation("latest"))
</code>
"""


def test_an_agent_that_writes_code(host: Host, model: Any) -> None:
    """The code of a `CodeAgent` calls the tool as a function."""
    host.start(CODE)
    agent = smolagents.CodeAgent(tools=[smolagents.Tool.from_langchain(host.tool)], model=model)
    assert agent.run("Vary chelsea.png.").startswith("Made 1 variation of chelsea-")
    assert "There is no image 'dog.png' here" in agent.memory.steps[-1].observations
    assert host.events.progress == [(1, 2), (2, 2), (1, 1)]


def test_a_conversation_has_its_own_folder(host: Host, model: Any, thread: Context) -> None:
    """A context with a `thread_id` gives the results of the agent their own folder."""
    end = ("final_answer", {"answer": "Done."})
    thread.run(host.run_example, "smolagents", model, end=end)
    host.check("variations/*")
