"""Names of uploads in conversations whose messages are trimmed, resumed, copied or edited."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, before_model
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, trim_messages
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from langchain_image_variation.agents.middleware import ImageVariationMiddleware
from langchain_image_variation.agents.tool import ImageVariationTool
from pytest_image_variation.samples import square_png
from tests.agents.chats import Chat, RecordingEngine, image_block, question, summarization
from tests.agents.names import name_of
from tests.agents.scripted import AnswerQueue, asks

CAT, LAKE, TREE = square_png(32), square_png(48), square_png(40)
SUMMARY = f"The user sent {name_of(CAT)}, a cat, and liked its variations."


@before_model
def keep_the_last_message(state: Any, runtime: Any) -> dict[str, Any] | None:
    """Trim the history as LangChain's documentation shows it."""
    recent = trim_messages(
        state["messages"], max_tokens=1, token_counter=len, start_on=("human", "tool")
    )
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *recent]} if recent else None


@before_model
def remove_the_first_messages(state: Any, runtime: Any) -> dict[str, Any] | None:
    """Remove messages one by one."""
    return {"messages": [RemoveMessage(id=message.id) for message in state["messages"][:-1]]}


TRIMS: dict[str, Callable[[], Any]] = {
    "SummarizationMiddleware": lambda: summarization(SUMMARY),
    "trim_messages": lambda: keep_the_last_message,
    "RemoveMessage": lambda: remove_the_first_messages,
}


@pytest.mark.parametrize("announces", [True, False], ids=["middleware", "tool alone"])
@pytest.mark.parametrize("trim", TRIMS.values(), ids=TRIMS)
def test_a_name_outlives_its_message(
    tmp_path: Path, trim: Callable[[], Any], announces: bool
) -> None:
    """After a trim, the name of an upload gives that upload, and no number gives another one."""
    chat = Chat(tmp_path, "t", InMemorySaver(), middleware=[trim()], announces=announces)
    (first,) = chat.say(question("A cat.", CAT), asks(image="latest"))
    assert name_of(CAT) in first.text
    chat.say("Nice.")
    answers = chat.say(
        question("A lake. Vary it, and the cat.", LAKE),
        asks({"image": name_of(CAT)}, {"image": "img_1"}, {"image": name_of(LAKE)}),
    )
    assert [m.status for m in answers] == ["success", "error", "success"]
    assert sorted(chat.engine.images) == sorted([CAT, CAT, LAKE])
    assert name_of(CAT) in answers[1].text and name_of(LAKE) in answers[1].text


@pytest.mark.parametrize("announces", [True, False], ids=["middleware", "tool alone"])
def test_the_middleware_keeps_an_upload_that_no_call_saw(tmp_path: Path, announces: bool) -> None:
    """Only the middleware keeps an upload that is trimmed before the first call of the tool."""
    chat = Chat(
        tmp_path, "t", InMemorySaver(), middleware=[summarization(SUMMARY)], announces=announces
    )
    chat.say(question("A cat.", CAT))
    chat.say("It is old.")
    (answer,) = chat.say("Vary it.", asks(image=name_of(CAT)))
    assert not any(isinstance(block, dict) for m in chat.messages for block in m.content)
    assert answer.status == ("success" if announces else "error")
    assert chat.engine.images == ([CAT] if announces else [])


def test_the_summary_is_made_from_messages_with_names(tmp_path: Path) -> None:
    """The middleware announces names before a summary is made, wherever it is in the list."""
    model = AnswerQueue(script=[AIMessage(SUMMARY)])
    first = SummarizationMiddleware(model, trigger=("messages", 2), keep=("messages", 1))
    chat = Chat(tmp_path, "t", InMemorySaver(), middleware=[first])
    chat.say(question("A cat and a lake.", CAT, LAKE))
    chat.say("Nice.")
    ((prompt,),) = model.requests
    assert name_of(CAT) in prompt.text and name_of(LAKE) in prompt.text


def test_another_thread_does_not_reach_a_name(tmp_path: Path) -> None:
    """A thread that knows the name of another thread's upload gets an error without it."""
    saver = InMemorySaver()
    Chat(tmp_path, "ours", saver).say(question("A cat.", CAT), asks(image="latest"))
    theirs = Chat(tmp_path, "theirs", saver)
    (answer,) = theirs.say(question("A lake.", LAKE), asks(image=name_of(CAT)))
    assert answer.status == "error"
    assert name_of(LAKE) in answer.text
    (answer,) = theirs.say(question("My cat.", CAT), asks(image=name_of(CAT)))
    assert theirs.engine.images == [CAT]


_OTHER_PROCESS = """
import json, sys
from pathlib import Path
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.agents.scripted import asks
from tests.agents.test_long_conversations import CAT
from tests.agents.chats import Chat, question

root, *names = sys.argv[1:]
with SqliteSaver.from_conn_string(f"{root}/state.sqlite") as saver:
    chat = Chat(Path(root), "t", saver)
    answers = chat.say("Go on.", *(asks(image=name) for name in names))
    print(json.dumps([len(chat.messages), *(answer.text for answer in answers)]))
    print(json.dumps([image == CAT for image in chat.engine.images]))
"""


@pytest.mark.slow
def test_a_thread_resumes_in_another_process(tmp_path: Path) -> None:
    """Another process finds an upload by its name, although no message contains it anymore."""
    with SqliteSaver.from_conn_string(f"{tmp_path}/state.sqlite") as saver:
        chat = Chat(tmp_path, "t", saver, middleware=[summarization(SUMMARY)])
        chat.say(question("A cat.", CAT), asks(image="latest"))
        chat.say("Nice.")
        chat.say("Very nice.")
        assert not any(isinstance(block, dict) for m in chat.messages for block in m.content)
    completed = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path), name_of(CAT), "img_1"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    answers, images = map(json.loads, completed.stdout.splitlines())
    assert images == [True], completed.stderr
    assert answers[1].startswith(f"Made 1 variation of {name_of(CAT)}")
    assert name_of(CAT) in answers[2]


def test_branches_share_names(tmp_path: Path) -> None:
    """Two branches of one checkpoint upload different images, and each name means one image."""
    chat = Chat(tmp_path, "t", InMemorySaver())
    chat.say(question("A cat.", CAT), asks(image="latest"))
    fork = chat.agent.get_state(chat.config).config
    for image in (LAKE, TREE):
        (answer,) = chat.say(question("Another.", image), asks(image="latest"), config=fork)
        assert name_of(image) in answer.text
    answers = chat.say("All of them.", *(asks(image=name_of(image)) for image in (TREE, CAT, LAKE)))
    assert chat.engine.images == [CAT, LAKE, TREE, TREE, CAT, LAKE]
    assert {m.status for m in answers} == {"success"}


def test_an_edited_message_does_not_change_a_name(tmp_path: Path) -> None:
    """If another image replaces one in its message, both names give the right images."""
    chat = Chat(tmp_path, "t", InMemorySaver())
    chat.say(question("A cat.", CAT))
    (message, _) = chat.messages
    content = [image_block(LAKE), *message.content[2:]]
    chat.agent.update_state(chat.config, {"messages": [HumanMessage(content, id=message.id)]})
    answers = chat.say(
        "Vary both.",
        asks(image="latest"),
        asks(image=name_of(CAT)),
        asks(image=name_of(LAKE)),
    )
    assert [m.status for m in answers] == ["success"] * 3
    assert chat.engine.images[:3] == [LAKE, CAT, LAKE]
    assert chat.messages[0].text == f"[{name_of(LAKE)}: 48x48]"


@pytest.mark.parametrize("shares_messages", [True, False], ids=["shared state", "own state"])
def test_a_subgraph_knows_the_names(tmp_path: Path, shares_messages: bool) -> None:
    """An agent in a subgraph varies an upload of its parent that its own messages lack."""
    engine = RecordingEngine()
    tool = ImageVariationTool(root_dir=tmp_path, engine=engine, fixed_size="256x256")
    model = AnswerQueue(script=[asks(image=name_of(CAT)), AIMessage("Done.")])
    agent = create_agent(model, [tool])
    greeter = create_agent(
        AnswerQueue(script=[AIMessage("Hello.")]), middleware=[ImageVariationMiddleware(tool)]
    )
    builder = StateGraph(MessagesState)
    builder.add_node("greeter", greeter)
    if shares_messages:
        builder.add_node("artist", agent)
    else:
        task: Any = {"messages": [HumanMessage(f"Vary {name_of(CAT)}.")]}
        builder.add_node("artist", lambda _: {"messages": agent.invoke(task)["messages"][-1:]})
    builder.add_edge(START, "greeter")
    builder.add_edge("greeter", "artist")
    graph: Any = builder.compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [question("A cat.", CAT)]}, config)
    assert engine.images == [CAT]
