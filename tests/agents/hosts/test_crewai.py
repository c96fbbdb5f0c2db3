"""Agents of CrewAI."""

import asyncio
from contextvars import Context
from typing import Any

import pytest

from tests.agents.hosts.conversation import CALLS, Host

crewai = pytest.importorskip("crewai")


@pytest.fixture
def model(host: Host) -> Any:
    """Return a model of CrewAI."""
    return crewai.LLM("openai/gpt-4.1", base_url=f"{host.server.address}/v1")


def test_a_crew_recovers_from_a_mistake(host: Host, model: Any) -> None:
    """A crew varies an image, survives a mistake, and varies its own result."""
    host.run_example("CrewAI", model)
    host.check()
    parameters = host.server.requests[0]["tools"][0]["function"]["parameters"]
    assert [*parameters["properties"]] == ["image", "n", "size"]
    assert parameters["properties"]["n"]["maximum"] == 10


def test_an_async_crew_in_a_conversation(host: Host, model: Any, thread: Context) -> None:
    """`akickoff` in a context with a `thread_id` uses the conversation's own folder."""
    crew = host.run_example("CrewAI", model)["crew"]
    host.start(*CALLS, "Done.")
    thread.run(asyncio.run, crew.akickoff())
    host.check("variations/*")
