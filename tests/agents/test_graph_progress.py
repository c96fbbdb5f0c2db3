"""Progress in the custom stream of a graph: one chunk for each finished image."""

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableLambda
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from langchain_image_variation import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from pytest_image_variation.samples import jpeg
from tests.agents.scripted import AnswerQueue, asks, call

USER: Any = {"messages": [("user", "Vary cat.jpg.")]}


@pytest.fixture
def tool(tmp_path: Path) -> ImageVariationTool:
    """Return a tool on a folder with a photo."""
    return make_tool(tmp_path)


def make_tool(root: Path, engine: Any = "instant", **settings: Any) -> ImageVariationTool:
    """Return a tool on a folder with a photo."""
    (root / "cat.jpg").write_bytes(jpeg())
    return ImageVariationTool(root_dir=root, engine=engine, fixed_size="256x256", **settings)


def chunks(call_id: str | None, n: int) -> list[dict[str, Any]]:
    """Return the chunks of a call."""
    progress = {"type": "image_variation_progress", "tool_call_id": call_id, "n": n}
    return [{**progress, "done": done} for done in range(1, n + 1)]


def calls_in(message: AIMessage) -> dict[str, int]:
    """Return the `n` of each call in a model's message, by its id."""
    return {str(call["id"]): call["args"]["n"] for call in message.tool_calls}


async def stream(graph: Any, kind: str, graph_input: Any = USER, **options: Any) -> list[Any]:
    """Return the custom stream of a graph, which runs sync or async."""
    options = {"stream_mode": "custom", **options}
    if kind == "sync":
        return list(graph.stream(graph_input, **options))
    return [chunk async for chunk in graph.astream(graph_input, **options)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_agent_streams_each_finished_image(tool: ImageVariationTool, kind: str) -> None:
    """An agent's custom stream has a chunk for each image of each call, by the id of the call."""
    message = asks({"image": "cat.jpg", "n": 3}, {"image": "cat.jpg", "n": 1})
    expected = {call_id: chunks(call_id, n) for call_id, n in calls_in(message).items()}
    agent = create_agent(AnswerQueue(script=[message, AIMessage("Done.")]), [tool])
    found = defaultdict(list)
    for chunk in await stream(agent, kind):
        found[chunk["tool_call_id"]].append(chunk)
    assert found == expected


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_chunks_arrive_while_the_engine_works(tmp_path: Path, kind: str) -> None:
    """The first chunk arrives before the second image is made, also from an engine's own thread."""
    seen_event = threading.Event()

    class ThreadedEngine(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            thread = threading.Thread(target=progress_reporter().image_finished)
            thread.start()
            thread.join(30)
            assert seen_event.wait(30), "the first image was not reported"
            return super().create_variation(request)

    message = asks(image="cat.jpg", n=2)
    tool = make_tool(tmp_path, ThreadedEngine())
    agent = create_agent(AnswerQueue(script=[message, AIMessage("Done.")]), [tool])
    found = []
    if kind == "sync":
        for chunk in agent.stream(USER, stream_mode="custom"):
            found.append(chunk)
            seen_event.set()
    else:
        async for chunk in agent.astream(USER, stream_mode="custom"):
            found.append(chunk)
            seen_event.set()
    assert found == chunks(message.tool_calls[0]["id"], 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_subgraph_streams_to_its_parent(tool: ImageVariationTool, kind: str) -> None:
    """The chunks of an agent that is a node of another graph come with the names of the nodes."""
    message = asks(image="cat.jpg", n=2)
    agent = create_agent(AnswerQueue(script=[message, AIMessage("Done.")]), [tool])
    builder = StateGraph(MessagesState)
    builder.add_node("artist", agent)
    graph = builder.add_edge(START, "artist").add_edge("artist", END).compile()
    found = await stream(graph, kind, subgraphs=True)
    assert [chunk for _, chunk in found] == chunks(message.tool_calls[0]["id"], 2)
    for namespace, _ in found:
        assert [name.split(":")[0] for name in namespace] == ["artist"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_node_that_calls_the_tool_streams(tool: ImageVariationTool, kind: str) -> None:
    """A node or a task that calls the tool streams too. Only an agent knows the call's id."""

    def vary(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [tool.invoke(call(image="cat.jpg", n=2))]}

    async def vary_async(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [await tool.ainvoke(call(image="cat.jpg", n=2))]}

    builder = StateGraph(MessagesState)
    builder.add_node("vary", vary if kind == "sync" else vary_async)
    graph = builder.add_edge(START, "vary").compile()
    assert await stream(graph, kind) == chunks(None, 2)

    @entrypoint()
    async def workflow(_: Any) -> str:
        text: str = await tool.ainvoke({"image": "cat.jpg", "n": 2})
        return text

    assert await stream(workflow, "async") == chunks(None, 2)


async def test_other_streams_do_not_change(tool: ImageVariationTool) -> None:
    """Without the custom stream, nothing is streamed, and `astream_events` has its own events."""
    agent = create_agent(
        AnswerQueue(
            script=[asks(image="cat.jpg"), AIMessage("A"), asks(image="cat.jpg"), AIMessage("B")]
        ),
        [tool],
    )
    updates = await stream(agent, "async", stream_mode="updates")
    assert [list(update) for update in updates] == [["model"], ["tools"], ["model"]]
    names = [
        event["data"]
        async for event in agent.astream_events(USER, version="v2")
        if event["event"] == "on_custom_event"
    ]
    assert names == [{"done": 1, "n": 1}]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_cached_calls_stream_and_failed_ones_do_not(tmp_path: Path, kind: str) -> None:
    """A cached call streams its images too, and a call that fails streams nothing."""
    tool = make_tool(tmp_path, cache=True)
    tool.invoke(call(image="cat.jpg", n=2))
    message = asks({"image": "cat.jpg", "n": 2}, {"image": "dog.jpg", "n": 2})
    agent = create_agent(AnswerQueue(script=[message, AIMessage("Done.")]), [tool])
    assert await stream(agent, kind) == chunks(message.tool_calls[0]["id"], 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_your_own_runtime_gets_the_chunks(tool: ImageVariationTool, kind: str) -> None:
    """Outside a graph, the writer of the runtime gets the chunks. Its errors are yours."""
    found: list[Any] = []

    def arguments(writer: Any) -> Any:
        runtime: Any = ToolRuntime(
            state={"messages": []},
            context=None,
            config={},
            stream_writer=writer,
            tool_call_id="call_7",
            store=None,
        )
        return call(image="cat.jpg", n=2, runtime=runtime)

    def fail(_: Any) -> None:
        raise RuntimeError("my writer")

    async def invoke(tool_call: Any) -> Any:
        return tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)

    assert (await invoke(arguments(found.append))).status == "success"
    assert found == chunks("call_7", 2)
    assert (await invoke(arguments(None))).status == "success"
    with pytest.raises(RuntimeError, match="my writer"):
        await invoke(arguments(fail))


def test_tool_nodes_stream(tool: ImageVariationTool) -> None:
    """A `ToolNode` in your own graph streams, whatever the key of its messages is."""

    class State(MessagesState):
        chat: list[AnyMessage]

    message = asks(image="cat.jpg", n=2)
    builder = StateGraph(State)
    builder.add_node("tools", ToolNode([tool], messages_key="chat"))
    graph: Any = builder.add_edge(START, "tools").compile()
    found = list(graph.stream({"chat": [message]}, stream_mode="custom"))
    assert found == chunks(message.tool_calls[0]["id"], 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_nothing_is_streamed_outside_a_graph(tool: ImageVariationTool, kind: str) -> None:
    """In a runnable that is not a graph, there is no custom stream, and nothing fails."""
    runnable = RunnableLambda(tool.invoke, afunc=tool.ainvoke)
    if kind == "sync":
        text = runnable.invoke({"image": "cat.jpg"})
    else:
        text = await runnable.ainvoke({"image": "cat.jpg"})
    assert text.startswith("Made 1 variation of cat")
