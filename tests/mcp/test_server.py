import asyncio
import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineNotFoundError,
    InvalidRequestError,
    QuotaExceededError,
    SourceError,
)
from langchain_image_variation.http.url_policy import URLPolicy
from pytest_image_variation.samples import square_png
from tests.mcp.serving import (
    KEY,
    TOOL,
    FailingEngine,
    PatientEngine,
    StubbornEngine,
    check_clean,
    create,
    serve,
    text,
    thumbnails,
)
from tests.mcp.stdio import install_engine

from mcp import Client, MCPError  # isort: skip  # not before the module that skips without it

SMALL_CAT = {"image": "cat.png", "size": "256x256"}

pytestmark = pytest.mark.filterwarnings("error")


async def schema(server: Any) -> dict[str, Any]:
    """Return the arguments of the tool, as hosts see them."""
    async with Client(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    return dict(tools[TOOL].input_schema["properties"])


async def test_the_tools_are_those_of_the_page(root: Path) -> None:
    """There are two tools, whose names are short, and each has a description and a schema."""
    async with Client(serve(root)) as client:
        tools = (await client.list_tools()).tools
        assert client.instructions and "folder" in client.instructions
    assert [tool.name for tool in tools] == ["create_image_variations", "list_images"]
    for tool in tools:
        assert len(tool.name) < 32
        assert tool.description and tool.input_schema["type"] == "object" and tool.output_schema
        assert "title" not in json.dumps([tool.input_schema, tool.output_schema])
    assert [tool.annotations and tool.annotations.read_only_hint for tool in tools] == [False, True]


async def test_the_arguments_have_bounds(root: Path) -> None:
    """A model sees each argument with a description, its limits and its default."""
    arguments = await schema(serve(root, "local", ["instant"], max_n=4))
    assert [*arguments] == ["image", "n", "size", "strength", "seed", "engine"]
    assert all(argument["description"] for argument in arguments.values())
    assert "attached to the chat is not there" in arguments["image"]["description"]
    assert (arguments["n"]["minimum"], arguments["n"]["maximum"]) == (1, 4)
    assert (arguments["strength"]["minimum"], arguments["strength"]["maximum"]) == (0, 1)
    assert (arguments["seed"]["minimum"], arguments["seed"]["maximum"]) == (0, 2**53 - 1)
    assert arguments["engine"]["enum"] == ["local", "instant"]
    assert arguments["engine"]["default"] == "local"
    assert arguments["size"]["enum"] == ["256x256", "512x512", "1024x1024"]


async def test_arguments_that_do_nothing_are_not_shown(root: Path) -> None:
    """Without an engine that takes them, and with a fixed size, a model does not see them."""
    arguments = await schema(serve(root, PatientEngine(), fixed_size="256x256"))
    assert [*arguments] == ["image", "n", "engine"]
    size = (await schema(serve(root, fit="keep")))["size"]
    assert "keep the image's shape" in size["description"]


async def test_further_arguments_are_exposed_on_demand(root: Path) -> None:
    """The developer may let the model choose the fit and the name of the files too."""
    server = serve(root, "local", expose={"fit", "name"})
    arguments = await schema(server)
    assert [*arguments] == ["image", "n", "size", "strength", "fit", "name", "seed", "engine"]
    Image.new("RGB", (40, 20)).save(root / "wide.png")
    answer = await create(server, "wide.png", fit="keep", name="winter cat", strength=0.3)
    (image,) = answer.structured_content["images"]
    assert image["name"].startswith("winter-cat-") and image["height"] == 128
    refusal = await create(serve(root), name="winter")
    assert "'name' is not an argument" in text(refusal)


async def test_an_option_is_exposed_for_the_engines_that_have_it(root: Path) -> None:
    """A prompt is for the engine that takes one; the default engine must be one of them."""

    class Painter(InstantEngine):
        def with_options(self, *, prompt: str | None = None) -> "Painter":
            return self

    async with Client(serve(root, Painter(), ["local"], expose={"prompt"})) as client:
        tools = (await client.list_tools()).tools
    assert "prompt" in tools[0].input_schema["properties"]
    assert "no prompt" not in str(tools[0].description)
    server = serve(root, Painter(), ["local"], expose={"prompt"})
    assert not (await create(server, prompt="in the snow")).is_error
    refusal = await create(server, engine="local", prompt="in the snow")
    assert text(refusal) == "The engine local has no prompt that you can set. Leave it out."
    with pytest.raises(InvalidRequestError, match="has no prompt that a request can set"):
        serve(root, "local", [Painter()], expose={"prompt"})


async def test_a_call_saves_the_images_and_names_them(root: Path) -> None:
    """The answer has a text, typed content for programs, and one small contact sheet."""
    answer = await create(serve(root, "local"), n=2, seed=7)
    assert not answer.is_error
    content = answer.structured_content
    names = [image["name"] for image in content["images"]]
    assert ", ".join(names) in text(answer) and "variations/" in text(answer)
    assert [image["seed"] for image in content["images"]] == [7, 8]
    assert (content["engine"], content["model"]) == ("local", "local")
    for image in content["images"]:
        with Image.open(root / image["path"]) as saved:
            assert saved.size == (image["width"], image["height"]) == (256, 256)
    (sheet,) = thumbnails(answer)
    assert max(Image.open(io.BytesIO(base64.b64decode(sheet))).size) <= 512
    check_clean(text(answer), root)
    check_clean(json.dumps(content), root)


async def test_the_seed_and_the_strength_count(root: Path) -> None:
    """The same seed makes the same images again; another seed or strength makes others."""
    server = serve(root, "local")
    calls: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 1},
        {"seed": 2},
        {"seed": 1, "strength": 0.1},
    ]
    answers = [await create(server, **arguments) for arguments in calls]
    first, again, other, weaker = (a.structured_content["images"][0]["name"] for a in answers)
    assert first == again
    assert len({first, other, weaker}) == 3


async def test_a_model_chooses_among_the_engines(root: Path) -> None:
    """Only engines that the developer named can be used, and the first is the default."""
    server = serve(root, "instant", ["local"])
    assert (await create(server)).structured_content["engine"] == "instant"
    answer = await create(server, engine="local")
    assert answer.structured_content["engine"] == "local"
    refusal = await create(server, engine="fal")
    assert refusal.is_error
    assert text(refusal) == "There is no engine 'fal' here. The engines are: instant, local."
    refusal = await create(server, strength=0.2)
    assert text(refusal) == "The engine instant has no strength that you can set. Leave it out."


async def test_a_smaller_limit_of_an_engine_is_shown(root: Path) -> None:
    """The schema has the largest limit; that of an engine is in a text, and in the error."""

    class SingleEngine(InstantEngine):
        max_n = 1

    server = serve(root, SingleEngine(), ["instant"])
    arguments = await schema(server)
    assert arguments["n"]["maximum"] == 10
    assert arguments["engine"]["description"].endswith("For SingleEngine, n is at most 1.")
    refusal = await create(server, n=5)
    assert text(refusal) == "n must be at most 1 with the engine SingleEngine, got 5."


async def test_an_argument_without_effect_is_not_named(root: Path) -> None:
    """A correction names no seed if no engine has one."""
    refusal = await create(serve(root, PatientEngine()), shape="round")
    assert "'shape' is not an argument" in text(refusal)
    assert "seed" not in text(refusal)


async def test_an_engine_given_by_name_can_have_a_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is given by name can have a cache, as for the LangChain tool."""
    (tmp_path / "engines").mkdir()
    install_engine(tmp_path / "engines")
    monkeypatch.syspath_prepend(tmp_path / "engines")
    server = serve(root, "stubborn", cache=True)
    names = [(await create(server)).structured_content["images"][0]["name"] for _ in range(2)]
    assert names[0] == names[1]


async def test_results_can_be_varied_again(root: Path) -> None:
    """A result is found by its name, path or URI, and as the latest one."""
    server = serve(root)
    name = (await create(server)).structured_content["images"][0]["name"]
    uri = f"image-variation://results/{name}"
    for image in (name, f"variations/{name}.png", "latest", f" '{name}' ", uri, f"<{uri}>"):
        answer = await create(server, image)
        assert not answer.is_error, text(answer)


@pytest.mark.parametrize("thumbnail", ["none", "sheet", "each"])
async def test_the_developer_chooses_the_thumbnails(root: Path, thumbnail: str) -> None:
    """An answer has no image, one sheet, or one for each variation, within the limit."""
    server = serve(root, thumbnail=thumbnail, max_thumbnail_base64=25_000)
    answer = await create(server, n=3, size="1024x1024")
    images = thumbnails(answer)
    assert len(images) == {"none": 0, "sheet": 1, "each": 3}[thumbnail]
    assert sum(map(len, images)) <= 25_000


async def test_no_thumbnail_is_larger_than_its_limit(root: Path) -> None:
    """A sheet of noise shrinks until its base64 fits."""
    noise = Image.effect_noise((512, 512), 200).convert("RGB")
    noise.save(root / "noise.png")
    answer = await create(serve(root, max_thumbnail_base64=25_000), "noise.png", n=10)
    assert 0 < len(thumbnails(answer)[0]) <= 25_000


MISTAKES = [
    ({}, "image is missing"),
    ({"image": None}, "image must be a string"),
    ({"image": 7}, "image must be a string"),
    ({"image": ["cat.png"]}, "image must be a string"),
    ({"image": "dog.png"}, "There is no image 'dog.png' here. Files: cat.png."),
    ({"image": "cat.png", "n": 0}, "n must be a whole number from 1 to 10"),
    ({"image": "cat.png", "n": 10**30}, "n must be a whole number from 1 to 10"),
    ({"image": "cat.png", "n": "many"}, "n must be a whole number from 1 to 10, got 'many'"),
    ({"image": "cat.png", "n": True}, "n must be a whole number from 1 to 10, got True"),
    ({"image": "cat.png", "size": "1x1"}, "size must be one of 256x256"),
    ({"image": "cat.png", "strength": 2}, "strength must be a number from 0 to 1"),
    ({"image": "cat.png", "strength": True}, "strength must be a number from 0 to 1, got True"),
    ({"image": "cat.png", "seed": -1}, "seed must be a whole number from 0 to"),
    ({"image": "cat.png", "seed": True}, "seed must be a whole number from 0 to"),
    ({"image": "cat.png", "seed": 2**53}, "seed must be a whole number from 0 to"),
    ({"image": "cat.png", "engine": {}}, "engine must be the name of an engine"),
    ({"image": "cat.png", "prompt": "a dog"}, "'prompt' is not an argument; the arguments are"),
    (
        {"image": "https://example.com/a.png"},
        "This tool cannot open a URL; ask the user to save the image in this tool's folder.",
    ),
    ({"image": "data:image/png;base64," + "A" * 5_000_000}, "There is no image"),
    ({"image": "\0"}, "There is no image"),
    ({"image": "x" * 100_000}, "There is no image"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=range(len(MISTAKES)))
async def test_a_mistake_is_explained(root: Path, arguments: dict[str, Any], message: str) -> None:
    """A wrong argument is an answer that says how to correct it, and repeats nothing long."""
    async with Client(serve(root, "local")) as client:
        answer = await client.call_tool(TOOL, arguments)
        assert answer.is_error and answer.structured_content is None
        assert message in text(answer)
        check_clean(text(answer), root)
        assert len(text(answer)) < 1000
        # The server goes on.
        assert "cat.png" in text(await client.call_tool("list_images", {}))


async def test_nulls_mean_that_an_argument_is_missing(root: Path) -> None:
    """Models often send null for an argument that they leave out."""
    nulls = dict.fromkeys(["n", "size", "strength", "seed"])
    async with Client(serve(root, "local")) as client:
        for engine in (None, "", " "):
            arguments = {"image": "cat.png", "engine": engine, **nulls}
            answer = await client.call_tool(TOOL, arguments)
            assert not answer.is_error
    assert answer.structured_content["images"][0]["width"] == 1024


async def test_a_list_without_images_asks_for_one(root: Path) -> None:
    """If no image was found before the listing was cut off, the text does not claim that one is."""
    (root / "cat.png").unlink()
    for number in range(10_010):
        (root / f"{number}.js").touch()
    async with Client(serve(root)) as client:
        answer = await client.call_tool("list_images", {})
    assert answer.structured_content == {"files": [], "results": [], "has_more": True}
    assert text(answer).startswith("No images were found here. Ask the user")


async def test_deep_paths_do_not_fill_an_answer(root: Path) -> None:
    """Fewer files are listed if their paths are long."""
    folder = root.joinpath(*(letter * 200 for letter in "abcde"))
    folder.mkdir(parents=True)
    for number in range(20):
        shutil.copy(root / "cat.png", folder / f"{number}.png")
    async with Client(serve(root)) as client:
        answer = await client.call_tool("list_images", {})
    content = answer.structured_content
    assert 1 <= len(content["files"]) < 20
    assert content["has_more"]
    assert len(text(answer)) < 14_000


async def test_list_images_has_no_arguments(root: Path) -> None:
    """An argument of `list_images` is a mistake."""
    async with Client(serve(root)) as client:
        answer = await client.call_tool("list_images", {"folder": "/"})
    assert answer.is_error
    assert text(answer) == "list_images has no arguments. Call it again without any."


async def test_images_are_listed(root: Path) -> None:
    """The list has the files of the folder and the results, the newest first."""
    server = serve(root)
    results = [(await create(server)).structured_content["images"][0]["name"] for _ in range(1)]
    (root / "notes.txt").write_text("no image")
    (root / "dog.jpg").write_bytes(b"")
    async with Client(server) as client:
        answer = await client.call_tool("list_images", {})
    content = answer.structured_content
    assert sorted(content["files"]) == ["cat.png", "dog.jpg"]
    assert (content["results"], content["has_more"]) == (results, False)
    assert all(name in text(answer) for name in ("cat.png", *results))


async def test_long_lists_are_cut(root: Path) -> None:
    """The list has the newest 50 names of each kind, and says that there may be more."""
    for index in range(60):
        (root / f"{index:02}.png").write_bytes(b"")
        os.utime(root / f"{index:02}.png", (index, index))
    async with Client(serve(root)) as client:
        answer = await client.call_tool("list_images", {})
    content = answer.structured_content
    assert content["files"][:2] == ["cat.png", "59.png"]
    assert (len(content["files"]), content["has_more"]) == (50, True)
    assert "There may be more." in text(answer)


async def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    """Without images, the list says so."""
    async with Client(serve(tmp_path)) as client:
        answer = await client.call_tool("list_images", {})
    assert (answer.is_error, text(answer)) == (
        False,
        "There are no images here. Ask the user to save the image in the server's folder.",
    )


OUTSIDE = [
    "../secret.png",
    "variations/../../secret.png",
    "link.png",
    "linked/secret.png",
    "..%2fsecret.png",
    "hard.png",
]


@pytest.mark.parametrize("image", [*OUTSIDE, "ABSOLUTE"])
async def test_nothing_outside_the_folder_is_read(root: Path, image: str) -> None:
    """Neither a path nor a link leads out of the folder, and no message shows where it is."""
    secret = root.parent / "secret.png"
    secret.write_bytes(square_png(32))
    (root / "link.png").symlink_to(secret)
    (root / "linked").symlink_to(root.parent)
    (root / "hard.png").hardlink_to(secret)
    answer = await create(serve(root), str(secret) if image == "ABSOLUTE" else image)
    assert answer.is_error
    check_clean(text(answer), root)
    assert not (root / "variations").exists()


ERRORS = [
    (RuntimeError(f"{KEY} /srv/x"), "The image engine failed."),
    (QuotaExceededError(f"{KEY}"), "The budget of this tool is used up."),
    (ContentPolicyError(f"{KEY}"), "refused this image because of its content"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=["bug", "quota", "policy"])
async def test_a_failure_is_an_answer_without_details(
    root: Path, error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A model learns what it can do, and the log has the failure, neither with a key."""
    answer = await create(serve(root, FailingEngine(error)))
    assert answer.is_error and message in text(answer)
    check_clean(text(answer) + caplog.text, root)
    assert isinstance(error, ContentPolicyError) or "The tool failed with" in caplog.text


async def test_a_refused_prompt_can_be_changed(root: Path) -> None:
    """If the model may set the prompt, a refusal may be about the prompt."""

    class Painter(FailingEngine):
        def with_options(self, *, prompt: str | None = None) -> "Painter":
            return self

    engine = Painter(ContentPolicyError(KEY))
    answer = await create(serve(root, engine, expose={"prompt"}), prompt="a dog")
    assert "refused the image or the prompt because of its content. Change the prompt" in text(
        answer
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_an_unsaved_result_is_a_failure(root: Path) -> None:
    """If nothing can be written to the folder, the answer says that saving failed."""
    (root / "variations").write_text("a file in the way")
    answer = await create(serve(root))
    assert answer.is_error
    assert text(answer).startswith("Images could not be read or saved.")


async def test_a_deleted_folder_is_an_error(root: Path) -> None:
    """If the folder is deleted while the server runs, its tools answer with errors."""
    server = serve(root)
    (root / "cat.png").unlink()
    root.rmdir()
    async with Client(server) as client:
        for tool, arguments in ((TOOL, {"image": "cat.png"}), ("list_images", {})):
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error
            check_clean(text(answer), root)
        with pytest.raises(MCPError, match="This tool is not set up correctly") as error:
            await client.list_resources()
    check_clean(str(error.value), root)


async def test_progress_is_reported_per_image(root: Path) -> None:
    """A host that asks for progress learns about each finished image, in order."""
    reports: list[tuple[float, float | None, str | None]] = []

    async def keep(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async with Client(serve(root)) as client:
        arguments = {"image": "cat.png", "n": 3, "size": "256x256"}
        await client.call_tool(TOOL, arguments, progress_callback=keep)
    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert reports[-1][2] == "3 of 3 images"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_cancelling_a_call_stops_the_engine(root: Path, mode: str) -> None:
    """When a host cancels a call, the engine learns of it, and the server goes on."""
    engine = PatientEngine()
    async with Client(serve(root, engine), mode=mode) as client:
        call = asyncio.create_task(client.call_tool(TOOL, {"image": "cat.png"}))
        await asyncio.to_thread(engine.started.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(engine.was_cancelled.wait, 30)
        assert not (root / "variations").exists() or not [*(root / "variations").iterdir()]
        assert "cat.png" in text(await client.call_tool("list_images", {}))


async def test_calls_run_at_the_same_time(root: Path) -> None:
    """A slow call does not delay the others, and each gets its own answer."""
    engine = PatientEngine()
    server = serve(root, engine, ["instant"])
    async with Client(server) as one, Client(server) as other:
        slow = [
            asyncio.create_task(client.call_tool(TOOL, {"image": "cat.png", "size": "256x256"}))
            for client in (one, other)
        ]
        await asyncio.to_thread(engine.started.wait, 30)
        quick = await asyncio.gather(
            *(
                one.call_tool(
                    TOOL, {"image": "cat.png", "n": n, "engine": "instant", "size": "256x256"}
                )
                for n in range(1, 6)
            )
        )
        assert [len(a.structured_content["images"]) for a in quick] == [1, 2, 3, 4, 5]
        engine.released.set()
        assert [(await call).is_error for call in slow] == [False, False]
    assert engine.calls == 2


async def test_engines_that_never_stop_do_not_delay_others(root: Path) -> None:
    """Cancelled calls whose engine goes on do not delay the rest, until there are too many."""
    engine = StubbornEngine()
    server = serve(root, engine, ["instant"])
    async with Client(server) as client:
        calls = [asyncio.create_task(client.call_tool(TOOL, SMALL_CAT)) for _ in range(16)]
        while engine.calls < 16:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert "cat.png" in text(await client.call_tool("list_images", {}))
        refusal = await client.call_tool(TOOL, {**SMALL_CAT, "engine": "instant"})
        assert text(refusal).startswith("The image engine has too many requests at the moment.")
        engine.released.set()
        while (answer := await client.call_tool(TOOL, SMALL_CAT)).is_error:
            await asyncio.sleep(0.01)
        assert answer.structured_content["images"]


async def test_the_end_waits_only_for_hosted_engines(root: Path) -> None:
    """A call of a local engine delays no server, even if another engine of it is hosted."""
    engine = StubbornEngine()
    fal = load_engine("fal", api_key=KEY)
    server = serve(root, engine, [fal])
    async with Client(server) as client:
        call = asyncio.create_task(client.call_tool(TOOL, SMALL_CAT))
        while not engine.calls:
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(30):
                await asyncio.to_thread(server.wait_for_hosted_engines, 600)
        finally:
            engine.released.set()
        await call


async def test_a_stopping_server_refuses_calls(root: Path) -> None:
    """After `refuse_calls`, a call in progress is finished, and a new one is refused."""
    engine = PatientEngine()
    server = serve(root, engine)
    async with Client(server) as client:
        call = asyncio.create_task(client.call_tool(TOOL, {"image": "cat.png"}))
        await asyncio.to_thread(engine.started.wait, 30)
        server.refuse_calls()
        refusal = await client.call_tool(TOOL, {"image": "cat.png"})
        assert text(refusal) == "The server is shutting down. Try again later."
        engine.released.set()
        assert not (await call).is_error


async def test_developers_can_add_their_tools(root: Path) -> None:
    """The decorators of the library work, and a server that ends refuses calls of such a tool."""
    server = serve(root)

    @server.tool()
    def greet(name: str) -> str:
        """Greet someone."""
        return f"Hello, {name}"

    async with Client(server) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools == ["create_image_variations", "list_images", "greet"]
        assert text(await client.call_tool("greet", {"name": "Ada"})) == "Hello, Ada"
        assert (await client.call_tool("nothing", {})).is_error
        server.refuse_calls()
        refusal = await client.call_tool("greet", {"name": "Ada"})
        assert text(refusal) == "The server is shutting down. Try again later."


def test_mistakes_of_the_developer_are_found_at_the_start(root: Path) -> None:
    """Wrong settings and engines are errors when the server is made, and nothing is written."""
    with pytest.raises(EngineNotFoundError):
        serve(root, "nothing")
    with pytest.raises(SourceError):
        serve(root / "nowhere")
    with pytest.raises(InvalidRequestError, match="Two engines have the name 'instant'"):
        serve(root, "instant", [InstantEngine(seed=1)])
    with pytest.raises(InvalidRequestError, match="thumbnail must be one of none, sheet, each"):
        serve(root, thumbnail="huge")
    with pytest.raises(InvalidRequestError, match="max_thumbnail_base64 must be a whole number"):
        serve(root, max_thumbnail_base64=10)
    assert [path.name for path in root.iterdir()] == ["cat.png"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_calls": 1}, "max_calls does not work here, because a server does not see"),
        ({"max_uploads": 1}, "max_uploads does not work here, because a server does not see"),
        ({"urls": URLPolicy(hosts=["a.example"])}, "urls does not work here"),
        ({"content": "blocks"}, "content does not work here, because hosts decide what they show."),
        ({"raise_on": ()}, "raise_on does not work here, because each failure becomes an answer."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_without_effect_are_refused(
    root: Path, settings: dict[str, Any], message: str
) -> None:
    """A limit or a choice that a server cannot keep is an error, and names what to do."""
    with pytest.raises(InvalidRequestError, match=re.escape(message)) as error:
        serve(root, **settings)
    assert error.value.param in settings


async def test_engines_are_given_by_name_or_as_objects(root: Path) -> None:
    """An engine's own options stay: here its seed, which a model may replace."""
    server = serve(root, LocalEngine(seed=5))
    seeds = [
        (await create(server, **arguments)).structured_content["images"][0]["seed"]
        for arguments in ({}, {"seed": 0})
    ]
    assert seeds == [5, 0]
