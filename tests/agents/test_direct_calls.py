"""Calls outside of an agent of LangChain, as other frameworks make them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tools import ToolException
from langgraph.graph import START, MessagesState, StateGraph

from langchain_image_variation.agents.tool import (
    PROGRESS_EVENT,
    ImageVariationInput,
    ImageVariationTool,
)

CALLS: dict[str, Callable[[ImageVariationTool, dict[str, Any]], Any]] = {
    "invoke": lambda tool, arguments: tool.invoke(arguments),
    "run": lambda tool, arguments: tool.run(arguments),
    "arun": lambda tool, arguments: asyncio.run(tool.arun(arguments)),
    "run with nothing": lambda tool, arguments: tool.run(arguments, config=None, callbacks=None),
    "_run": lambda tool, arguments: tool._run(**arguments)[0],
    "_arun": lambda tool, arguments: asyncio.run(tool._arun(**arguments))[0],
    "func": lambda tool, arguments: tool.func(**arguments),
    # AutoGen passes every field of the schema.
    "func with null": lambda tool, arguments: tool.func(
        **arguments, size=None, model=None, response_format=None, user=None, runtime=None
    ),
}


@pytest.fixture
def tool(root: Path) -> ImageVariationTool:
    """Return a tool with the instant engine."""
    return ImageVariationTool(root_dir=root, engine="instant", fixed_size="256x256")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_returns_the_names(tool: ImageVariationTool, root: Path, call: Any) -> None:
    """Whatever method a host calls, the text names the results: it gets no artifact."""
    text = call(tool, {"image": "cat.png", "n": 2})
    assert isinstance(text, str)
    results = sorted((root / "variations").glob("*.png"))
    assert len(results) == 2
    assert all(path.stem in text for path in results)
    first = next(path.stem for path in results if path.stem.endswith("-1"))
    assert f"Made 1 variation of {first}" in call(tool, {"image": first})


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_mistake_returns_a_text(tool: ImageVariationTool, call: Any) -> None:
    """An image that does not exist is answered with a list. Only private methods raise it."""
    try:
        text = call(tool, {"image": "dog.png"})
    except ToolException as error:
        assert call in (CALLS["_run"], CALLS["_arun"])
        text = str(error)
    assert text == "There is no image 'dog.png' here. Files: cat.png."


def test_func_explains_wrong_arguments(tool: ImageVariationTool) -> None:
    """`func` checks the arguments as a call of an agent does."""
    text = tool.func(image="cat.png", n=11)
    assert text.endswith("n must be a whole number from 1 to 10, got 11.")


def test_func_returns_no_thumbnail(root: Path) -> None:
    """A host of `func` would print the blocks of a message, so it gets the text only."""
    tool = ImageVariationTool(root_dir=root, engine="instant", content="thumbnail")
    assert len(tool.run({"image": "cat.png"})) == 2
    text = tool.func(image="cat.png")
    assert text.startswith("Made 1 variation of cat")
    assert len(text) < 400


@pytest.mark.parametrize("method", ["run", "arun", "_run", "func"])
def test_a_call_in_a_node_belongs_to_the_thread(
    tool: ImageVariationTool, root: Path, method: str
) -> None:
    """In a node of a graph, the results are those of the graph's thread, without a config."""

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", CALLS[method](tool, {"image": "cat.png"}))]}

    async def node_async(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", await tool.arun({"image": "cat.png"}))]}

    builder = StateGraph(MessagesState)
    nodes: dict[str, Any] = {"arun": node_async}
    builder.add_node("vary", nodes.get(method, node))
    graph: Any = builder.add_edge(START, "vary").compile()
    messages: Any = {"messages": [("user", "Vary it.")]}
    config: Any = {"configurable": {"thread_id": "t"}}
    if method == "arun":
        state = asyncio.run(graph.ainvoke(messages, config))
    else:
        state = graph.invoke(messages, config)
    assert "Made 1 variation" in state["messages"][-1].text
    assert not list((root / "variations").glob("*.png"))
    (result,) = (root / "variations").glob("*/*.png")
    assert result.stem in state["messages"][-1].text


class Events(BaseCallbackHandler):
    """Keeps the progress of calls."""

    def __init__(self) -> None:
        self.progress: list[Any] = []

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        """Keep an event of ours."""
        if name == PROGRESS_EVENT:
            self.progress.append(data)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("of", ["tool", "call", "both"])
async def test_callbacks_get_the_progress(root: Path, of: str, kind: str) -> None:
    """Callbacks of the tool and of a call get the progress once. Most hosts pass none."""
    events = Events()
    tool_callbacks: list[BaseCallbackHandler] = [events] if of != "call" else []
    callbacks: list[BaseCallbackHandler] = [events] if of != "tool" else []
    tool = ImageVariationTool(root_dir=root, engine="instant", callbacks=tool_callbacks)
    if kind == "sync":
        tool.run({"image": "cat.png", "n": 2}, callbacks=callbacks)
    else:
        await tool.arun({"image": "cat.png", "n": 2}, callbacks=callbacks)
    assert events.progress == [{"done": 1, "n": 2}, {"done": 2, "n": 2}]


def test_no_schema_has_the_hidden_arguments(root: Path) -> None:
    """Hosts that show a model all of the arguments' JSON schema show it those of a model."""
    assert [*ImageVariationInput.model_json_schema()["properties"]] == ["image", "n", "size"]
    tool = ImageVariationTool(root_dir=root, engine="local", expose={"strength"}, max_n=3)
    names = ["image", "n", "size", "strength"]
    schema = tool.args_schema.model_json_schema()
    assert [*schema["properties"]] == names
    assert "description" not in schema
    schema = tool.get_input_jsonschema()
    assert schema["properties"] == tool.args
    assert schema["properties"]["n"]["maximum"] == 3
    assert schema["description"] == tool.description
