"""Chat models of LangChain, each with the SDK of its vendor and a server in its wire format."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, CALLS, Host

agents = pytest.importorskip("langchain.agents")


def anthropic(address: str) -> Any:
    """Return a chat model of Anthropic."""
    package = pytest.importorskip("langchain_anthropic")
    return package.ChatAnthropic(model="claude-opus-4-5", base_url=address, api_key="sk-1")


def gemini(address: str) -> Any:
    """Return a chat model of Google."""
    package = pytest.importorskip("langchain_google_genai")
    return package.ChatGoogleGenerativeAI(model="gemini-3-pro", base_url=address, api_key="key")


def mistral(address: str) -> Any:
    """Return a chat model of Mistral."""
    package = pytest.importorskip("langchain_mistralai")
    return package.ChatMistralAI(model="mistral-large", base_url=f"{address}/v1", api_key="key")


def ollama(address: str) -> Any:
    """Return a chat model of Ollama."""
    package = pytest.importorskip("langchain_ollama")
    return package.ChatOllama(model="qwen3", base_url=address)


def openai(address: str) -> Any:
    """Return a chat model of OpenAI."""
    package = pytest.importorskip("langchain_openai")
    return package.ChatOpenAI(model="gpt-4.1", base_url=f"{address}/v1")


def declared_tool(request: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return the name, the description and the parameters of the only tool of a request."""
    (tool,) = request["tools"]
    if "functionDeclarations" in tool:
        (tool,) = tool["functionDeclarations"]
    tool = tool.get("function", tool)
    schemas = ("parameters", "input_schema", "parametersJsonSchema")
    return tool["name"], tool["description"], next(tool[key] for key in schemas if key in tool)


Model = Callable[[str], Any]
MODELS = pytest.mark.parametrize(
    "make",
    [
        pytest.param(anthropic, id="langchain-anthropic"),
        pytest.param(gemini, id="langchain-google-genai"),
        pytest.param(mistral, id="langchain-mistralai"),
        pytest.param(ollama, id="langchain-ollama"),
        pytest.param(openai, id="langchain-openai"),
    ],
)
"""The ids are the rows of the page, which the gate selects."""


@MODELS
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_agent_recovers_from_a_mistake(host: Host, make: Model, kind: str) -> None:
    """An agent varies an image, survives a mistake, and varies its own result."""
    agent = agents.create_agent(make(host.server.address), [host.tool])
    host.start(*CALLS, "Done.")
    messages = {"messages": [("user", "Vary chelsea.png.")]}
    if kind == "sync":
        state = agent.invoke(messages)
    else:
        state = await agent.ainvoke(messages)
    assert state["messages"][-1].text == "Done."
    host.check()


@MODELS
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["image", "n", "size"]),
        ({"expose": {"strength"}}, ["image", "n", "size", "strength"]),
        (
            {"expose": {"fit", "name", "strength"}, "fixed_size": "512x512"},
            ["fit", "image", "n", "name", "strength"],
        ),
    ],
    ids=["default", "strength", "more"],
)
def test_vendors_get_only_the_models_arguments(
    host: Host, make: Model, settings: Any, names: list[str]
) -> None:
    """The vendor gets the model's arguments and no others, with bounds where it can express them.

    Nothing in the schema is what some vendors refuse: references, unions, nulls, long texts.
    """
    tool = type(host.tool)(root_dir=host.root, max_n=4, **settings)
    host.start("Hello.")
    make(host.server.address).bind_tools([tool]).invoke("Hello.")
    name, description, schema = declared_tool(host.server.requests[0])
    assert (name, description) == (tool.name, tool.description)
    assert sorted(schema["properties"]) == sorted(names)
    assert schema["required"] == ["image"]
    text = str(schema)
    assert not [word for word in ("$defs", "$ref", "anyOf", "allOf", "None") if word in text]
    assert len(description) <= 1024
    for argument in schema["properties"].values():
        assert argument["type"].lower() in ("string", "integer", "number")
        assert 0 < len(argument["description"]) <= 1024
    number = schema["properties"]["n"]
    assert "from 1 to 4" in number["description"]
    if make not in (gemini, ollama):
        assert {key: number[key] for key in ("minimum", "maximum")}.items() <= BOUNDS.items()
    if "size" in names:
        assert schema["properties"]["size"]["enum"] == ["256x256", "512x512", "1024x1024"]
