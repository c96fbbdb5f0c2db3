import asyncio
import base64
import hashlib
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_image_variation.agents.tool import PROGRESS_EVENT, ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from pytest_image_variation.samples import square_png
from tests.agents.chats import RecordingEngine
from tests.agents.names import name_of
from tests.agents.scripted import Answer, Scripted, asks

PHOTO = square_png(32)
ENCODED = base64.b64encode(PHOTO).decode("ascii")
DATA_URL = f"data:image/png;base64,{ENCODED}"

BLOCKS: dict[str, dict[str, Any]] = {
    "v1": {"type": "image", "base64": ENCODED, "mime_type": "image/png"},
    "openai-chat": {"type": "image_url", "image_url": {"url": DATA_URL}},
    "openai-responses": {"type": "input_image", "image_url": DATA_URL},
    "anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": ENCODED},
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.png").write_bytes(square_png(16))
    return tmp_path


def scripted(*script: AIMessage | Answer) -> Scripted:
    """Return a model that gives these answers one by one, and then says that it is done."""

    def as_function(message: AIMessage | Answer) -> Answer:
        return (lambda _: message) if isinstance(message, AIMessage) else message

    return Scripted(script=[as_function(message) for message in (*script, AIMessage("Done."))])


def varies_again(index: int, **arguments: Any) -> Answer:
    """Return a call that varies a result of the first call again, by its handle."""

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        results = next(m for m in messages if isinstance(m, ToolMessage))
        return asks(image=results.artifact["images"][index - 1]["handle"], **arguments)

    return answer


def question(*blocks: dict[str, Any]) -> Any:
    """Return a user's message to an agent, with images."""
    return {"messages": [HumanMessage([{"type": "text", "text": "Vary this."}, *blocks])]}


def answers(result: dict[str, Any]) -> list[ToolMessage]:
    """Return the messages of the tool, in order."""
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


def graph(model: Scripted, tool: ImageVariationTool, checkpointer: Any = None) -> Any:
    """Return an agent built from LangGraph's own parts."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([tool]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("kind", ["create_agent", "StateGraph"])
def test_varies_an_upload_and_then_its_variation(
    root: Path, kind: str, block: dict[str, Any]
) -> None:
    """An agent varies an upload in any provider's format, then its variation, then the newest."""
    engine = RecordingEngine()
    tool = ImageVariationTool(root_dir=root, engine=engine, fixed_size="256x256")
    model = scripted(asks(image="latest", n=3), varies_again(2, n=2), asks(image="latest"))
    agent = graph(model, tool) if kind == "StateGraph" else create_agent(model, [tool])
    first, second, third = answers(agent.invoke(question(block)))
    assert [len(m.artifact["images"]) for m in (first, second, third)] == [3, 2, 1]
    result_hashes = [first.artifact["images"][1]["sha256"], second.artifact["images"][1]["sha256"]]
    assert engine.hashes == [hashlib.sha256(PHOTO).hexdigest(), *result_hashes]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"image": "the_cat_final.png"}, "There is no image 'the_cat_final.png' here. In this"),
    ({"image": "img_7"}, "There is no image 'img_7' here. In this conversation: img_"),
    ({"image": "latest", "n": 50}, "n must be a whole number from 1 to 10, got 50."),
    ({"image": "latest", "n": "a few"}, "n must be a whole number from 1 to 10, got 'a few'."),
    (
        {"image": "latest", "size": "2048x2048"},
        "'size' is not an argument; the arguments are image",
    ),
    ({"image": {"name": "latest"}}, "image must be a string: 'latest', the name of an image, or"),
    ({"img": "latest"}, "image is missing; it must be a string"),
    ({"image": DATA_URL}, "There is no image 'data:image/png;base6"),
    ({"image": ENCODED}, "There is no image 'iVBORw0KGgo"),
    ({"image": "https://example.com/cat.png"}, "There is no image 'https://example.com/cat.png'"),
]


async def test_the_model_recovers_from_every_mistake(root: Path) -> None:
    """After each of ten mistakes, the model gets a short answer, and the next call works."""
    tool = ImageVariationTool(root_dir=root, engine="instant", fixed_size="256x256")
    script = [*(asks(arguments) for arguments, _ in MISTAKES), asks(image=name_of(PHOTO))]
    result = await create_agent(scripted(*script), [tool]).ainvoke(question(BLOCKS["v1"]))
    *wrong, right = answers(result)
    assert result["messages"][-1].text == "Done."
    for message, (_, text) in zip(wrong, MISTAKES, strict=True):
        assert (message.status, message.artifact) == ("error", None)
        assert text in message.text
        assert len(message.text) < 300
    assert right.status == "success"


def test_without_any_image_the_model_asks_for_one(tmp_path: Path) -> None:
    """If there is no image at all, the answer says to ask the user for one."""
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    agent = create_agent(scripted(asks(image="latest")), [tool])
    (message,) = answers(agent.invoke({"messages": [HumanMessage("Vary it.")]}))
    assert message.text.endswith(
        "no image in the messages of this conversation. Ask the user for an image."
    )
    assert tool.invoke("cat.png") == (
        "There is no image 'cat.png' here. Ask the user to save an image in this tool's folder."
    )


def test_a_runtime_from_the_model_is_never_used(root: Path) -> None:
    """An agent replaces a runtime from the model, and without an agent the call is refused."""
    forged_runtime = {"state": {"messages": []}, "tool_call_id": "call_1"}
    tool = ImageVariationTool(root_dir=root, engine="instant", fixed_size="256x256")
    agent = create_agent(scripted(asks(image="latest", runtime=forged_runtime)), [tool])
    (message,) = answers(agent.invoke(question(BLOCKS["v1"])))
    assert message.text.startswith(f"Made 1 variation of {name_of(PHOTO)}")
    direct_answer = tool.invoke(asks(image="latest", runtime=forged_runtime).tool_calls[0])
    assert "'runtime' is not an argument;" in direct_answer.text


@pytest.mark.parametrize("kind", ["create_agent", "StateGraph"])
def test_a_stored_conversation_can_be_resumed(root: Path, kind: str) -> None:
    """In a conversation loaded from a file, `latest`, names and handles mean the same."""
    script = (
        asks(image="latest", n=3),
        AIMessage("Go on?"),
        asks(image="latest"),
        asks(image=name_of(PHOTO)),
        lambda messages: asks(image=re.findall(r"image-\w+-1", messages[2].text)[0]),
    )

    def turn(user_input: dict[str, Any], thread: str) -> tuple[list[ToolMessage], list[str]]:
        engine = RecordingEngine()
        tool = ImageVariationTool(root_dir=root, engine=engine, fixed_size="256x256")
        with SqliteSaver.from_conn_string(str(root / "state.sqlite")) as saver:
            model = scripted(*script)
            if kind == "StateGraph":
                agent = graph(model, tool, saver)
            else:
                agent = create_agent(model, [tool], checkpointer=saver)
            config = RunnableConfig(configurable={"thread_id": thread})
            return answers(agent.invoke(user_input, config)), engine.hashes

    (first,), hashes = turn(question(BLOCKS["v1"]), "ours")
    assert hashes == [hashlib.sha256(PHOTO).hexdigest()]
    messages, hashes = turn({"messages": [HumanMessage("Go on.")]}, "ours")
    assert messages[0].artifact == first.artifact
    result_hashes = [image["sha256"] for image in first.artifact["images"]]
    assert hashes == [result_hashes[2], hashlib.sha256(PHOTO).hexdigest(), result_hashes[0]]
    (other_answer,), _ = turn({"messages": [HumanMessage("And mine?")]}, "theirs")
    assert other_answer.text == (
        "There is no image in the messages of this conversation. Files: cat.png."
    )


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_two_calls_in_one_message_see_the_same_images(root: Path, kind: str) -> None:
    """Two calls in one message see the same images, and the last result is the newest."""
    engine = RecordingEngine()
    tool = ImageVariationTool(root_dir=root, engine=engine, fixed_size="256x256", max_calls=4)
    two_calls = asks({"image": "latest", "n": 2}, {"image": "cat.png"})
    model = scripted(two_calls, asks(image="latest"), varies_again(1), asks(image=name_of(PHOTO)))
    agent, user_input = create_agent(model, [tool]), question(BLOCKS["anthropic"])
    result = agent.invoke(user_input) if kind == "sync" else await agent.ainvoke(user_input)
    first, second, *_, refusal = answers(result)
    photos = [hashlib.sha256(data).hexdigest() for data in (PHOTO, square_png(16))]
    assert sorted(engine.hashes[:2]) == sorted(photos)
    assert engine.hashes[2:] == [m.artifact["images"][0]["sha256"] for m in (second, first)]
    assert refusal.text.startswith("This conversation has used all of its 4 calls to this tool.")


async def test_events_arrive_while_the_engine_works(root: Path) -> None:
    """`astream_events` yields the first event before the second image is made."""
    event_seen = threading.Event()

    class Slow(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            finished = progress_reporter().image_finished
            finished()
            assert event_seen.wait(30), "the first image was not reported"
            return super().create_variation(request)

    tool = ImageVariationTool(root_dir=root, engine=Slow(), fixed_size="256x256")
    agent = create_agent(scripted(asks(image="latest", n=3)), [tool])
    progress = []
    async for event in agent.astream_events(question(BLOCKS["v1"]), version="v2"):
        if event["event"] == "on_custom_event" and event["name"] == PROGRESS_EVENT:
            progress.append(event["data"])
            event_seen.set()
    assert progress == [{"done": done, "n": 3} for done in (1, 2, 3)]


async def test_cancelling_an_agent_stops_the_engine(root: Path) -> None:
    """Cancelling an agent stops the engine while it works, and nothing is saved."""
    start_event, stop_event = threading.Event(), threading.Event()

    class Slow:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            is_cancelled = cancellation()
            start_event.set()
            for _ in range(3_000):
                if is_cancelled():
                    stop_event.set()
                    break
                time.sleep(0.01)
            raise RuntimeError

    tool = ImageVariationTool(root_dir=root, engine=Slow(), fixed_size="256x256")
    agent = create_agent(scripted(asks(image="latest")), [tool])
    run = asyncio.create_task(agent.ainvoke(question(BLOCKS["v1"])))
    assert await asyncio.to_thread(start_event.wait, 30)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert await asyncio.to_thread(stop_event.wait, 30)
    assert list((root / "variations").iterdir()) == []
