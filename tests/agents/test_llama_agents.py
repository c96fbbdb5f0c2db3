import asyncio
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
from langchain_image_variation.agents.tool_spec import ImageVariationProgress
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.llama import asks, events, outputs, reasons, says, scripted, upload
from tests.images.scans import with_scans

pytestmark = [
    # LlamaIndex's agents look at their own deprecated attributes.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    # Its JSON of a context may leave out the memory.
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
    """Return a spec on that folder, whose pictures' colours follow from their source."""
    return ImageVariationToolSpec(root_dir=root, engine="instant", fixed_size="256x256")


def agent(spec: ImageVariationToolSpec, *script: Any) -> FunctionAgent:
    """Return an agent with the tool and a script."""
    return FunctionAgent(tools=[*spec.to_tool_list()], llm=scripted(*script))


def files(spec: ImageVariationToolSpec, output: Any) -> list[bytes]:
    """Return the pictures that a call made."""
    return [(Path(spec.root_dir) / i["path"]).read_bytes() for i in output.raw_output["images"]]


def expected(tmp_path: Path, picture: bytes, n: int = 1) -> list[bytes]:
    """Return the variations of a picture, made without any conversation."""
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "picture.png").write_bytes(picture)
    spec = ImageVariationToolSpec(root_dir=folder, engine="instant")
    return files(spec, spec.image_variation("picture.png", n, "256x256"))


def handle(index: int = 0) -> Any:
    """Return a turn that varies a picture that the last answer of the tool names."""

    def turn(messages: Sequence[ChatMessage]) -> ChatMessage:
        names = str(messages[-1].content).partition("pixels: ")[2].partition(". They")[0]
        return asks(image=names.split(", ")[index])(messages)

    return turn


async def test_a_function_agent_varies_recovers_and_goes_on(root: Path) -> None:
    """An upload, the second of its variations, an invented name, n too large, wrong types."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", thumbnail=True, max_n=4)
    seen: list[ChatMessage] = []

    def looks(messages: Sequence[ChatMessage]) -> ChatMessage:
        # A model with eyes finds the upload and the thumbnail of the results in the messages.
        seen.extend(m for m in messages if any(isinstance(b, ImageBlock) for b in m.blocks))
        return asks(image="holiday_final_v2.png")(messages)

    script = (
        asks(image="latest", n=3, size="256x256"),
        handle(1),
        looks,
        asks(image="latest", n=11),
        asks(image=["latest"], n={"count": 2}),
        asks(image="img_1", n=4, size="256x256"),
        says("Here they are."),
    )
    made = await outputs(agent(spec, *script), upload(ONE))
    assert [output.is_error for output in made] == [False, False, True, True, True, False]
    assert files(spec, made[0]) == expected(root, ONE, 3)
    assert files(spec, made[5]) == expected(root, ONE, 4)
    assert made[1].content.startswith("Made 1 variation of image-")
    assert "There is no image 'holiday_final_v2.png' here. In this conversation: img_1" in (
        made[2].content
    )
    assert "n must be a whole number from 1 to 4, got 11." in made[3].content
    assert "image must be a string" in made[4].content
    assert [message.role.value for message in seen] == ["user", "tool", "tool"]


async def test_a_react_agent_varies_recovers_and_goes_on(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """It sees text only: an upload, the newest result, an invented name, and the upload again."""
    model = scripted(
        reasons(image="latest", n=2),
        reasons(image="img_3"),
        reasons(image="nope.png"),
        reasons(image="img_1", n="two"),
        reasons(image="img_1"),
        says(),
        reasons(image="latest"),
        reasons(image="img_2"),
        says(),
    )
    react = ReActAgent(tools=[*spec.to_tool_list()], llm=model)
    ctx, memory = Context(react), ChatMemoryBuffer.from_defaults()
    made = await outputs(react, upload(ONE), ctx=ctx, memory=memory)
    assert [output.is_error for output in made] == [False, False, True, True, False]
    first = files(spec, made[0])
    assert first == expected(root, ONE, 2)
    assert files(spec, made[1]) == expected(root, first[1])
    assert files(spec, made[4]) == expected(root, ONE)
    again = await outputs(react, ctx=ctx, memory=memory)
    assert [files(spec, output) for output in again] == [expected(root, p) for p in first[:1] * 2]


async def test_conversations_at_once_see_their_own_pictures_only(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """Ten in one process, each with an upload; another's handle leads nowhere."""
    (alien,) = await outputs(agent(spec, asks(image="latest"), says()), upload(OTHER))
    name = alien.raw_output["images"][0]

    async def talk(picture: bytes) -> None:
        script = (
            asks(image="latest"),
            asks({"image": "latest"}, {"image": "img_1"}),
            asks(image=name["handle"]),
            asks(image=name["path"]),
            says(),
        )
        made = await outputs(agent(spec, *script), upload(picture))
        assert [output.is_error for output in made] == [False, False, False, True, True]
        first = files(spec, made[0])
        assert first == expected(root, picture)
        assert {*files(spec, made[1]), *files(spec, made[2])} == {*first, *expected(root, first[0])}
        for output in made[3:]:
            assert "There is no image" in output.content
            assert name["handle"] not in output.content.partition("here.")[2]

    await asyncio.gather(*(talk(square_png(64 + i)) for i in range(2, 12)))


async def test_a_context_that_was_stored_goes_on(spec: ImageVariationToolSpec, root: Path) -> None:
    """Its results are found by handle, in its own folder, by a spec that was just made."""
    first = agent(spec, asks(image="cat.jpg"), says())
    ctx = Context(first)
    (made,) = await outputs(first, ctx=ctx)
    stored = json.dumps(ctx.to_dict())
    assert len(stored) < 10_000
    name = made.raw_output["images"][0]["handle"]

    later = ImageVariationToolSpec(root_dir=root, engine="instant", fixed_size="256x256")
    second = agent(later, asks(image="latest"), asks(image=name), says())
    again = await outputs(second, ctx=Context.from_dict(second, json.loads(stored)))
    assert files(later, again[0]) == files(later, again[1]) == expected(root, files(spec, made)[0])
    paths = [output.raw_output["images"][0]["path"] for output in (made, *again)]
    assert len({Path(path).parent for path in paths}) == 1


async def test_a_stored_context_keeps_uploads_where_its_serializer_can(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """LlamaIndex's JSON leaves out a memory that holds pictures; results are found all the same."""
    first = agent(spec, asks(image="latest"), says())
    ctx = Context(first)
    (made,) = await outputs(first, upload(ONE), ctx=ctx)
    name = made.raw_output["images"][0]["handle"]
    stored = json.dumps(ctx.to_dict())
    second = agent(spec, asks(image=name), says())
    (again,) = await outputs(second, ctx=Context.from_dict(second, json.loads(stored)))
    assert files(spec, again) == expected(root, files(spec, made)[0])

    whole = ctx.to_dict(serializer=PickleSerializer())
    third = agent(spec, asks(image="img_1"), says())
    restored = Context.from_dict(third, whole, serializer=PickleSerializer())
    (again,) = await outputs(third, ctx=restored)
    assert files(spec, again) == expected(root, ONE)


@pytest.fixture
async def memories(tmp_path: Path) -> AsyncIterator[Callable[[str], Memory]]:
    """Return what opens a memory in a database by its session."""
    engines: list[AsyncEngine] = []

    def memory(session: str) -> Memory:
        engines.append(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'memory.db'}"))
        return Memory.from_defaults(session_id=session, async_engine=engines[-1])

    yield memory
    for engine in engines:
        await engine.dispose()


async def test_a_memory_with_an_identity_carries_a_conversation(
    spec: ImageVariationToolSpec, root: Path, memories: Callable[[str], Memory]
) -> None:
    """With a new context for each run, as LlamaIndex's guide shows it, the newest is the newest."""
    one = agent(spec, asks(image="latest", n=2), says())
    (made,) = await outputs(one, upload(ONE), memory=memories("s-1"))
    two = agent(spec, asks(image="latest"), asks(image="img_1"), asks(image="img_2"), says())
    again = await outputs(two, memory=memories("s-1"))
    first = files(spec, made)
    wanted = [expected(root, picture) for picture in (first[1], ONE, first[0])]
    assert [files(spec, output) for output in again] == wanted
    other = agent(spec, asks(image=made.raw_output["images"][0]["handle"]), says())
    (refused,) = await outputs(other, memory=memories("s-2"))
    assert refused.is_error


async def test_the_key_of_a_chat_store_is_an_identity_too(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """If the developer chose one."""
    store = SimpleChatStore()
    found = []
    for image in ("cat.jpg", "latest"):
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="u-1")
        found += await outputs(agent(spec, asks(image=image), says()), memory=memory)
    first, second = (files(spec, output) for output in found)
    assert second == expected(root, first[0])


async def test_memories_without_an_identity_are_apart(spec: ImageVariationToolSpec) -> None:
    """The default key of a chat store names no conversation."""
    paths = set()
    for _ in range(2):
        memory = ChatMemoryBuffer.from_defaults()
        (made,) = await outputs(agent(spec, asks(image="cat.jpg"), says()), memory=memory)
        paths.add(made.raw_output["images"][0]["path"])
    assert len(paths) == 2


async def test_a_handover_counts_no_picture_twice(spec: ImageVariationToolSpec, root: Path) -> None:
    """In a workflow of agents, the second sees the pictures of the first, in the same order."""
    hand_over = asks(tool="handoff", to_agent="second", reason="Go on.")
    first, second = (
        FunctionAgent(name=name, description="Varies.", tools=[*spec.to_tool_list()], llm=model)
        for name, model in (
            ("first", scripted(asks(image="latest", n=2), hand_over)),
            ("second", scripted(asks(image="img_3"), asks(image="img_4"), says())),
        )
    )
    workflow = AgentWorkflow(agents=[first, second], root_agent="first")
    made = [o for o in await outputs(workflow, upload(ONE)) if o.tool_name == "image_variation"]
    pictures = files(spec, made[0])
    assert files(spec, made[1]) == expected(root, pictures[1])
    assert files(spec, made[2]) == expected(root, files(spec, made[1])[0])


async def test_a_history_that_ends_with_an_answer_counts_no_picture_less(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """A client may pass messages of a run that was cut off, and go on from there."""
    chart = ChatMessage(role="tool", content="A chart.", additional_kwargs={"tool_call_id": "x"})
    one = agent(spec, asks(image="img_1"), asks(image="img_2"), says())
    made = await outputs(one, None, chat_history=[upload(ONE), chart])
    assert files(spec, made[1]) == expected(root, files(spec, made[0])[0])


async def test_a_picture_of_another_tool_is_varied(
    spec: ImageVariationToolSpec, root: Path
) -> None:
    """In the run in which it was made, and in the next."""

    def draw() -> ImageBlock:
        """Draw a chart."""
        return ImageBlock(image=OTHER)

    model = scripted(asks(tool="draw"), asks(image="latest"), says(), asks(image="img_1"), says())
    one = FunctionAgent(tools=[FunctionTool.from_defaults(draw), *spec.to_tool_list()], llm=model)
    memory = ChatMemoryBuffer.from_defaults()
    made = [*await outputs(one, memory=memory), *await outputs(one, memory=memory)][1:]
    assert [files(spec, output) for output in made] == [expected(root, OTHER)] * 2


async def test_an_upload_with_hundreds_of_scans_is_refused(spec: ImageVariationToolSpec) -> None:
    """Before it is decoded, which could take hours."""
    script = (asks(image="latest"), says())
    (made,) = await outputs(agent(spec, *script), upload(with_scans(300)))
    assert made.is_error
    assert "300 scans; the limit is 100" in str(made.content)


async def test_a_long_conversation_stays_small(spec: ImageVariationToolSpec) -> None:
    """Twenty calls of four pictures each leave less than 20 kB of messages, and no picture."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=100_000)
    one = agent(spec, *[asks(image="cat.jpg", n=4)] * 20, says())
    made = await outputs(one, memory=memory, max_iterations=30)
    assert sum(len(output.raw_output["images"]) for output in made) == 80
    text = json.dumps([message.model_dump(mode="json") for message in memory.get_all()])
    assert len(text) < 20_000
    assert "base64" not in text


async def test_each_finished_picture_is_written_to_the_stream(spec: ImageVariationToolSpec) -> None:
    """In order, each with the number of all."""
    one = agent(spec, asks(image="cat.jpg", n=3), says())
    found = await events(one, ImageVariationProgress, "Vary the cat.")
    assert [(event.done, event.n) for event in found] == [(1, 3), (2, 3), (3, 3)]


async def test_a_run_that_is_cancelled_stops_the_engine(root: Path) -> None:
    """The cancellation reaches it, and nothing is kept."""
    started, stopped = asyncio.Event(), asyncio.Event()

    class Slow:
        async def create_variation(self, request: object) -> Any:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()

    spec = ImageVariationToolSpec(root_dir=root, engine=Slow())
    handler = agent(spec, asks(image="cat.jpg"), says()).run(user_msg="Vary the cat.")
    await asyncio.wait_for(started.wait(), 10)
    await handler.cancel_run()
    await asyncio.wait_for(stopped.wait(), 10)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert list((root / "variations").rglob("*.png")) == []


async def test_the_calls_of_a_conversation_are_bounded_also_at_once(root: Path) -> None:
    """Seven calls in one turn, and one in the next; another tool of another name has its own."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", max_calls=3)
    (more,) = spec.to_tool_list(
        func_to_metadata_mapping={"image_variation": ToolMetadata("More.", "more")}
    )
    asked: dict[str, Any] = {"image": "cat.jpg", "size": "256x256"}
    model = scripted(asks(*[asked] * 7), says(), asks(**asked), asks(**asked, tool="more"), says())
    one = FunctionAgent(tools=[*spec.to_tool_list(), more], llm=model)
    ctx = Context(one)
    made = [*await outputs(one, ctx=ctx), *await outputs(one, ctx=ctx)]
    assert sum(not output.is_error for output in made[:7]) == 3
    assert [output.is_error for output in made[7:]] == [True, False]
    assert "has used all of its 3 calls" in made[7].content


async def test_the_answers_in_a_memory_count_as_calls(
    root: Path, memories: Callable[[str], Memory]
) -> None:
    """Where each run has a context of its own."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", max_calls=2)
    found = []
    for _ in range(3):
        one = agent(spec, asks(image="cat.jpg", size="256x256"), says())
        found += await outputs(one, memory=memories("s-1"))
    assert [output.is_error for output in found] == [False, False, True]


async def test_a_block_with_a_path_or_an_address_is_not_read(
    spec: ImageVariationToolSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever can put messages into a conversation gains no file and no request by it."""
    secret = tmp_path_factory.mktemp("secret") / "secret.png"
    secret.write_bytes(ONE)
    blocks = [
        ImageBlock(path=secret),
        ImageBlock(url="http://127.0.0.1:9/cat.png"),
        ImageBlock(url="https://example.com/cat.png"),
        ImageBlock(url=secret.as_uri()),
    ]
    names = [{"image": f"img_{index}"} for index in range(1, 5)]
    message = ChatMessage(role="user", blocks=blocks)
    made = await outputs(agent(spec, asks(*names), says()), message)
    assert all(output.is_error for output in made)
    texts = sorted(output.content.partition(". ")[0] for output in made)
    assert [text[:6] for text in texts] == ["img_1:", "img_2:", "img_3:", "img_4:"]
    assert sum("neither the image data nor an https URL" in text for text in texts) == 3
    assert str(secret) not in repr(made)


class _Counted(BaseModel):
    image_variation_calls: dict[str, Any] = {}


class _Uncounted(BaseModel):
    pictures: int = 0


async def test_a_workflow_of_one_s_own_passes_its_context(spec: ImageVariationToolSpec) -> None:
    """Its state is its own, if it has a field to note the calls; otherwise that is said."""
    (tool,) = spec.to_tool_list()

    class Varies(Workflow):
        @step
        async def vary(self, ctx: Context[_Counted], ev: StartEvent) -> StopEvent:
            first = await tool.acall(image="cat.jpg", ctx=ctx)
            second = await tool.acall(image="latest", ctx=ctx)
            sync = await asyncio.to_thread(tool.call, image="latest", ctx=ctx)
            return StopEvent(result=[first, second, sync])

    class Cannot(Workflow):
        @step
        async def vary(self, ctx: Context[_Uncounted], ev: StartEvent) -> StopEvent:
            return StopEvent(result=await tool.acall(image="cat.jpg", ctx=ctx))

    made: Any = await Varies().run()
    assert [output.is_error for output in made] == [False] * 3
    folders = {Path(o.raw_output["images"][0]["path"]).parent for o in made}
    assert len(folders) == 1
    refused: Any = await Cannot().run()
    assert "Add this field to it: image_variation_calls: dict" in refused.content
