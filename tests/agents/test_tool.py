import asyncio
import base64
import hashlib
import io
import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from PIL import Image

from langchain_image_variation.agents.tool import (
    PROGRESS_EVENT,
    ImageVariationInput,
    ImageVariationTool,
)
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    InvalidRequestError,
    OutputError,
    RateLimitError,
    SourceError,
)
from langchain_image_variation.hosted.variations import VariationsEngine
from langchain_image_variation.images.pixels import decode_png, flatten_on_white
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import corrupt_png, jpeg, square_png
from tests.agents.conversing import Talk
from tests.agents.scripted import Scripted, asks, call
from tests.batch.distribution import declare
from tests.calling import failure, success
from tests.http.raw_server import raw_server, response
from tests.images.compressed import encodings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo and a corrupt image."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "broken.png").write_bytes(square_png()[:100])
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def tool(root: Path) -> ImageVariationTool:
    """Return a tool on that folder with the instant engine."""
    return ImageVariationTool(root_dir=root, engine="instant")


class _Standard:
    @pytest.fixture(autouse=True)
    def photo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Work in a folder with the image of the example."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "cat.jpg").write_bytes(jpeg())

    @property
    def tool_constructor(self) -> type[ImageVariationTool]:
        """The class under test."""
        return ImageVariationTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        """The fast engine."""
        return {"engine": "instant"}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        """A model's arguments."""
        return {"image": "cat.jpg", "n": 2, "size": "256x256"}


class TestStandardUnit(_Standard, ToolsUnitTests):
    """LangChain's standard unit tests for tools."""


class TestStandardIntegration(_Standard, ToolsIntegrationTests):
    """LangChain's standard integration tests for tools."""


def test_the_model_sees_three_arguments(tool: ImageVariationTool) -> None:
    """The model's schema has image, n and size with limits, and programs may pass more."""
    properties = tool.tool_call_schema.model_json_schema()["properties"]  # type: ignore[union-attr]  # a model class here
    assert list(properties) == ["image", "n", "size"]
    assert (properties["n"]["minimum"], properties["n"]["maximum"]) == (1, 10)
    assert properties["size"]["enum"] == ["256x256", "512x512", "1024x1024"]
    assert all(len(field["description"]) > 20 for field in properties.values())
    # Not every framework passes a conversation.
    assert "conversation" not in properties["image"]["description"]
    program_arguments = {"model", "response_format", "user", "runtime"}
    assert {*ImageVariationInput.model_fields} == {*properties, *program_arguments}


def test_content_and_artifact_of_a_call(tool: ImageVariationTool, root: Path) -> None:
    """The content is short and names the handles, and the artifact is JSON with valid paths."""
    message = tool.invoke(call(image="cat.jpg", n=3, size="256x256"))
    assert isinstance(message, ToolMessage)
    assert message.status == "success"
    assert len(message.artifact["images"]) == 3
    for item in message.artifact["images"]:
        assert set(item) == {
            *("handle", "path", "sha256", "width", "height", "seed", "engine", "model", "created")
        }
        assert item["handle"] in message.content
        assert (root / item["path"]).stem == item["handle"]
        assert (item["width"], item["height"]) == (256, 256)
        assert (item["engine"], item["model"]) == ("instant", "instant")
    assert json.loads(json.dumps(message.artifact)) == message.artifact
    assert len(message.content) < 400


def test_keep_gives_the_results_the_shape_of_the_image(root: Path) -> None:
    """Artifact, text and files have the shape of the image, and so do variations of a result."""
    tool = ImageVariationTool(root_dir=root, engine="local", fit="keep", content="thumbnail")
    talk = Talk(tool)
    message: Any = talk.vary("cat.jpg", n=2)
    for _ in range(2):
        text = message.content[0]["text"]
        assert ", 256x171 pixels: " in text
        for item in message.artifact["images"]:
            assert (item["width"], item["height"]) == (256, 171)
            with Image.open(root / item["path"]) as image:
                assert image.size == (256, 171)
        with Image.open(io.BytesIO(base64.b64decode(message.content[1]["base64"]))) as thumbnail:
            assert thumbnail.width <= 512
        assert "to a square of" in text
        message = talk.vary("latest", n=2)


@pytest.mark.parametrize("arguments", [{"image": "cat.jpg"}, {"image": "nope"}, {"image": ".."}])
def test_no_bytes_and_no_absolute_path_in_messages(
    tool: ImageVariationTool, root: Path, arguments: dict[str, Any]
) -> None:
    """Neither content nor artifact contains image data or an absolute path."""
    text = tool.invoke(call(**arguments)).model_dump_json()
    assert str(root) not in text
    assert "base64" not in text
    assert not re.search(r"[A-Za-z0-9+/]{70}", text)


async def test_sync_and_async_give_the_same_message(tool: ImageVariationTool) -> None:
    """`invoke` and `ainvoke` return equal messages for equal calls."""
    sync_message = tool.invoke(call(image="cat.jpg"))
    async_message = await tool.ainvoke(call(image="cat.jpg"))
    for item in [*sync_message.artifact["images"], *async_message.artifact["images"]]:
        del item["created"]
    assert sync_message.content == async_message.content
    assert sync_message.artifact == async_message.artifact


def test_a_program_may_pass_the_hidden_arguments(root: Path) -> None:
    """`model`, `response_format` and `user` reach the engine unchanged."""
    requests: list[CreateImageVariationRequest] = []

    class RecordingEngine(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            requests.append(request)
            return super().create_variation(request)

    tool = ImageVariationTool(root_dir=root, engine=RecordingEngine())
    arguments = {"model": "instant", "response_format": "url", "user": "u-1"}
    message = tool.invoke(call(image="cat.jpg", **arguments))
    assert requests[0].model_dump(include=set(arguments)) == arguments
    assert message.artifact["images"][0]["engine"] == "RecordingEngine"


async def test_an_async_engine_is_awaited(root: Path) -> None:
    """An engine of the async Protocol works with `ainvoke` and `invoke`."""

    class Async:
        async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            await asyncio.sleep(0)
            return InstantEngine().create_variation(request)

    tool = ImageVariationTool(root_dir=root, engine=Async())
    assert len((await tool.ainvoke(call(image="cat.jpg", n=2))).artifact["images"]) == 2
    assert len(tool.invoke(call(image="cat.jpg", n=2)).artifact["images"]) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("max_n", "n", "rule"),
    [
        *((4, n, f"n must be a whole number from 1 to 4, got {n}.") for n in (0, 5, 9, 10, 11, 50)),
        (1, 2, "n must be 1, got 2."),
    ],
)
async def test_n_above_the_bound_is_refused(
    root: Path, kind: str, max_n: int, n: int, rule: str
) -> None:
    """Every `n` that the settings do not allow gets the same answer, and no image is made."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_n=max_n)
    tool_call = call(image="cat.jpg", n=n)
    message = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
    assert message.content == f"Correct these arguments and call again: {rule}"
    assert (message.status, (root / "variations").exists()) == ("error", False)


class SmallEngine(InstantEngine):
    """An engine that makes at most three variations per call."""

    max_n: Any = 3


def test_an_engine_may_limit_n(root: Path) -> None:
    """A model gets the lower limit of the settings and the engine, and never exceeds it."""
    for max_n, limit in ((10, 3), (2, 2)):
        tool = ImageVariationTool(root_dir=root, engine=SmallEngine(), max_n=max_n)
        schema: Any = tool.tool_call_schema
        assert schema.model_json_schema()["properties"]["n"]["maximum"] == limit
        for n in (limit + 1, 11):
            message = tool.invoke(call(image="cat.jpg", n=n))
            assert f"n must be a whole number from 1 to {limit}, got {n}." in message.content
        assert tool.invoke(call(image="cat.jpg", n=limit)).status == "success"


@pytest.mark.parametrize("max_n", [0, None, "3", 2.5])
def test_an_engine_with_a_wrong_max_n(root: Path, max_n: object) -> None:
    """A wrong `max_n` of an engine is an error on construction."""
    engine = SmallEngine()
    engine.max_n = max_n
    with pytest.raises(EngineError, match="max_n of the engine SmallEngine must be a whole number"):
        ImageVariationTool(root_dir=root, engine=engine)


def test_an_engine_whose_max_n_fails(root: Path) -> None:
    """An error in the property `max_n` of an engine is an error of the tree, with its cause."""

    class Unready(SmallEngine):
        @property
        def max_n(self) -> int:
            raise KeyError("limits")

        @max_n.setter
        def max_n(self, value: int) -> None:
            """Ignore it."""

    with pytest.raises(EngineError, match="max_n of the engine Unready failed with KeyError") as e:
        ImageVariationTool(root_dir=root, engine=Unready())
    assert isinstance(e.value.__cause__, KeyError)


def test_limits_win_over_arguments_of_the_model(root: Path) -> None:
    """A fixed size replaces the requested one, and the text says which size was made."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_n=2, fixed_size="256x256")
    message = tool.invoke(call(image="cat.jpg", n=2, size="1024x1024"))
    assert [item["width"] for item in message.artifact["images"]] == [256, 256]
    assert "Made 2 variations of cat, 256x256 pixels: " in message.content


def test_null_arguments_mean_the_defaults(tool: ImageVariationTool) -> None:
    """Models often send null for an argument they leave out."""
    message = tool.invoke(call(image="cat.jpg", n=None, size=None))
    assert [item["width"] for item in message.artifact["images"]] == [1024]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "dog.png"}, "There is no image 'dog.png' here. Files: "),
    ({"image": "../cat.jpg"}, "There is no image '../cat.jpg' here. Files: "),
    ({"image": "/etc/passwd"}, "There is no image 'passwd' here. Files: "),
    (
        {"image": "broken.png"},
        "broken.png: image is a corrupt PNG file: its pixels end early: the file is cut off. Files",
    ),
    ({"image": "cat.jpg", "n": 11}, "n must be a whole number from 1 to 10, got 11."),
    ({"image": "cat.jpg", "n": "many"}, "n must be a whole number from 1 to 10, got 'many'."),
    ({"image": "cat.jpg", "n": True}, "n must be a whole number from 1 to 10, got True."),
    (
        {"image": "cat.jpg", "size": "1x1"},
        "size must be one of 256x256, 512x512, 1024x1024, got '1x1'.",
    ),
    (
        {"image": "cat.jpg", "prompt": "blue"},
        "'prompt' is not an argument; the arguments are image, n and size.",
    ),
    (
        {"image": "cat.jpg", "prompt": "blue", "seed": 1, "n": 11},
        "n must be a whole number from 1 to 10, got 11; 'prompt' and 'seed' are not arguments; the",
    ),
    ({}, "image is missing; it must be a string"),
    ({"image": "A" * 10**6}, "There is no image 'AAAA"),
    ({"image": "notes.txt"}, "notes.txt: The source is text"),
    (
        {"image": "cat.jpg", **{f"x{i}": i for i in range(10_000)}},
        "'x0', 'x1', 'x2' and 'x3' are not",
    ),
    ({"image": "C:\\Users\\bob\\x.png"}, "There is no image 'x.png' here."),
    ({"image": ["A" * 10**6]}, "or a relative path, got a value of type list."),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[text[:30] for _, text in BAD])
def test_a_mistake_gets_an_error_message(
    tool: ImageVariationTool, arguments: dict[str, Any], text: str
) -> None:
    """Each mistake of a model gets a short error message instead of an exception."""
    message = tool.invoke(call(**arguments))
    assert message.status == "error"
    assert text in message.content
    assert len(message.content) < 400


def test_the_file_name_of_a_result_is_a_handle(tool: ImageVariationTool) -> None:
    """A handle is also recognized with the suffix or the folder of its file."""
    handle = tool.invoke(call(image="cat.jpg")).artifact["images"][0]["handle"]
    for image in (handle, f"{handle}.png", f"variations/{handle}.png"):
        assert tool.invoke(call(image=image)).status == "success"


class Listener(BaseCallbackHandler):
    """A callback handler, which may fail."""

    raise_error = True

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.events: list[tuple[str, Any]] = []
        self.runs: set[Any] = set()

    def on_tool_start(self, *args: Any, run_id: Any, **options: Any) -> None:
        """Remember the run."""
        self.runs.add(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **options: Any) -> None:
        """Remember the event, which must belong to the run, or fail."""
        if self.failure is not None:
            raise self.failure
        assert run_id in self.runs
        self.events.append((name, data))


async def test_callbacks_of_a_call_get_the_progress(tool: ImageVariationTool) -> None:
    """A handler passed to the call gets an event for each image, from the tool's own run."""
    listeners = [Listener(), Listener()]
    tool_call = call(image="cat.jpg", n=2, size="256x256")
    assert tool.invoke(tool_call, {"callbacks": [listeners[0]]}).status == "success"
    assert (await tool.ainvoke(tool_call, {"callbacks": [listeners[1]]})).status == "success"
    events = [(PROGRESS_EVENT, {"done": done, "n": 2}) for done in (1, 2)]
    assert [handler.events for handler in listeners] == [events, events]


@pytest.mark.parametrize("engine", ["instant", "local"])
async def test_an_error_of_a_handler_is_not_the_engines(root: Path, engine: str) -> None:
    """The error of a handler with `raise_error` is raised, whichever thread it ran in."""
    tool = ImageVariationTool(root_dir=root, engine=engine)
    tool_call = call(image="cat.jpg", size="256x256")
    handler = Listener(ZeroDivisionError("from the handler"))
    with pytest.raises(ZeroDivisionError, match=r"^from the handler$"):
        tool.invoke(tool_call, {"callbacks": [handler]})
    with pytest.raises(ZeroDivisionError, match=r"^from the handler$"):
        await tool.ainvoke(tool_call, {"callbacks": [handler]})


class UndeclaredEngine(InstantEngine):
    """An engine that no entry point declares."""


@pytest.mark.parametrize(
    ("engine", "name"),
    [("local", "local"), (LocalEngine(), "local"), (UndeclaredEngine(), "UndeclaredEngine")],
    ids=["by name", "as an object", "undeclared"],
)
def test_the_artifact_has_the_declared_engine_name(root: Path, engine: Any, name: str) -> None:
    """The artifact has the declared name of the engine, or else the name of its class."""
    tool = ImageVariationTool(root_dir=root, engine=engine)
    (image,) = tool.invoke(call(image="cat.jpg", size="256x256")).artifact["images"]
    assert image["engine"] == name


def test_an_engine_keeps_the_name_it_was_given_by(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine keeps the name it was given by, even if its class is declared under two names."""
    declare(
        root,
        "renamed",
        "[langchain_image_variation.engines]\n"
        "first = renamed_of_tests:Renamed\n"
        "second = renamed_of_tests:Renamed\n"
        "alias = renamed_of_tests:Alias\n",
        "from langchain_image_variation.engines.instant import InstantEngine\n"
        "class Renamed(InstantEngine): pass\n"
        "Alias = Renamed\n",
        monkeypatch,
    )
    for name in ("first", "second", "alias"):
        tool = ImageVariationTool(root_dir=root, engine=name)
        (image,) = tool.invoke(call(image="cat.jpg", size="256x256")).artifact["images"]
        assert image["engine"] == name


def test_a_single_string_is_the_image(tool: ImageVariationTool) -> None:
    """A program may invoke the tool with only the name of an image."""
    assert tool.invoke("cat.jpg").startswith("Made 1 variation of cat")


def test_a_copy_follows_its_own_settings(tool: ImageVariationTool, root: Path) -> None:
    """A copy with another root, fit or engine uses it."""
    (root / "below").mkdir()
    (root / "below" / "dog.jpg").write_bytes(jpeg())
    copy = tool.model_copy(update={"root_dir": root / "below", "fit": "strict"})
    assert "dog.jpg: image is not a PNG file" in copy.invoke(call(image="dog.jpg")).content
    assert "There is no image 'cat.jpg'" in copy.invoke(call(image="cat.jpg")).content
    local = tool.model_copy(update={"engine": "local"})
    (item,) = local.invoke(call(image="cat.jpg", size="256x256")).artifact["images"]
    assert item["engine"] == "local"
    assert isinstance(item["seed"], int)


def test_results_never_leave_the_root(tool: ImageVariationTool, root: Path) -> None:
    """If the output folder becomes a link that leads outside, nothing is written."""
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (root / "variations").symlink_to(outside)
    with pytest.raises(SourceError) as caught:
        tool.invoke(call(image="cat.jpg"))
    assert "inside root_dir" in str(caught.value.__cause__)
    assert list(outside.iterdir()) == []


def test_a_link_made_during_a_call_is_not_followed(root: Path) -> None:
    """If the output folder becomes a link during a call, nothing is written or deleted there."""
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (outside / "dog-0123abcd-1.png").write_bytes(square_png())

    class SwappingEngine(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            (root / "variations").rmdir()
            (root / "variations").symlink_to(outside)
            return super().create_variation(request)

    tool = ImageVariationTool(root_dir=root, engine=SwappingEngine(), max_results=1)
    with pytest.raises(OutputError) as caught:
        tool.invoke(call(image="cat.jpg", size="256x256"))
    assert "leads out of root_dir" in str(caught.value.__cause__)
    assert [path.name for path in outside.iterdir()] == ["dog-0123abcd-1.png"]


@pytest.mark.parametrize("output_dir", ["{root}/kept", "below/../kept", "{root}/below/../kept"])
def test_output_dir_is_shown_as_a_plain_path(root: Path, output_dir: str) -> None:
    """`output_dir` is never shown as an absolute path, and results are found again."""
    tool = ImageVariationTool(
        root_dir=root, engine="instant", output_dir=output_dir.format(root=root)
    )
    talk = Talk(tool)
    first = talk.vary("cat.jpg")
    assert first.artifact["images"][0]["path"].startswith("kept/cat-")
    assert "Saved in kept/ as" in first.text
    assert talk.vary("latest").status == "success"


@pytest.mark.parametrize("output_dir", ["/out", "../out", "a/../../out", "link", "link/below", "."])
def test_output_dir_must_be_below_the_root(root: Path, output_dir: str) -> None:
    """`output_dir` may be neither the root nor outside of it, even through a symbolic link."""
    (root / "link").symlink_to(root.parent)
    with pytest.raises(SourceError, match="inside root_dir"):
        ImageVariationTool(root_dir=root, engine="instant", output_dir=output_dir)


def test_the_tool_survives_pickling(tool: ImageVariationTool) -> None:
    """A tool can be sent to another process."""
    copy = pickle.loads(pickle.dumps(tool))
    assert copy.invoke(call(image="cat.jpg")).status == "success"


def test_corrupt_pixels_get_an_error_message(root: Path) -> None:
    """An image that fails only during decoding gets an error message too."""
    (root / "rotten.png").write_bytes(corrupt_png())
    message = ImageVariationTool(root_dir=root).invoke(call(image="rotten.png"))
    assert "pixels cannot be decompressed" in message.content


def test_wrong_settings_are_raised_immediately(root: Path) -> None:
    """A wrong engine or folder fails when the tool is constructed, not in a conversation."""
    with pytest.raises(EngineNotFoundError):
        ImageVariationTool(engine="magic")
    with pytest.raises(SourceError, match="inside root_dir"):
        ImageVariationTool(output_dir="../elsewhere")
    with pytest.raises(SourceError, match="no folder 'nowhere'"):
        ImageVariationTool(root_dir=root / "nowhere")
    with pytest.raises(InvalidRequestError, match="storage_options are for the file system of a"):
        ImageVariationTool(root_dir=root, engine="instant", storage_options={"key": "x"})
    with pytest.raises(InvalidRequestError, match=r"Pass InstantEngine\(\)"):
        ImageVariationTool(engine=InstantEngine)  # type: ignore[arg-type]  # wrong on purpose
    wrong: dict[str, Any]
    for wrong in ({"max_n": 11}, {"seed": 7}, {"fixed_size": "1x1"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ImageVariationTool(**wrong)


def test_parallel_calls_do_not_interfere(tool: ImageVariationTool, root: Path) -> None:
    """Forty calls from a pool return forty correct answers and leave no other file."""
    inputs: list[Any] = [call(image="cat.jpg", n=2) for _ in range(40)]
    config = RunnableConfig(max_concurrency=8)
    messages = tool.batch(inputs, config=config)
    assert len({message.content for message in messages}) == 1
    assert len(list((root / "variations").iterdir())) == 2


def _second_handle(messages: Sequence[BaseMessage]) -> str:
    (_, second, _) = re.findall(r"cat-[0-9a-f]{8}-\d", messages[-1].text)
    return str(second)


def test_an_agent_varies_and_survives_a_mistake(root: Path) -> None:
    """An agent varies a photo and one of its variations, and recovers from an invented name."""
    model = Scripted(
        script=[
            lambda _: asks(image="cat.jpg", n=3, size="256x256"),
            lambda messages: asks(image=_second_handle(messages), n=2, size="256x256"),
            lambda _: asks(image="holiday_final_v2.png"),
            lambda messages: AIMessage(f"Sorry. {messages[-1].text}"),
        ]
    )
    agent = create_agent(model, tools=[ImageVariationTool(root_dir=root)])
    messages = agent.invoke({"messages": [HumanMessage("Vary the cat.")]})["messages"]
    first, second, third = (m for m in messages if isinstance(m, ToolMessage))
    images = [first.artifact["images"], second.artifact["images"]]
    assert [len(images[0]), len(images[1]), third.artifact] == [3, 2, None]
    assert [m.status for m in (first, second, third)] == ["success", "success", "error"]
    paths = [item["path"] for item in images[0] + images[1]]
    assert len({(root / path).read_bytes() for path in paths}) == 5
    assert all(path.startswith("variations/cat-") for path in paths)
    assert "There is no image 'holiday_final_v2.png' here. In this" in messages[-1].text
    assert len(json.dumps([m.model_dump() for m in messages], default=str)) < 12_000


def test_a_server_gets_the_visible_image(root: Path) -> None:
    """A server gets no colors hidden by alpha, which a model that drops alpha would see."""
    (root / "faint.png").write_bytes(square_png(mode="RGBA"))
    expected = flatten_on_white(load_source(root / "faint.png").png).data
    with raw_server(response(200, success(1))) as server:
        engine = load_engine("variations", base_url=server.base_url)
        ImageVariationTool(root_dir=root, engine=engine).invoke(call(image="faint.png"))
        assert isinstance(engine, VariationsEngine)
        engine.close()
    assert expected in server.requests[0]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_server_is_the_engine(root: Path, kind: str) -> None:
    """Images of a server are saved and named, and its refusal is raised."""
    refusal = response(429, failure("Please try again in 999s.", type="requests"))
    with raw_server(response(200, success(2)), refusal) as server:
        engine = load_engine("variations", base_url=server.base_url, api_key="sk-verysecret")
        tool = ImageVariationTool(root_dir=root, engine=engine)
        tool_call = call(image="cat.jpg", n=2, size="256x256")
        message = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
        with pytest.raises(RateLimitError, match="too many requests") as caught:
            _ = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
        assert isinstance(engine, VariationsEngine)
        engine.close()
    assert [item["width"] for item in message.artifact["images"]] == [256, 256]
    assert caught.value.retry_after == 999
    assert "try again in 999s" in str(caught.value.__cause__)
    assert "sk-verysecret" not in repr((message, caught.value, caught.value.__cause__, tool))


class RecompressingEngine:
    """An engine that returns the same pixels at each call, in different files."""

    def __init__(self) -> None:
        self.files = iter(encodings(decode_png(SquarePNG(square_png(256)))))

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the next file."""
        return ImagesResponse.from_pngs([next(self.files)], response_format="b64_json")


@pytest.mark.slow
def test_a_handle_does_not_depend_on_compression(root: Path) -> None:
    """If equal pixels come in another file, the first file, its hash and its handle stay."""
    tool = ImageVariationTool(root_dir=root, engine=RecompressingEngine(), fixed_size="256x256")
    talk = Talk(tool)
    images = [talk.vary("cat.jpg").artifact["images"][0] for _ in range(3)]
    assert len({(image["handle"], image["sha256"]) for image in images}) == 1
    data = (root / images[0]["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == images[0]["sha256"]
    assert [path.name for path in (root / "variations").iterdir()] == [Path(images[0]["path"]).name]
    talk.vary(images[0]["handle"])


def test_compression_of_the_source_does_not_matter(root: Path) -> None:
    """Equal pixels give equal results, so their names are equal."""
    handles = set()
    for data in encodings(decode_png(SquarePNG(square_png(24)))):
        (root / "dog.png").write_bytes(data)
        tool = ImageVariationTool(root_dir=root, engine="instant", fixed_size="256x256")
        message = tool.invoke(call(image="dog.png", n=2))
        handles.add(tuple(image["handle"] for image in message.artifact["images"]))
    assert len(handles) == 1


@pytest.mark.parametrize("kind", ["", "two\nlines", "x" * 81, 7])
def test_an_engine_with_a_wrong_variation_kind(root: Path, kind: object) -> None:
    """A `variation_kind` that is not one short line is an error on construction."""
    engine: Any = SmallEngine()
    engine.variation_kind = kind
    with pytest.raises(EngineError, match="variation_kind of the engine SmallEngine must be one"):
        ImageVariationTool(root_dir=root, engine=engine)


def test_an_engine_without_a_variation_kind(root: Path) -> None:
    """If an engine does not say what it makes, the text does not either."""
    engine: Any = SmallEngine()
    engine.variation_kind = None
    text = ImageVariationTool(root_dir=root, engine=engine).invoke({"image": "cat.jpg"})
    assert "Kind of variation" not in text
