"""Subagents of deepagents, which get a text from their parent and share its thread."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_image_variation.agents.graph_state import add_images
from langchain_image_variation.agents.middleware import ImageVariationMiddleware
from langchain_image_variation.agents.tool import ImageVariationTool
from pytest_image_variation.samples import square_png
from tests.agents.chats import RecordingEngine, question
from tests.agents.names import name_of
from tests.agents.scripted import AnswerQueue, asks

deepagents = pytest.importorskip("deepagents")

CAT, LAKE = square_png(32), square_png(48)


def delegates(task: str) -> AIMessage:
    """Return a model's message that gives a task to the subagent."""
    arguments = {"description": task, "subagent_type": "artist"}
    return AIMessage("", tool_calls=[{"name": "task", "args": arguments, "id": "task_1"}])


def deep_agent(
    parent: AnswerQueue,
    artist: AnswerQueue,
    tool: ImageVariationTool,
    state_schema: Any = None,
    **spec: Any,
) -> Any:
    """Return an agent whose subagent has the tool."""
    subagent = {
        "name": "artist",
        "description": "Varies images.",
        "system_prompt": "Vary the image.",
        "model": artist,
        "tools": [tool],
        **spec,
    }
    return deepagents.create_deep_agent(
        parent,
        middleware=[ImageVariationMiddleware(tool)],
        subagents=[subagent],
        state_schema=state_schema,
        checkpointer=InMemorySaver(),
    )


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_subagent_gets_a_name_in_its_task(tmp_path: Path, kind: str) -> None:
    """A subagent varies an upload of its parent, although its own messages have only the name."""
    engine = RecordingEngine()
    tool = ImageVariationTool(root_dir=tmp_path, engine=engine, fixed_size="256x256")
    name = name_of(CAT)
    parent = AnswerQueue(script=[delegates(f"Vary {name}."), AIMessage("Done.")])
    artist = AnswerQueue(script=[asks(image=name), asks(image="img_1"), AIMessage("Varied.")])
    agent = deep_agent(parent, artist, tool)
    messages: Any = {"messages": [question("A cat.", CAT)]}
    config: Any = {"configurable": {"thread_id": "t"}}
    if kind == "sync":
        agent.invoke(messages, config)
    else:
        await agent.ainvoke(messages, config)
    assert f"[{name}: 32x32]" in str(parent.requests[0][-1].content)
    assert engine.images == [CAT]
    assert "There is no image 'img_1'" in artist.requests[-1][-1].text
    assert name in artist.requests[-1][-1].text


@pytest.mark.filterwarnings("ignore:The feature .forked subagents. is in beta")
def test_a_subagent_sees_the_images_that_it_was_given(tmp_path: Path) -> None:
    """A subagent that continues the parent's conversation varies the newest image in it."""
    engine = RecordingEngine()
    tool = ImageVariationTool(root_dir=tmp_path, engine=engine, fixed_size="256x256")
    parent = AnswerQueue(script=[delegates("Vary the newest."), AIMessage("Done.")])
    artist = AnswerQueue(script=[asks(image="latest"), AIMessage("Varied.")])
    agent = deep_agent(parent, artist, tool, mode="fork")
    messages: Any = {"messages": [question("A cat and a lake.", CAT, LAKE)]}
    agent.invoke(messages, {"configurable": {"thread_id": "t"}})
    assert engine.images == [LAKE]


def test_a_message_without_an_id_is_announced(tmp_path: Path) -> None:
    """The names also reach an agent whose reducer gives ids to some kinds of messages only."""
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant", fixed_size="256x256")
    parent = AnswerQueue(script=[AIMessage("Hello."), AIMessage("Done.")])
    agent = deep_agent(parent, AnswerQueue(script=[]), tool)
    config: Any = {"configurable": {"thread_id": "t"}}
    for _ in range(2):
        state = agent.invoke({"messages": [("user", question("A cat.", CAT).content)]}, config)
    users = [message for message in state["messages"] if message.type == "human"]
    assert len(users) == 2
    assert all(str(message.content).count(f"[{name_of(CAT)}: 32x32]") == 1 for message in users)
    assert len({message.id for message in state["messages"]} - {None}) == 4


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_images_of_a_subagent_reach_the_state(tmp_path: Path, kind: str) -> None:
    """With `state_key`, the state of the parent lists the images that its subagent has made."""
    (tmp_path / "cat.png").write_bytes(CAT)

    class State(deepagents.DeepAgentState):  # type: ignore[misc, name-defined]  # may be missing
        images: Annotated[list[dict[str, Any]], add_images]

    tool = ImageVariationTool(
        root_dir=tmp_path, engine="instant", fixed_size="256x256", state_key="images"
    )
    delegations = [(delegates("Vary cat.png."), AIMessage("Done.")) for _ in range(2)]
    calls = [(asks(image="cat.png", n=2), AIMessage("Varied.")) for _ in range(2)]
    parent = AnswerQueue(script=[message for turn in delegations for message in turn])
    artist = AnswerQueue(script=[message for turn in calls for message in turn])
    agent = deep_agent(parent, artist, tool, State)
    config: Any = {"configurable": {"thread_id": "t"}}
    chunks = []
    for _ in range(2):
        user: Any = {"messages": [("user", "Vary cat.png.")]}
        options: Any = {"stream_mode": "custom", "subgraphs": True}
        if kind == "sync":
            chunks += list(agent.stream(user, config, **options))
        else:
            chunks += [chunk async for chunk in agent.astream(user, config, **options)]
    images = agent.get_state(config).values["images"]
    assert [image["path"].rsplit("-", 1)[1] for image in images] == ["1.png", "2.png"]
    done = [chunk["done"] for _, chunk in chunks if chunk["type"] == "image_variation_progress"]
    assert done == [1, 2, 1, 2]
