import base64
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_image_variation.agents.conversation import ResultImage
from langchain_image_variation.agents.langchain_messages import (
    collect_images,
    is_runtime,
    read_conversation,
)
from langchain_image_variation.agents.message_image import MessageImage
from pytest_image_variation.samples import square_png
from tests.agents.conversing import runtime
from tests.agents.scripted import asks

PNG = square_png()
B64 = base64.b64encode(PNG).decode("ascii")
DATA = MessageImage(None, B64)
TYPED = f"data:image/png;base64,{B64}"
WEB = "https://images.example/cat.png"


SHAPES: dict[str, tuple[Any, MessageImage | str | None]] = {
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
    "bedrock": (
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        MessageImage(None, file=PNG),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, ToolMessage])
def test_reads_images_in_every_provider_format(kind: type[BaseMessage], shape: str) -> None:
    """Images of users, models and other tools are read in every provider's format."""
    block, url = SHAPES[shape]
    more = {"tool_call_id": "1"} if kind is ToolMessage else {}
    message = kind(content=[{"type": "text", "text": "Look:"}, block], **more)
    (image,) = collect_images([message])
    assert isinstance(image, MessageImage)
    assert image == (url if isinstance(url, MessageImage) else MessageImage(url))


def test_images_of_a_conversation_are_not_copied() -> None:
    """Images in messages exist once in memory, however often the tool is called."""
    blocks = [SHAPES[shape][0] for shape in ("v1 base64", "openai", "anthropic")]
    messages = [HumanMessage(content=[{"type": "text", "text": "Look:"}, b]) for b in blocks]
    first, second, third = collect_images(messages)
    assert isinstance(first, MessageImage) and first.base64 is B64
    assert isinstance(second, MessageImage) and second.url is TYPED
    assert isinstance(third, MessageImage) and third.base64 is B64


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google_genai", "bedrock_converse"])
def test_reads_an_image_in_an_answer_of_the_model(provider: str) -> None:
    """An image in a model's answer is read in the format of the model's provider."""
    shape = {"openai": "v1 base64", "google_genai": "gemini inline"}.get(provider, "anthropic")
    message = AIMessage(content=[SHAPES[shape][0]], response_metadata={"model_provider": provider})
    assert collect_images([message]) == [MessageImage(None, B64)]


def test_reads_an_image_that_a_model_generated() -> None:
    """An image that OpenAI's image tool puts into the model's answer is read."""
    generation = {
        "type": "image_generation_call",
        "id": "ig_1",
        "result": B64,
        "status": "completed",
    }
    message = AIMessage(content=[generation], response_metadata={"model_provider": "openai"})
    assert collect_images([message]) == [MessageImage(None, B64)]


NO_IMAGES: list[Any] = [
    "just text with data:image/png;base64,AAAA in it",
    [],
    ["text", {"type": "text", "text": "https://images.example/cat.png"}],
    [{"type": "audio", "base64": B64, "mime_type": "audio/wav"}],
    [{"type": "file", "base64": B64, "mime_type": "application/pdf"}],
    [{"type": "file", "base64": B64}],
    [{"inline_data": {"mime_type": "text/plain", "data": B64}}],
    [{"type": "something", "source": {"data": B64}}],
    [{"type": "image_url"}, {"image": None}][1:],
    [{}],
]


@pytest.mark.parametrize("content", NO_IMAGES, ids=lambda content: str(content)[:40])
def test_other_content_is_not_an_image(content: Any) -> None:
    """Text, sound and documents do not count as images, whatever they contain."""
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
def test_a_malformed_block_breaks_nothing(block: Any) -> None:
    """A malformed block raises no error, and counts at most as an image without data."""
    images = collect_images([HumanMessage(content=[block, SHAPES["v1 url"][0]])])
    assert images in ([], [MessageImage(WEB)], [MessageImage(None), MessageImage(WEB)])


def result(handle: str, **others: Any) -> dict[str, Any]:
    """Return one entry of an artifact."""
    return {"handle": handle, "path": f"variations/{handle}.png", "sha256": "0" * 64, **others}


def test_results_and_uploads_are_in_order() -> None:
    """Results and uploads are in order, and a thumbnail next to an artifact is not counted."""
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
        {"images": [result("a" * 109)]},
        {"images": [{"handle": "a"}]},
        SimpleNamespace(images=[result("a")]),
    ],
    ids=str,
)
def test_an_artifact_of_another_tool_has_no_results(artifact: Any) -> None:
    """Only artifact entries with a handle, a path and a full SHA-256 count as results."""
    assert collect_images([ToolMessage("x", tool_call_id="1", artifact=artifact)]) == []


@dataclass
class State:
    """A graph's state that is not a dictionary."""

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
def test_finds_the_messages_in_any_state(state: Any) -> None:
    """Messages are found under any name in a dictionary, a list or an object."""
    injected_runtime = runtime(state([HumanMessage(content=[SHAPES["v1 url"][0]])]))
    conversation = read_conversation(injected_runtime, {}, "image_variation")
    assert conversation is not None
    assert conversation.images == [MessageImage(WEB)]


@pytest.mark.parametrize(
    "message",
    [("user", [SHAPES["v1 url"][0]]), {"role": "user", "content": [SHAPES["v1 url"][0]]}],
    ids=["pair", "dictionary"],
)
def test_reads_messages_that_are_not_converted(message: Any) -> None:
    """Messages that a state keeps as pairs or dictionaries are read."""
    state = {"messages": [message, {"role": "nobody"}, 7, asks(image="latest")]}
    conversation = read_conversation(runtime(state), {}, "image_variation")
    assert conversation is not None
    assert conversation.images == [MessageImage(WEB)]


@pytest.mark.parametrize("state", [None, {}, [], 7, {"messages": None}, {"messages": ["x"]}])
def test_a_state_without_messages_has_no_images(state: Any) -> None:
    """A call with a state without messages belongs to a conversation and has no images."""
    conversation = read_conversation(runtime(state), {}, "image_variation")
    assert conversation is not None
    assert (list(conversation.images), conversation.scope) == ([], None)


def test_the_thread_identifies_the_conversation() -> None:
    """A thread id identifies the conversation, with or without a runtime."""
    config: Any = {"configurable": {"thread_id": "t-1"}}
    with_runtime = read_conversation(runtime({}), config, "image_variation")
    without = read_conversation(None, config, "image_variation")
    assert with_runtime is not None and without is not None
    assert with_runtime.scope == without.scope is not None
    nothing: list[Any] = [{}, {"configurable": {}}, {"configurable": {"thread_id": None}}]
    assert {read_conversation(None, config, "image_variation") for config in nothing} == {None}


def test_counts_the_calls_before_this_one() -> None:
    """Only earlier calls of this tool count, including those in the same message."""
    first, second = asks(image="a"), asks({"image": "b"}, {"image": "c"}, {"image": "d"})
    other = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "s"}])
    current = second.tool_calls[2]["id"]
    state = {"messages": [HumanMessage("x"), first, other, second]}
    conversation = read_conversation(runtime(state, current), {}, "image_variation")
    assert conversation is not None
    assert conversation.calls == 3


def test_counts_calls_that_share_an_id() -> None:
    """Calls count correctly even if a model numbers those of each message from the start."""
    calls = [asks(image="a") for _ in range(3)]
    for message in calls:
        message.tool_calls[0]["id"] = "call_0"
    conversation = read_conversation(runtime({"messages": calls}, "call_0"), {}, "image_variation")
    assert conversation is not None
    assert conversation.calls == 2


def test_only_an_agent_can_make_a_runtime() -> None:
    """Nothing that a model can write, and no lookalike object, is accepted as a runtime."""
    assert is_runtime(runtime({}))
    forgeries: list[Any] = [{}, {"state": {}}, "runtime", 7, SimpleNamespace(state={}), type, None]
    assert not any(map(is_runtime, forgeries))


def test_the_repr_of_an_image_has_no_data() -> None:
    """The repr of an image has no data, since a debugger or a log may print it."""
    assert B64[:20] not in repr(collect_images([HumanMessage(content=[SHAPES["openai"][0]])]))
    assert pickle.loads(pickle.dumps(DATA)) == DATA
