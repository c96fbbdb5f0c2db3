import base64
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_image_variation.agents.conversation import MessageImage, ResultImage
from langchain_image_variation.agents.langchain_messages import (
    collect_images,
    is_runtime,
    read_conversation,
)
from pytest_image_variation.samples import square_png
from tests.agents.conversing import runtime
from tests.agents.scripted import asks

B64 = base64.b64encode(square_png()).decode("ascii")
DATA = f"data:;base64,{B64}"
TYPED = f"data:image/png;base64,{B64}"
WEB = "https://pictures.example/cat.png"


SHAPES: dict[str, tuple[Any, str | None]] = {
    "v1 base64": ({"type": "image", "base64": B64, "mime_type": "image/png"}, DATA),
    "v1 url": ({"type": "image", "url": WEB}, WEB),
    "v1 data url": ({"type": "image", "url": TYPED}, TYPED),
    "v1 file id": ({"type": "image", "file_id": "file-1"}, None),
    "v1 file": ({"type": "file", "base64": B64, "mime_type": "image/png"}, DATA),
    "v0 base64": (
        {"type": "image", "source_type": "base64", "data": B64, "mime_type": "image/png"},
        DATA,
    ),
    "v0 url": ({"type": "image", "source_type": "url", "url": WEB}, WEB),
    "openai": ({"type": "image_url", "image_url": {"url": TYPED}}, TYPED),
    "openai url": ({"type": "image_url", "image_url": {"url": WEB}}, WEB),
    "openai in short": ({"type": "image_url", "image_url": TYPED}, TYPED),
    "openai responses": ({"type": "input_image", "image_url": TYPED, "detail": "low"}, TYPED),
    "anthropic": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}},
        DATA,
    ),
    "anthropic url": ({"type": "image", "source": {"type": "url", "url": WEB}}, WEB),
    "anthropic file": ({"type": "image", "source": {"type": "file", "file_id": "f"}}, None),
    "gemini": ({"type": "media", "mime_type": "image/png", "data": B64}, DATA),
    "gemini inline": ({"inline_data": {"mime_type": "image/png", "data": B64}}, DATA),
    "bedrock": ({"image": {"format": "png", "source": {"bytes": square_png()}}}, DATA),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, ToolMessage])
def test_a_picture_is_read_whatever_provider_s_shape_it_has(
    kind: type[BaseMessage], shape: str
) -> None:
    """In messages of users, models and other tools; one that only the provider has counts too."""
    block, url = SHAPES[shape]
    more = {"tool_call_id": "1"} if kind is ToolMessage else {}
    message = kind(content=[{"type": "text", "text": "Look:"}, block], **more)
    (picture,) = collect_images([message])
    assert isinstance(picture, MessageImage)
    assert picture.address == url


def test_the_pictures_of_a_long_conversation_are_not_copied() -> None:
    """Megabytes that a message holds are held once, however often the tool is called."""
    blocks = [SHAPES[shape][0] for shape in ("v1 base64", "openai", "anthropic")]
    messages = [HumanMessage(content=[{"type": "text", "text": "Look:"}, b]) for b in blocks]
    first, second, third = collect_images(messages)
    assert isinstance(first, MessageImage) and first.base64 is B64
    assert isinstance(second, MessageImage) and second.url is TYPED
    assert isinstance(third, MessageImage) and third.base64 is B64


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google_genai", "bedrock_converse"])
def test_a_picture_in_a_model_s_own_answer(provider: str) -> None:
    """The shape of a provider's answers is read as that provider's."""
    shape = {"openai": "v1 base64", "google_genai": "gemini inline"}.get(provider, "anthropic")
    message = AIMessage(content=[SHAPES[shape][0]], response_metadata={"model_provider": provider})
    assert collect_images([message]) == [MessageImage(None, B64)]


def test_a_picture_that_a_model_drew() -> None:
    """OpenAI's own image tool leaves its picture in the answer."""
    drawn = {"type": "image_generation_call", "id": "ig_1", "result": B64, "status": "completed"}
    message = AIMessage(content=[drawn], response_metadata={"model_provider": "openai"})
    assert collect_images([message]) == [MessageImage(None, B64)]


NO_PICTURES: list[Any] = [
    "just text with data:image/png;base64,AAAA in it",
    [],
    ["text", {"type": "text", "text": "https://pictures.example/cat.png"}],
    [{"type": "audio", "base64": B64, "mime_type": "audio/wav"}],
    [{"type": "file", "base64": B64, "mime_type": "application/pdf"}],
    [{"type": "file", "base64": B64}],
    [{"inline_data": {"mime_type": "text/plain", "data": B64}}],
    [{"type": "something", "source": {"data": B64}}],
    [{"type": "image_url"}, {"image": None}][1:],
    [{}],
]


@pytest.mark.parametrize("content", NO_PICTURES, ids=lambda content: str(content)[:40])
def test_what_is_no_picture_is_none(content: Any) -> None:
    """Text, sound and documents are left alone, whatever they hold."""
    assert collect_images([HumanMessage(content=content)]) == []


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {"url": 7}},
        {"type": "image", "source": None},
        {"type": "image", "base64": 7, "mime_type": 7},
        {"type": "image", "url": ["x"]},
        {"type": "media", "mime_type": "image/png", "data": None},
        {"type": "image", "image": {"source": {"bytes": None}}},
    ],
    ids=str,
)
def test_a_broken_block_breaks_nothing(block: Any) -> None:
    """A client may have put anything into a message: it is no picture, or one without data."""
    pictures = collect_images([HumanMessage(content=[block, SHAPES["v1 url"][0]])])
    assert pictures in ([], [MessageImage(WEB)], [MessageImage(None), MessageImage(WEB)])


def result(handle: str, **others: Any) -> dict[str, Any]:
    """Return one entry of an artifact."""
    return {"handle": handle, "path": f"variations/{handle}.png", "sha256": "0" * 64, **others}


def test_results_count_with_the_uploads_in_order() -> None:
    """And a thumbnail beside an artifact is not a picture of its own."""
    thumbnail = {"type": "image", "base64": B64, "mime_type": "image/jpeg"}
    messages: list[AnyMessage] = [
        HumanMessage(content=[SHAPES["v1 url"][0]]),
        ToolMessage([thumbnail], tool_call_id="1", artifact={"images": [result("a"), result("b")]}),
        HumanMessage(content=[SHAPES["openai"][0]]),
    ]
    first, a, b, last = collect_images(messages)
    assert (first, last) == (MessageImage(WEB), MessageImage(TYPED))
    assert a == ResultImage("a", "variations/a.png", "0" * 64)
    assert isinstance(b, ResultImage) and b.handle == "b"


@pytest.mark.parametrize(
    "artifact",
    [
        *(None, [], "text", 7, {"images": None}, {"images": "ab"}, {"images": [None, 7, "x", {}]}),
        {"images": [result("a", sha256="abc")]},
        {"images": [result("a", sha256=None)]},
        {"images": [result("a", path=7)]},
        {"images": [result("a\nb")]},
        {"images": [result("../a")]},
        {"images": [result("a" * 101)]},
        {"images": [{"handle": "a"}]},
        SimpleNamespace(images=[result("a")]),
    ],
    ids=str,
)
def test_an_artifact_of_another_tool_is_no_result(artifact: Any) -> None:
    """Only entries with a handle, a path and a whole SHA-256 are."""
    assert collect_images([ToolMessage("x", tool_call_id="1", artifact=artifact)]) == []


@dataclass
class State:
    """A graph's state that is no dictionary."""

    name: str = "x"
    chat: list[BaseMessage] = field(default_factory=list)


@pytest.mark.parametrize(
    "state",
    [
        lambda messages: {"messages": messages},
        lambda messages: {"topic": ["x"], "chat": messages},
        lambda messages: {"messages": [], "chat": messages},
        lambda messages: messages,
        lambda messages: State(chat=messages),
        lambda messages: SimpleNamespace(messages=messages),
    ],
)
def test_messages_are_found_in_any_state(state: Any) -> None:
    """A dictionary, a list or an object; under "messages" or a name of the graph's own."""
    given = runtime(state([HumanMessage(content=[SHAPES["v1 url"][0]])]))
    conversation = read_conversation(given, {}, "image_variation")
    assert conversation is not None
    assert conversation.images == [MessageImage(WEB)]


@pytest.mark.parametrize(
    "message",
    [("user", [SHAPES["v1 url"][0]]), {"role": "user", "content": [SHAPES["v1 url"][0]]}],
    ids=["pair", "dictionary"],
)
def test_messages_that_a_state_keeps_as_they_came_are_read(message: Any) -> None:
    """As a pair or a dictionary, where a graph's state does not make messages of them."""
    state = {"messages": [message, {"role": "nobody"}, 7, asks(image="latest")]}
    conversation = read_conversation(runtime(state), {}, "image_variation")
    assert conversation is not None
    assert conversation.images == [MessageImage(WEB)]


@pytest.mark.parametrize("state", [None, {}, [], 7, {"messages": None}, {"messages": ["x"]}])
def test_a_state_without_messages_has_no_pictures(state: Any) -> None:
    """The call still belongs to a conversation, and does not see what belongs to none."""
    conversation = read_conversation(runtime(state), {}, "image_variation")
    assert conversation is not None
    assert (list(conversation.images), conversation.scope) == ([], None)


def test_a_thread_gives_a_conversation_its_identity() -> None:
    """With or without a runtime; without either, the call belongs to no conversation."""
    config: Any = {"configurable": {"thread_id": "t-1"}}
    with_runtime = read_conversation(runtime({}), config, "image_variation")
    without = read_conversation(None, config, "image_variation")
    assert with_runtime is not None and without is not None
    assert with_runtime.scope == without.scope is not None
    nothing: list[Any] = [{}, {"configurable": {}}, {"configurable": {"thread_id": None}}]
    assert {read_conversation(None, config, "image_variation") for config in nothing} == {None}


def test_calls_before_this_one_are_counted() -> None:
    """By name, those of the same message too, and none that comes after."""
    first, second = asks(image="a"), asks({"image": "b"}, {"image": "c"}, {"image": "d"})
    other = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "s"}])
    current = second.tool_calls[2]["id"]
    state = {"messages": [HumanMessage("x"), first, other, second]}
    conversation = read_conversation(runtime(state, current), {}, "image_variation")
    assert conversation is not None
    assert conversation.calls == 3


def test_calls_that_share_an_id_are_all_counted() -> None:
    """Some models number the calls of each message anew."""
    calls = [asks(image="a") for _ in range(3)]
    for message in calls:
        message.tool_calls[0]["id"] = "call_0"
    conversation = read_conversation(runtime({"messages": calls}, "call_0"), {}, "image_variation")
    assert conversation is not None
    assert conversation.calls == 2


def test_only_what_an_agent_made_is_a_runtime() -> None:
    """Nothing that a model can write is one, and no object that merely looks like one."""
    assert is_runtime(runtime({}))
    forged: list[Any] = [{}, {"state": {}}, "runtime", 7, SimpleNamespace(state={}), type, None]
    assert not any(map(is_runtime, forged))


def test_a_picture_is_never_shown_with_its_data() -> None:
    """Not where a debugger or a log prints it."""
    assert B64[:20] not in repr(collect_images([HumanMessage(content=[SHAPES["openai"][0]])]))
    assert pickle.loads(pickle.dumps(MessageImage(DATA))) == MessageImage(DATA)
