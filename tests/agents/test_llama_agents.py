import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from workflows.context.serializers import PickleSerializer
from workflows.errors import WorkflowCancelledByUser

from langchain_image_variation import ImageVariationToolSpec
from langchain_image_variation.agents.conversation import scope_name
from langchain_image_variation.agents.tool_spec import ImageVariationProgress
from langchain_image_variation.exceptions import InvalidRequestError
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.dial import DialEngine
from tests.agents.llama import asks, events, outputs, reasons, says, scripted, upload
from tests.agents.names import name_of
from tests.images.scans import with_scans

pytestmark = [
    # LlamaIndex's agents access their own deprecated attributes.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    # LlamaIndex warns that the JSON of a context may drop the memory.
    pytest.mark.filterwarnings("ignore::workflows.context.state_store.UnserializableKeyWarning"),
]

ONE, OTHER = square_png(64), square_png(65)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return tmp_path


@pytest.fixture
def spec(root: Path) -> ImageVariationToolSpec:
    """Return a spec on that folder. The colors of its results depend on the original."""
    return ImageVariationToolSpec(root_dir=root, engine="instant", fixed_size="256x256")


def agent(spec: ImageVariationToolSpec, *script: Any) -> FunctionAgent:
    """Return an agent with the tool and a script."""
    return FunctionAgent(tools=[*spec.to_tool_list()], llm=scripted(*script))


def files(spec: ImageVariationToolSpec, output: Any) -> list[bytes]:
    """Return the files of the images that a call made."""
    return [(Path(spec.root_dir) / i["path"]).read_bytes() for i in output.raw_output["images"]]


def expected(tmp_path: Path, image: bytes, n: int = 1) -> list[bytes]:
    """Return the variations of an image, made outside of any conversation."""
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "image.png").write_bytes(image)
    spec = ImageVariationToolSpec(root_dir=folder, engine="instant")
    return files(spec, spec.image_variation("image.png", n, "256x256"))


def handle(index: int = 0) -> Any:
    """Return a turn that varies an image named in the last answer of the tool."""

    def turn(messages: Sequence[ChatMessage]) -> ChatMessage:
        names = str(messages[-1].content).partition("pixels: ")[2].partition(". Saved")[0]
        return asks(image=names.split(", ")[index])(messages)

    return turn


def reasons_on_handle(index: int) -> Any:
    """Return a turn in the text format of ReAct that varies an image of the last answer."""

    def turn(messages: Sequence[ChatMessage]) -> ChatMessage:
        names = str(messages[-1].content).partition("pixels: ")[2].partition(". Saved")[0]
        return reasons(image=names.split(", ")[index])(messages)

    return turn


async def test_a_function_agent_varies_and_recovers(root: Path) -> None:
    """A function agent varies an upload and a variation, and recovers from three mistakes."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", content="thumbnail", max_n=4)
    image_messages: list[ChatMessage] = []

    def looks(messages: Sequence[ChatMessage]) -> ChatMessage:
        # A model that sees images finds the upload and the thumbnails in the messages.
        for message in messages:
            if any(isinstance(block, ImageBlock) for block in message.blocks):
                image_messages.append(message)
        return asks(image="holiday_final_v2.png")(messages)

    script = (
        asks(image="latest", n=3, size="256x256"),
        handle(1),
        looks,
        asks(image="latest", n=11),
        asks(image=["latest"], n={"count": 2}),
        asks(image=name_of(ONE), n=4, size="256x256"),
        says("Here they are."),
    )
    results = await outputs(agent(spec, *script), upload(ONE))
    assert [output.is_error for output in results] == [False, False, True, True, True, False]
    assert files(spec, results[0]) == expected(root, ONE, 3)
    assert files(spec, results[5]) == expected(root, ONE, 4)
    assert results[1].content.startswith("Made 1 variation of image-")
    assert "There is no image 'holiday_final_v2.png' here. In this conversation: img_" in (
        results[2].content
    )
    assert "n must be a whole number from 1 to 4, got 11." in results[3].content
    assert "image must be a string" in results[4].content
    assert [message.role.value for message in image_messages] == ["user", "tool", "tool"]


async def test_a_react_agent_varies_and_recovers(spec: ImageVariationToolSpec, root: Path) -> None:
    """A ReAct agent, which sees only text, varies images and recovers from an invented name."""
    model = scripted(
        reasons(image="latest", n=2),
        reasons_on_handle(1),
        reasons(image="nope.png"),
        reasons(image=name_of(ONE), n="two"),
        reasons(image=name_of(ONE)),
        says(),
        reasons(image="latest"),
        reasons(image=name_of(ONE)),
        says(),
    )
    react = ReActAgent(tools=[*spec.to_tool_list()], llm=model)
    ctx, memory = Context(react), ChatMemoryBuffer.from_defaults()
    results = await outputs(react, upload(ONE), ctx=ctx, memory=memory)
    assert [output.is_error for output in results] == [False, False, True, True, False]
    first = files(spec, results[0])
    assert first == expected(root, ONE, 2)
    assert files(spec, results[1]) == expected(root, first[1])
    assert files(spec, results[4]) == expected(root, ONE)
    next_results = await outputs(react, ctx=ctx, memory=memory)
    assert [files(spec, output) for output in next_results] == [
        expected(root, image) for image in (first[0], ONE)
    ]


async def test_parallel_conversations_stay_apart(spec: ImageVariationToolSpec, root: Path) -> None:
    """Ten parallel conversations do not find each other's images."""
    (alien,) = await outputs(agent(spec, asks(image="latest"), says()), upload(OTHER))
    name = alien.raw_output["images"][0]

    async def talk(image: bytes) -> None:
        script = (
            asks(image="latest"),
            asks({"image": "latest"}, {"image": name_of(image)}),
            asks(image=name["handle"]),
            asks(image=name["path"]),
            says(),
        )
        results = await outputs(agent(spec, *script), upload(image))
        assert [output.is_error for output in results] == [False, False, False, True, True]
        first = files(spec, results[0])
        assert first == expected(root, image)
        assert {*files(spec, results[1]), *files(spec, results[2])} == {
            *first,
            *expected(root, first[0]),
        }
        for output in results[3:]:
            assert "There is no image" in output.content
            assert name["handle"] not in output.content.partition("here.")[2]

    await asyncio.gather(*(talk(square_png(64 + i)) for i in range(2, 12)))


async def test_a_stored_context_continues(spec: ImageVariationToolSpec, root: Path) -> None:
    """From a stored context, a new spec finds a result by handle and saves to the same folder.

    LlamaIndex does not store the memory as JSON, so there is no latest image.
    """
    first = agent(spec, asks(image="cat.jpg"), says())
    ctx = Context(first)
    (result,) = await outputs(first, ctx=ctx)
    stored_context = json.dumps(ctx.to_dict())
    assert len(stored_context) < 10_000
    name = result.raw_output["images"][0]["handle"]

    new_spec = ImageVariationToolSpec(root_dir=root, engine="instant", fixed_size="256x256")
    second = agent(new_spec, asks(image="latest"), asks(image=name), says())
    next_results = await outputs(second, ctx=Context.from_dict(second, json.loads(stored_context)))
    assert next_results[0].content == (
        "There is no image in the messages of this conversation. Files: cat.jpg. "
        f"Earlier results: {name}."
    )
    assert files(new_spec, next_results[1]) == expected(root, files(spec, result)[0])
    paths = [output.raw_output["images"][0]["path"] for output in (result, next_results[1])]
    assert len({Path(path).parent for path in paths}) == 1


async def test_a_stored_context_finds_its_uploads(spec: ImageVariationToolSpec, root: Path) -> None:
    """A context finds its uploads and results, whether it was stored as JSON or pickled."""
    first = agent(spec, asks(image="latest"), says())
    ctx = Context(first)
    (result,) = await outputs(first, upload(ONE), ctx=ctx)
    name = result.raw_output["images"][0]["handle"]
    stored_context = json.dumps(ctx.to_dict())
    second = agent(spec, asks(image=name), asks(image=name_of(ONE)), says())
    next_results = await outputs(second, ctx=Context.from_dict(second, json.loads(stored_context)))
    assert files(spec, next_results[0]) == expected(root, files(spec, result)[0])
    assert files(spec, next_results[1]) == expected(root, ONE)

    pickled_context = ctx.to_dict(serializer=PickleSerializer())
    third = agent(spec, asks(image=name_of(ONE)), says())
    restored_context = Context.from_dict(third, pickled_context, serializer=PickleSerializer())
    (next_result,) = await outputs(third, ctx=restored_context)
    assert files(spec, next_result) == expected(root, ONE)


@pytest.fixture
async def memories(tmp_path: Path) -> AsyncIterator[Callable[[str], Memory]]:
    """Return a function that opens the memory of a session in a database."""
    engines: list[AsyncEngine] = []

    def memory(session: str) -> Memory:
        engines.append(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'memory.db'}"))
        return Memory.from_defaults(session_id=session, async_engine=engines[-1])

    yield memory
    for engine in engines:
        await engine.dispose()


async def test_a_conversation_is_deleted_by_its_session_id(
    spec: ImageVariationToolSpec, root: Path, memories: Callable[[str], Memory]
) -> None:
    """`delete_conversation` deletes what an agent stored with the `session_id` of its memory."""
    for session in ("user-1", "user-2"):
        talker = agent(spec, asks(image="latest"), says())
        await outputs(talker, upload(ONE), memory=memories(session))
    folders = [root / "variations" / scope_name(session) for session in ("user-1", "user-2")]
    other_paths = sorted(folders[1].rglob("*"))
    assert [len(list(folder.rglob("*.png"))) for folder in folders] == [2, 2]
    await asyncio.to_thread(spec.delete_conversation, "user-1")
    assert sorted((root / "variations").rglob("*")) == [folders[1], *other_paths]


async def test_a_session_id_carries_the_conversation(
    spec: ImageVariationToolSpec, root: Path, memories: Callable[[str], Memory]
) -> None:
    """Runs with new contexts and the same session id continue one conversation."""
    one = agent(spec, asks(image="latest", n=2), says())
    (result,) = await outputs(one, upload(ONE), memory=memories("s-1"))
    handle = result.raw_output["images"][0]["handle"]
    two = agent(spec, asks(image="latest"), asks(image=name_of(ONE)), asks(image=handle), says())
    next_results = await outputs(two, memory=memories("s-1"))
    first = files(spec, result)
    expected_files = [expected(root, image) for image in (first[1], ONE, first[0])]
    assert [files(spec, output) for output in next_results] == expected_files
    other = agent(spec, asks(image=handle), says())
    (refusal,) = await outputs(other, memory=memories("s-2"))
    assert refusal.is_error


async def test_a_chat_store_key_identifies_a_conversation(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """A chat store key that the developer chose identifies a conversation."""
    store = SimpleChatStore()
    results = []
    for image in ("cat.jpg", "latest"):
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="u-1")
        results += await outputs(agent(spec, asks(image=image), says()), memory=memory)
    first, second = (files(spec, output) for output in results)
    assert second == expected(root, first[0])


async def test_a_summarized_image_is_varied_by_its_name(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """After a memory is summarized, a name still means the same image, and numbers mean none."""
    memory = ChatMemoryBuffer.from_defaults(chat_store_key="u-1")
    await outputs(agent(spec, asks(image="latest"), says()), upload(ONE), memory=memory)
    memory.set([ChatMessage(role="user", content=f"Summary: {name_of(ONE)} is a cat.")])
    model = (asks(image=name_of(ONE)), asks(image="img_1"), asks(image=name_of(OTHER)), says())
    results = await outputs(agent(spec, *model), upload(OTHER), memory=memory)
    assert files(spec, results[0]) == expected(root, ONE)
    assert files(spec, results[2]) == expected(root, OTHER)
    result = results[0].raw_output["images"][0]["handle"]
    assert results[1].content == (
        f"There is no image 'img_1' here. In this conversation: {name_of(OTHER)} (65x65), "
        f"{result} (the newest). Earlier images: {name_of(ONE)} (64x64). Files: cat.jpg."
    )


async def test_a_small_memory_loses_no_image(
    spec: ImageVariationToolSpec, root: Path, memories: Callable[[str], Memory]
) -> None:
    """An image that no longer fits into the token limit of a memory is still found by its name."""
    memory = memories("s-1")
    memory.token_limit = 800
    memory.token_flush_size = 200
    await outputs(agent(spec, asks(image="latest"), says()), upload(ONE), memory=memory)
    talk = agent(spec, says("Yes. " * 300), says("No. " * 300))
    for _ in range(2):
        await outputs(talk, "Tell me more. " * 100, memory=memory)
    remaining = [message for message in await memory.aget() if "Vary this." in str(message)]
    assert remaining == []
    (result,) = await outputs(agent(spec, asks(image=name_of(ONE)), says()), memory=memory)
    assert files(spec, result) == expected(root, ONE)


async def test_memories_without_identity_stay_apart(spec: ImageVariationToolSpec) -> None:
    """The default key of a chat store does not identify a conversation."""
    paths = set()
    for _ in range(2):
        memory = ChatMemoryBuffer.from_defaults()
        (result,) = await outputs(agent(spec, asks(image="cat.jpg"), says()), memory=memory)
        paths.add(result.raw_output["images"][0]["path"])
    assert len(paths) == 2


async def test_a_handover_counts_no_image_twice(spec: ImageVariationToolSpec, root: Path) -> None:
    """After a handover, the second agent sees the images of the first in the same order."""
    hand_over = asks(tool="handoff", to_agent="second", reason="Go on.")
    first, second = (
        FunctionAgent(name=name, description="Varies.", tools=[*spec.to_tool_list()], llm=model)
        for name, model in (
            ("first", scripted(asks(image="latest", n=2), hand_over)),
            ("second", scripted(asks(image="latest"), handle(0), says())),
        )
    )
    workflow = AgentWorkflow(agents=[first, second], root_agent="first")
    results = [o for o in await outputs(workflow, upload(ONE)) if o.tool_name == "image_variation"]
    images = files(spec, results[0])
    assert files(spec, results[1]) == expected(root, images[1])
    assert files(spec, results[2]) == expected(root, files(spec, results[1])[0])


async def test_a_history_may_end_with_a_tool_message(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """A run can continue from the messages of an interrupted run."""
    chart = ChatMessage(role="tool", content="A chart.", additional_kwargs={"tool_call_id": "x"})
    one = agent(spec, asks(image=name_of(ONE)), handle(0), says())
    results = await outputs(one, None, chat_history=[upload(ONE), chart])
    assert files(spec, results[1]) == expected(root, files(spec, results[0])[0])


async def test_varies_an_image_of_another_tool(spec: ImageVariationToolSpec, root: Path) -> None:
    """An image of another tool can be varied in the same run and in the next one."""

    def draw() -> ImageBlock:
        """Draw a chart."""
        return ImageBlock(image=OTHER)

    model = scripted(
        asks(tool="draw"), asks(image="latest"), says(), asks(image=name_of(OTHER)), says()
    )
    one = FunctionAgent(tools=[FunctionTool.from_defaults(draw), *spec.to_tool_list()], llm=model)
    memory = ChatMemoryBuffer.from_defaults()
    results = [*await outputs(one, memory=memory), *await outputs(one, memory=memory)][1:]
    assert [files(spec, output) for output in results] == [expected(root, OTHER)] * 2


async def test_an_upload_with_hundreds_of_scans_is_refused(spec: ImageVariationToolSpec) -> None:
    """An upload with hundreds of scans is refused without decoding, which could take hours."""
    script = (asks(image="latest"), says())
    (result,) = await outputs(agent(spec, *script), upload(with_scans(300)))
    assert result.is_error
    assert "300 scans; the limit is 100" in str(result.content)


async def test_a_long_conversation_stays_small(spec: ImageVariationToolSpec) -> None:
    """Twenty calls of four images leave less than 20 kB of messages, and no image data."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=100_000)
    one = agent(spec, *[asks(image="cat.jpg", n=4)] * 20, says())
    results = await outputs(one, memory=memory, max_iterations=30)
    assert sum(len(output.raw_output["images"]) for output in results) == 80
    text = json.dumps([message.model_dump(mode="json") for message in memory.get_all()])
    assert len(text) < 20_000
    assert "base64" not in text


async def test_each_finished_image_is_in_the_stream(spec: ImageVariationToolSpec) -> None:
    """The stream reports each finished image in order, with the total number."""
    one = agent(spec, asks(image="cat.jpg", n=3), says())
    results = await events(one, ImageVariationProgress, "Vary the cat.")
    assert [(event.done, event.n) for event in results] == [(1, 3), (2, 3), (3, 3)]


async def test_cancelling_a_run_stops_the_engine(root: Path) -> None:
    """Cancelling a run cancels the engine, and nothing is saved."""
    start_event, stop_event = asyncio.Event(), asyncio.Event()

    class Slow:
        async def create_variation(self, request: object) -> Any:
            start_event.set()
            try:
                await asyncio.sleep(60)
            finally:
                stop_event.set()

    spec = ImageVariationToolSpec(root_dir=root, engine=Slow())
    handler = agent(spec, asks(image="cat.jpg"), says()).run(user_msg="Vary the cat.")
    await asyncio.wait_for(start_event.wait(), 10)
    await handler.cancel_run()
    await asyncio.wait_for(stop_event.wait(), 10)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert list((root / "variations").rglob("*.png")) == []


async def test_max_calls_counts_parallel_calls(root: Path) -> None:
    """`max_calls` counts parallel calls, and a tool of another name has its own limit."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", max_calls=3)
    (more,) = spec.to_tool_list(
        func_to_metadata_mapping={"image_variation": ToolMetadata("More.", "more")}
    )
    arguments: dict[str, Any] = {"image": "cat.jpg", "size": "256x256"}
    model = scripted(
        asks(*[arguments] * 7), says(), asks(**arguments), asks(**arguments, tool="more"), says()
    )
    one = FunctionAgent(tools=[*spec.to_tool_list(), more], llm=model)
    ctx = Context(one)
    results = [*await outputs(one, ctx=ctx), *await outputs(one, ctx=ctx)]
    assert sum(not output.is_error for output in results[:7]) == 3
    assert [output.is_error for output in results[7:]] == [True, False]
    assert "has used all of its 3 calls" in results[7].content


async def test_answers_in_a_memory_count_as_calls(
    root: Path, memories: Callable[[str], Memory]
) -> None:
    """Answers in a memory count as calls, although each run has a new context."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", max_calls=2)
    results = []
    for _ in range(3):
        one = agent(spec, asks(image="cat.jpg", size="256x256"), says())
        results += await outputs(one, memory=memories("s-1"))
    assert [output.is_error for output in results] == [False, False, True]


async def test_a_block_with_a_path_or_url_is_not_read(
    spec: ImageVariationToolSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A forged block with a path or URL opens no file and causes no request."""
    secret = tmp_path_factory.mktemp("secret") / "secret.png"
    secret.write_bytes(ONE)
    blocks = [
        ImageBlock(path=secret),
        ImageBlock(url="http://127.0.0.1:9/cat.png"),
        ImageBlock(url="https://example.com/cat.png"),
        ImageBlock(url=secret.as_uri()),
    ]
    results = []
    for block in blocks:
        message = ChatMessage(role="user", blocks=[block])
        results += await outputs(agent(spec, asks(image="latest"), says()), message)
    assert all(output.is_error for output in results)
    texts = [output.content.partition(". ")[0] for output in results]
    by_url = f"img_{hashlib.sha256(b'https://example.com/cat.png').hexdigest()[:8]}"
    names = [text.partition(":")[0] for text in texts]
    assert names == ["The newest image", "The newest image", by_url, "The newest image"]
    assert sum("neither the image data nor an https URL" in text for text in texts) == 3
    assert str(secret) not in repr(results)


class _RecordingState(BaseModel):
    image_variation_calls: dict[str, Any] = {}


class _OtherState(BaseModel):
    images: int = 0


async def test_a_custom_workflow_passes_its_context(spec: ImageVariationToolSpec) -> None:
    """A custom workflow needs a field in its typed state for the calls, and an error says so."""
    (tool,) = spec.to_tool_list()

    class WithField(Workflow):
        @step
        async def vary(self, ctx: Context[_RecordingState], ev: StartEvent) -> StopEvent:
            first = await tool.acall(image="cat.jpg", ctx=ctx)
            second = await tool.acall(image="latest", ctx=ctx)
            sync = await asyncio.to_thread(tool.call, image="latest", ctx=ctx)
            return StopEvent(result=[first, second, sync])

    class WithoutField(Workflow):
        @step
        async def vary(self, ctx: Context[_OtherState], ev: StartEvent) -> StopEvent:
            with pytest.raises(InvalidRequestError) as caught:
                await tool.acall(image="cat.jpg", ctx=ctx)
            return StopEvent(result=str(caught.value.__cause__))

    results: Any = await WithField().run()
    assert [output.is_error for output in results] == [False] * 3
    folders = {Path(o.raw_output["images"][0]["path"]).parent for o in results}
    assert len(folders) == 1
    refusal: Any = await WithoutField().run()
    assert "Add this field to it: image_variation_calls: dict" in refusal


async def test_the_model_uses_all_exposed_arguments(root: Path) -> None:
    """A model may choose strength, prompt, fit and name. The output records what it chose."""
    spec = ImageVariationToolSpec(
        root_dir=root,
        engine=DialEngine(),
        fixed_size="256x256",
        expose={"strength", "prompt", "fit", "name"},
    )
    choices: dict[str, Any] = {"strength": 0.3, "prompt": "In the snow", "fit": "keep"}
    first = asks(image="cat.jpg", name="Winter cat.png", **choices)
    turns = (first, asks(image="latest", prompt="forbidden"), asks(image="latest"), says())
    made, refused, plain = await outputs(agent(spec, *turns))
    (image,) = made.raw_output["images"]
    assert {name: image[name] for name in choices} == choices
    assert image["handle"].startswith("Winter-cat-")
    problem = "The image engine does not accept the prompt 'forbidden'."
    text = f"{problem} Choose another value, or leave it out."
    assert (refused.is_error, refused.content) == (True, text)
    (next_image,) = plain.raw_output["images"]
    assert not choices.keys() & next_image.keys()
    assert next_image["handle"].startswith("Winter-cat-")
