"""A tool with `state_key`: the state of a graph lists the images of all calls."""

import json
import logging
import operator
import pickle
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from pydantic import BaseModel

from langchain_image_variation import ImageVariationMiddleware, ImageVariationTool, add_images
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import EngineError, InvalidRequestError, MissingExtraError
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.chats import question
from tests.agents.scripted import AnswerQueue, asks, call

USER: Any = {"messages": [("user", "Vary cat.jpg.")]}
LOGGER = "langchain_image_variation.tool"


class State(AgentState[Any]):
    """The state of an agent with the images of its calls."""

    images: Annotated[list[dict[str, Any]], add_images]


class TwoLists(State):
    """A state with a second list of messages."""

    chat: Annotated[list[AnyMessage], add_messages]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with two images."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "lake.png").write_bytes(square_png(48))
    return tmp_path


def make_tool(root: Path, **settings: Any) -> ImageVariationTool:
    """Return a tool that adds its images to the state."""
    settings = {"engine": "instant", "fixed_size": "256x256", "state_key": "images", **settings}
    return ImageVariationTool(root_dir=root, **settings)


def make_agent(tool: ImageVariationTool, *script: Any, **options: Any) -> Any:
    """Return an agent with a script and a state for images."""
    model = AnswerQueue(script=[*script, AIMessage("Done.")])
    return create_agent(model, [tool], **{"state_schema": State, **options})


async def run(graph: Any, kind: str, graph_input: Any = USER, config: Any = None) -> Any:
    """Run a graph sync or async, and return its state."""
    if kind == "sync":
        return graph.invoke(graph_input, config)
    return await graph.ainvoke(graph_input, config)


def artifact_images(state: Any) -> list[dict[str, Any]]:
    """Return the images of all artifacts in a state's messages, in order."""
    artifacts = [getattr(message, "artifact", None) or {} for message in state["messages"]]
    return [image for artifact in artifacts for image in artifact.get("images", ())]


class _Standard:
    @property
    def tool_constructor(self) -> type[ImageVariationTool]:
        """The class under test."""
        return ImageVariationTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        """A tool with a key of the state."""
        return {"engine": "instant", "state_key": "images"}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        """A model's arguments."""
        return {"image": "cat.jpg", "size": "256x256"}

    @pytest.fixture(autouse=True)
    def _folder(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)


class TestStandardUnit(_Standard, ToolsUnitTests):
    """LangChain's standard unit tests for tools."""


class TestStandardIntegration(_Standard, ToolsIntegrationTests):
    """LangChain's standard integration tests for tools."""


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("reducer", [add_images, operator.add])
async def test_the_state_lists_the_images(
    root: Path, kind: str, reducer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Parallel calls and later ones add the images of their artifacts, and mistakes add none."""

    class ReducedState(AgentState[Any]):
        images: Annotated[list[dict[str, Any]], reducer]

    script = (
        asks({"image": "cat.jpg", "n": 2}, {"image": "dog.jpg"}, {"image": "cat.jpg", "n": 99}),
        asks(image="latest"),
    )
    agent = make_agent(make_tool(root), *script, state_schema=ReducedState)
    with caplog.at_level(logging.WARNING, LOGGER):
        state = await run(agent, kind)
    assert len(state["images"]) == 3
    assert state["images"] == artifact_images(state)
    answers = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [message.status for message in answers] == ["success", "error", "error", "success"]
    assert {message.name for message in answers} == {"image_variation"}
    assert not caplog.records


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_messages_are_those_without_the_key(root: Path, kind: str) -> None:
    """Apart from the state, a run is the same with and without `state_key`."""
    script = [asks({"image": "cat.jpg", "n": 2}, {"image": "dog.jpg"}), asks(image="latest", n=2)]
    runs = []
    for key in ("images", None):
        state = await run(
            make_agent(make_tool(root, state_key=key, content="thumbnail"), *script), kind
        )
        messages = [message.model_dump(exclude={"id"}) for message in state["messages"]]
        runs.append(re.sub(r'"created": \d+|"lc_[0-9a-f-]+"', "", json.dumps(messages)))
        assert bool(state["images"]) == (key is not None)
    assert runs[0] == runs[1]


def test_checkpoints_have_plain_json(root: Path) -> None:
    """A stored state has the images as JSON, and another process continues from it."""
    tool = make_tool(root)
    config: Any = {"configurable": {"thread_id": "t"}}
    with SqliteSaver.from_conn_string(str(root / "checkpoints.sqlite")) as saver:
        make_agent(tool, asks(image="cat.jpg", n=2), checkpointer=saver).invoke(USER, config)
    with SqliteSaver.from_conn_string(str(root / "checkpoints.sqlite")) as saver:
        agent = make_agent(tool, asks(image="latest"), checkpointer=saver)
        before = agent.get_state(config).values["images"]
        state = agent.invoke(USER, config)
    assert json.loads(json.dumps(before)) == before
    assert len(before) == 2
    assert state["images"] == [*before, *artifact_images(state)[2:]]
    assert {type(image) for image in state["images"]} == {dict}
    assert all((root / image["path"]).is_file() for image in state["images"])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_cached_image_is_listed_once(root: Path, kind: str) -> None:
    """A cached call returns the same files, which `add_images` does not add again."""
    script = (asks(image="cat.jpg", n=2), asks(image="cat.jpg", n=2))
    state = await run(make_agent(make_tool(root, cache=True), *script), kind)
    assert state["messages"][-2].artifact["cached"] is True
    assert len(artifact_images(state)) == 4
    assert state["images"] == artifact_images(state)[:2]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_tool_that_ends_the_run(root: Path, kind: str) -> None:
    """With `return_direct`, the run ends after the call, and the state has its images."""
    tool = make_tool(root, return_direct=True)
    state = await run(make_agent(tool, asks(image="cat.jpg", n=2)), kind)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool"]
    assert state["images"] == artifact_images(state)
    assert len(state["images"]) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_it_works_with_middleware(root: Path, kind: str) -> None:
    """Our middleware and LangChain's retries pass the update of the state on."""
    attempts = []

    class FlakyEngine(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            attempts.append(request)
            if len(attempts) == 1:
                raise EngineError("Try again.")
            return super().create_variation(request)

    tool = make_tool(root, engine=FlakyEngine(), content="thumbnail")
    retries = ToolRetryMiddleware(retry_on=(EngineError,), initial_delay=0, jitter=False)
    middleware = [ImageVariationMiddleware(tool), retries]
    agent = make_agent(tool, asks(image="latest", n=2), asks(image="latest"), middleware=middleware)
    config = {"configurable": {"thread_id": "t"}}
    state = await run(agent, kind, {"messages": [question("Vary it.", square_png(32))]}, config)
    assert len(attempts) == 3
    assert state["images"] == artifact_images(state)
    assert len(state["images"]) == 3


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_failure_is_raised_and_adds_nothing(root: Path, kind: str) -> None:
    """A failure is raised as without the key. As a text for the model, it adds nothing."""

    class BrokenEngine:
        def create_variation(self, request: Any) -> Any:
            raise RuntimeError("no such device")

    script = asks(image="cat.jpg")
    with pytest.raises(EngineError):
        await run(make_agent(make_tool(root, engine=BrokenEngine()), script), kind)
    tool = make_tool(root, engine=BrokenEngine(), raise_on=())
    state = await run(make_agent(tool, script), kind)
    assert state["messages"][-2].status == "error"
    assert state["images"] == []


class ModelState(BaseModel):
    """A state that is a model of pydantic."""

    chat: Annotated[list[AnyMessage], add_messages]
    made: Annotated[list[dict[str, Any]], add_images] = []


@dataclass
class DataState:
    """A state that is a dataclass."""

    chat: Annotated[list[AnyMessage], add_messages]
    made: Annotated[list[dict[str, Any]], add_images] = field(default_factory=list)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("schema", [ModelState, DataState])
async def test_a_tool_node_works_with_other_keys(root: Path, schema: Any, kind: str) -> None:
    """A `ToolNode` works with any name of the messages and any kind of state."""
    builder = StateGraph(schema)
    builder.add_node("tools", ToolNode([make_tool(root, state_key="made")], messages_key="chat"))
    graph = builder.add_edge(START, "tools").compile()
    state = await run(
        graph, kind, {"chat": [asks({"image": "cat.jpg"}, {"image": "cat.jpg", "n": 2})]}
    )
    assert [message.type for message in state["chat"]] == ["ai", "tool", "tool"]
    handles = [image["handle"] for image in state["chat"][2].artifact["images"]]
    # Both calls make the first image, so it is listed once.
    assert [image["handle"] for image in state["made"]] == handles
    assert handles[0] == state["chat"][1].artifact["images"][0]["handle"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_without_keys_the_message_is_returned(root: Path, kind: str) -> None:
    """Outside a graph, or if the state is a list of messages, the tool returns its message."""
    tool = make_tool(root)
    tool_call = call(image="cat.jpg")
    message = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
    assert isinstance(message, ToolMessage)
    assert len(message.artifact["images"]) == 1
    schema: Any = list
    builder = StateGraph(schema)
    builder.add_node("tools", ToolNode([tool]))
    graph = builder.add_edge(START, "tools").compile()
    (answer,) = await run(graph, kind, [asks(image="cat.jpg")])
    assert isinstance(answer, ToolMessage)
    assert answer.status == "success"


def test_your_own_runtime_gets_the_command(root: Path) -> None:
    """If your own loop passes a runtime, the tool returns the command."""
    runtime: Any = ToolRuntime(
        state={"messages": [("user", "Hi."), asks(image="cat.jpg")], "images": []},
        context=None,
        config={},
        stream_writer=lambda _: None,
        tool_call_id="call_1",
        store=None,
    )
    command = make_tool(root).invoke(call(image="cat.jpg", runtime=runtime))
    assert isinstance(command, Command)
    update: Any = command.update
    (message,) = update["messages"]
    assert (message.tool_call_id, message.status) == ("call_1", "success")
    assert update["images"] == message.artifact["images"]
    assert update["images"][0] is not message.artifact["images"][0]


def test_a_missing_key_is_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LangGraph ignores a key that the state does not have. The log says what to declare."""
    agent = make_agent(make_tool(root, state_key="pictures"), asks(image="cat.jpg"))
    with caplog.at_level(logging.WARNING, LOGGER):
        state = agent.invoke(USER)
    assert state["messages"][-2].status == "success"
    (record,) = caplog.records
    assert "no list of images under the state_key 'pictures'" in record.getMessage()


@pytest.mark.parametrize("key", ["", "messages"])
def test_a_wrong_key_is_refused(root: Path, key: str) -> None:
    """The key of the images cannot be empty, or that of the messages."""
    with pytest.raises(InvalidRequestError, match="state_key must name a key") as caught:
        make_tool(root, state_key=key)
    assert caught.value.param == "state_key"


def test_the_key_needs_langgraph(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LangGraph, a tool with a key is not made, and the error says what to install."""
    monkeypatch.setitem(sys.modules, "langgraph.types", None)
    assert make_tool(root, state_key=None)
    with pytest.raises(MissingExtraError, match=r"state_key needs the package .*\[langchain\]"):
        make_tool(root)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_subgraph_shares_the_key(root: Path, kind: str) -> None:
    """An agent that is a node of a graph adds its images once, also in a second run."""
    agent = make_agent(
        make_tool(root), asks(image="cat.jpg", n=2), AIMessage("A"), asks(image="latest")
    )
    builder = StateGraph(State)
    builder.add_node("artist", agent)
    graph = builder.add_edge(START, "artist").compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    state = await run(graph, kind, USER, config)
    assert len(state["images"]) == 2
    state = await run(graph, kind, USER, config)
    assert state["images"] == artifact_images(state)
    assert len(state["images"]) == 3


async def test_many_calls_at_once_each_add_their_images(root: Path) -> None:
    """Twenty calls in one step each add their images, in the order of the calls."""
    for index in range(20):
        (root / f"{index}.png").write_bytes(square_png(index + 1))
    message = asks(*({"image": f"{index}.png", "n": 2} for index in range(20)))
    state = await run(make_agent(make_tool(root), message), "async")
    assert state["images"] == artifact_images(state)
    assert len(state["images"]) == 40


def test_the_key_survives_pickling(root: Path) -> None:
    """A tool that was sent to another process adds its images to the state too."""
    copy = pickle.loads(pickle.dumps(make_tool(root)))
    assert len(make_agent(copy, asks(image="cat.jpg")).invoke(USER)["images"]) == 1


def test_images_are_added_by_their_path() -> None:
    """An image that is already there keeps its place, and the newer facts about it count."""
    first, other, again = ({"path": p, "seed": s} for p, s in (("a", 1), ("b", 2), ("a", 3)))
    assert add_images([first, other], [again]) == [again, other]
    assert add_images([], []) == []


@pytest.mark.parametrize("first", [[], [HumanMessage("hi")]], ids=["empty", "other"])
def test_the_messages_are_those_with_the_call(tmp_path: Path, first: list[BaseMessage]) -> None:
    """Of two lists of messages, the one with the call counts its calls and gets the answers."""
    (tmp_path / "cat.png").write_bytes(square_png(64))
    tool = ImageVariationTool(engine="instant", root_dir=tmp_path, max_calls=1, state_key="images")
    graph = StateGraph(TwoLists)
    graph.add_node("tools", ToolNode([tool], messages_key="chat"))
    graph.add_edge(START, "tools")
    calls = [
        {"name": tool.name, "id": name, "args": {"image": "cat.png", "size": "256x256"}}
        for name in "ab"
    ]
    state = {"messages": first, "chat": [AIMessage("", tool_calls=calls)], "images": []}
    result = graph.compile().invoke(state)  # type: ignore[call-overload]  # a plain dict
    assert len(result["images"]) == 1
    assert "has used its only call" in result["chat"][-1].text


def test_no_images_yet_can_be_none() -> None:
    """A key of the state may be null, as the default of a field."""
    image = {"path": "a.png"}
    assert add_images(None, [image]) == add_images([image], None) == [image]
