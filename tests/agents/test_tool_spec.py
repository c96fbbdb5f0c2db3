import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from langchain_core.utils.function_calling import convert_to_openai_tool
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.calling import acall_tool, call_tool
from llama_index.core.tools.tool_spec.base import BaseToolSpec
from PIL import Image
from pydantic import BaseModel, ValidationError

from langchain_image_variation import ImageVariationToolSpec
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import InvalidRequestError, SourceError
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.dial import DialEngine
from tests.agents.scripted import call
from tests.images.compressed import encodings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo and a corrupt image."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "broken.png").write_bytes(square_png()[:100])
    return tmp_path


@pytest.fixture
def tool(root: Path) -> FunctionTool:
    """Return the tool on that folder with the instant engine."""
    return make_tool(root_dir=root)


def make_tool(**settings: Any) -> FunctionTool:
    """Return the tool of a spec with these settings."""
    (tool,) = ImageVariationToolSpec(**{"engine": "instant", **settings}).to_tool_list()
    return tool


def test_it_is_a_tool_spec_with_one_tool(root: Path) -> None:
    """The spec extends LlamaIndex's base class, and every way to list its tools gives one tool."""
    assert BaseToolSpec in ImageVariationToolSpec.__mro__
    spec = ImageVariationToolSpec(root_dir=root)
    for functions in (None, ["image_variation"], [("image_variation", "aimage_variation")]):
        (tool,) = spec.to_tool_list(functions)
        assert tool.metadata.get_name() == "image_variation"
    with pytest.raises(InvalidRequestError, match=r"Its only function is .image_variation.\."):
        spec.to_tool_list(["show_images"])


def test_a_changed_setting_is_checked(root: Path) -> None:
    """An assignment refuses what the constructor refuses, and then changes nothing."""
    spec = ImageVariationToolSpec(engine="instant", root_dir=root)
    with pytest.raises(ValidationError, match="less than or equal to 10"):
        spec.max_n = 11
    with pytest.raises(InvalidRequestError, match="InstantEngine has no strength"):
        spec.expose = frozenset({"strength"})
    assert (spec.max_n, spec.expose) == (10, frozenset())
    spec.max_n = 4
    (tool,) = spec.to_tool_list()
    assert tool.metadata.get_parameters_dict()["properties"]["n"]["maximum"] == 4


async def test_to_tool_list_async(root: Path) -> None:
    """The async method of LlamaIndex's base class lists the tool, too."""
    (tool,) = await ImageVariationToolSpec(root_dir=root, max_n=2).to_tool_list_async()
    assert tool.metadata.get_parameters_dict()["properties"]["n"]["maximum"] == 2


def test_the_description_is_short_for_every_model(tool: FunctionTool, root: Path) -> None:
    """The description has under 1,024 characters, even if LlamaIndex adds a signature."""
    spec = ImageVariationToolSpec(root_dir=root)
    plain = FunctionTool.from_defaults(spec.image_variation, async_fn=spec.aimage_variation)
    for listed_tool in (tool, plain):
        function = listed_tool.metadata.to_openai_tool()["function"]
        assert 100 < len(function["description"]) < 1024


def test_the_model_sees_three_bounded_arguments(root: Path) -> None:
    """The model sees no context, n is at most `max_n`, and a fixed size is not an argument."""
    properties = make_tool(root_dir=root).metadata.get_parameters_dict()["properties"]
    assert list(properties) == ["image", "n", "size"]
    assert properties["size"]["enum"] == ["256x256", "512x512", "1024x1024"]
    tool = make_tool(root_dir=root, max_n=4, fixed_size="256x256")
    schema = tool.metadata.get_parameters_dict()
    assert list(schema["properties"]) == ["image", "n"]
    assert (schema["properties"]["n"]["maximum"], schema["required"]) == (4, ["image"])


def test_no_text_contradicts_max_n(root: Path) -> None:
    """Neither tool mentions 10 if the developer allows 4."""
    spec = make_tool(root_dir=root, max_n=4).metadata
    tool = ImageVariationTool(root_dir=root, max_n=4)
    for text in (spec.description, spec.get_parameters_dict(), convert_to_openai_tool(tool)):
        assert not re.search(r"\b10\b", str(text))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_raw_output_is_the_langchain_artifact(root: Path, kind: str) -> None:
    """Raw output and text equal those of the LangChain tool, sync and async."""
    arguments = {"image": "cat.jpg", "n": 3, "size": "256x256"}
    langchain_tool = ImageVariationTool(root_dir=root, engine="instant")
    message = langchain_tool.invoke(call(**arguments))
    tool = make_tool(root_dir=root)
    output = tool.call(**arguments) if kind == "sync" else await tool.acall(**arguments)
    for image in [*output.raw_output["images"], *message.artifact["images"]]:
        del image["created"]
    assert (output.content, output.raw_output) == (message.content, message.artifact)
    assert json.loads(json.dumps(output.raw_output)) == output.raw_output
    assert (output.tool_name, output.is_error) == ("image_variation", False)
    assert output.raw_input == {"args": (), "kwargs": arguments}


def test_a_single_name_is_the_image(tool: FunctionTool) -> None:
    """A program may call the tool with only the name of an image, and null means the default."""
    for output in (tool("cat.jpg"), tool.call(image="cat.jpg", n=None, size=None)):
        assert [image["width"] for image in output.raw_output["images"]] == [1024]


async def test_the_functions_of_the_spec_equal_the_tool(root: Path) -> None:
    """The functions of the spec return what the tool returns, so programs may call them."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant")
    output = spec.image_variation("cat.jpg", size="256x256")
    assert (await spec.aimage_variation("cat.jpg", size="256x256")).blocks == output.blocks
    plain = FunctionTool.from_defaults(spec.image_variation)
    assert plain.requires_context
    assert plain.call(image="cat.jpg", size="256x256", ctx=None).content == output.content


@pytest.mark.parametrize(
    ("content", "sides"), [("text", []), ("thumbnail", [512]), ("blocks", [256] * 4)]
)
def test_the_blocks_are_text_and_images(root: Path, content: str, sides: list[int]) -> None:
    """The images are in memory, since LlamaIndex would fetch a path unchecked."""
    output = make_tool(root_dir=root, content=content).call(image="cat.jpg", n=4, size="256x256")
    text, *image_blocks = output.blocks
    assert isinstance(text, TextBlock)
    assert len(text.text) < 400
    assert len(image_blocks) == len(sides)
    for block, side in zip(image_blocks, sides, strict=True):
        assert isinstance(block, ImageBlock)
        assert (block.path, block.url, block.image_mimetype) == (None, None, "image/jpeg")
        with Image.open(io.BytesIO(block.resolve_image().read())) as image:
            assert (image.format, max(image.size) <= side) == ("JPEG", True)


@pytest.mark.parametrize("output_dir", ["variations", "memory://spec"])
def test_opens_a_result_of_an_output(root: Path, output_dir: str) -> None:
    """The spec opens the images of its outputs, and no others."""
    spec = ImageVariationToolSpec(root_dir=root, output_dir=output_dir, engine="instant")
    artifact = spec.image_variation("cat.jpg", n=2, size="256x256").raw_output
    for index, facts in enumerate(artifact["images"]):
        file = spec.open_result(artifact, index)
        assert hashlib.sha256(file.read()).hexdigest() == facts["sha256"]
    with pytest.raises(InvalidRequestError, match="index must be a whole number from 0 to 1"):
        spec.open_result(artifact, 2)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "dog.png"}, "There is no image 'dog.png' here. Files: "),
    ({"image": "/etc/passwd"}, "There is no image 'passwd' here. Files: "),
    ({"image": "broken.png"}, "broken.png: image is a corrupt PNG file: its pixels end early"),
    ({"image": "cat.jpg", "n": 11}, "n must be a whole number from 1 to 10, got 11."),
    ({"image": "cat.jpg", "n": "many"}, "n must be a whole number from 1 to 10, got 'many'."),
    ({"image": "cat.jpg", "n": True}, "n must be a whole number from 1 to 10, got True."),
    ({"image": "cat.jpg", "size": "1x1"}, "size must be one of 256x256, 512x512, 1024x1024, got"),
    (
        {"image": "cat.jpg", "prompt": "blue"},
        "'prompt' is not an argument; the arguments are image, n and size.",
    ),
    ({"image": "cat.jpg", "model": "gpt-9"}, "'model' is not an argument; the arguments are"),
    ({"image": "cat.jpg", "ctx": {"store": {}}}, "'ctx' is not an argument; the arguments are"),
    ({"input": "cat.jpg"}, "image is missing; it must be a string"),
    ({"n": 2}, "image is missing; it must be a string"),
    ({"image": "A" * 10**6}, "There is no image 'AAAA"),
    ({"image": ["A" * 10**6]}, "or a relative path, got a value of type list."),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[text[:30] for _, text in BAD])
async def test_a_mistake_gets_an_error_message(
    tool: FunctionTool, arguments: dict[str, Any], text: str
) -> None:
    """Each mistake of a model gets a text that says what to do, instead of an exception."""
    for output in (call_tool(tool, arguments), await acall_tool(tool, arguments)):
        assert (output.is_error, output.raw_output) == (True, None)
        assert text in output.content
        assert len(output.content) < 400
        assert len(output.model_dump_json()) < 600


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("n", [0, 5, 10, 11])
async def test_n_above_the_bound_is_refused(root: Path, kind: str, n: int) -> None:
    """Every `n` that the settings do not allow gets the same answer, and no image is made."""
    tool = make_tool(root_dir=root, max_n=4)
    output = tool.call(image="cat.jpg", n=n) if kind == "sync" else await tool.acall("cat.jpg", n=n)
    rule = f"n must be a whole number from 1 to 4, got {n}."
    assert output.content == f"Correct these arguments and call again: {rule}"
    assert (output.is_error, (root / "variations").exists()) == (True, False)


def test_an_engine_may_limit_n(root: Path) -> None:
    """A model gets the limit of the engine, if it is lower than that of the settings."""

    class SmallEngine(InstantEngine):
        max_n = 3

    tool = make_tool(root_dir=root, engine=SmallEngine())
    assert tool.metadata.get_parameters_dict()["properties"]["n"]["maximum"] == 3
    for n in (4, 11):
        output = tool.call(image="cat.jpg", n=n)
        assert output.content.endswith(f"n must be a whole number from 1 to 3, got {n}.")


def test_the_size_of_kept_shapes_is_a_maximum(root: Path) -> None:
    """With fit="keep", both tools say that the size is the largest one, not that of each image."""
    settings: Any = {"root_dir": root, "engine": "instant", "fit": "keep"}
    for function in (
        make_tool(**settings).metadata.to_openai_tool()["function"],
        convert_to_openai_tool(ImageVariationTool(**settings))["function"],
    ):
        size = function["parameters"]["properties"]["size"]
        assert size["description"].startswith("The largest width x height of each variation")
        assert size["enum"] == ["256x256", "512x512", "1024x1024"]


def test_a_fixed_size_is_never_an_argument(root: Path) -> None:
    """With a fixed size, no text offers a size, and a wrong one is not an argument."""
    spec_tool = make_tool(root_dir=root, fixed_size="256x256")
    tool = ImageVariationTool(root_dir=root, engine="instant", fixed_size="256x256")
    wrong_arguments = {"image": "cat.jpg", "size": "2048x2048"}
    rule = "'size' is not an argument; the arguments are image and n."
    assert spec_tool.call(**wrong_arguments).content.endswith(f"again: {rule}")
    assert tool.invoke(call(**wrong_arguments)).content.endswith(f"again: {rule}")


@pytest.mark.parametrize("image", ["cat.jpg", "nope", ".."])
def test_no_bytes_and_no_absolute_path_in_outputs(
    tool: FunctionTool, root: Path, image: str
) -> None:
    """Neither blocks nor raw output contain image data or an absolute path."""
    text = tool.call(image=image).model_dump_json()
    assert str(root) not in text
    assert "base64" not in text
    assert not re.search(r"[A-Za-z0-9+/]{70}", text)


def test_a_tool_may_have_another_name_and_description(root: Path) -> None:
    """LlamaIndex's mapping may replace the name, the description and the arguments of the tool."""

    class Other(BaseModel):
        image: str

    spec = ImageVariationToolSpec(root_dir=root, engine="instant", max_n=3)
    metadata = ToolMetadata("Make more like it.", "more", return_direct=True)
    (tool,) = spec.to_tool_list(func_to_metadata_mapping={"image_variation": metadata})
    assert (tool.metadata.get_name(), tool.metadata.return_direct) == ("more", True)
    assert tool.metadata.get_parameters_dict()["properties"]["n"]["maximum"] == 3
    assert tool.call(image="cat.jpg").tool_name == "more"
    metadata = ToolMetadata("Make more like it.", "more", Other)
    (tool,) = spec.to_tool_list(func_to_metadata_mapping={"aimage_variation": metadata})
    assert list(tool.metadata.get_parameters_dict()["properties"]) == ["image"]


def test_wrong_settings_are_raised_immediately(root: Path) -> None:
    """A wrong folder or setting fails when the spec is constructed, not in a conversation."""
    with pytest.raises(SourceError, match="no folder 'nowhere'"):
        ImageVariationToolSpec(root_dir=root / "nowhere")
    wrong: dict[str, Any]
    for wrong in ({"max_n": 11}, {"seed": 7}, {"spec_functions": []}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ImageVariationToolSpec(**wrong)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_keep_gives_the_results_the_shape_of_the_image(root: Path, kind: str) -> None:
    """With fit="keep", the output and the files have the shape of the image."""
    tool = make_tool(root_dir=root, fit="keep")
    arguments = {"image": "cat.jpg", "n": 1, "size": "512x512"}
    output = call_tool(tool, arguments) if kind == "sync" else await acall_tool(tool, arguments)
    (item,) = output.raw_output["images"]
    assert (item["width"], item["height"]) == (512, 341)
    with Image.open(root / item["path"]) as image:
        assert image.size == (512, 341)
    assert ", 512x341 pixels: " in output.content


def test_images_are_saved_as_the_output_says(tool: FunctionTool, root: Path) -> None:
    """Images are saved as PNG in the requested size, and can be varied again by name."""
    (image,) = tool.call(image="cat.jpg", size="256x256").raw_output["images"]
    with Image.open(root / image["path"]) as file:
        assert (file.format, file.size) == ("PNG", (256, 256))
    for name in (image["handle"], f"{image['handle']}.png", image["path"]):
        assert not tool.call(image=name).is_error


def test_compression_of_the_source_does_not_matter(tool: FunctionTool, root: Path) -> None:
    """Equal pixels give equal results, so their names are equal."""
    handles = set()
    for data in encodings(decode_png(SquarePNG(square_png(24)))):
        (root / "dog.png").write_bytes(data)
        output = tool.call(image="dog.png", n=2, size="256x256")
        handles.add(tuple(image["handle"] for image in output.raw_output["images"]))
    assert len(handles) == 1


def test_it_has_the_texts_of_the_langchain_tool(root: Path) -> None:
    """With `public_url`, the output has the text and the URLs of LangChain's message."""
    settings: Any = {"root_dir": root, "engine": "instant", "public_url": "https://x.example/y"}
    spec = ImageVariationToolSpec(**settings)
    output = spec.image_variation("cat.jpg", n=2, size="256x256")
    message = ImageVariationTool(**settings).invoke(call(image="cat.jpg", n=2, size="256x256"))
    assert output.content == message.text
    urls = [image["url"] for image in output.raw_output["images"]]
    assert urls == [image["url"] for image in message.artifact["images"]]
    assert not spec.image_variation(urls[1], size="256x256").is_error


async def test_the_model_may_choose_the_strength(root: Path) -> None:
    """With `expose`, the tool has the same argument as LangChain's, and otherwise none."""
    settings: Any = {"root_dir": root, "engine": "local"}
    plain_tool = make_tool(**settings)
    assert "strength" not in plain_tool.metadata.get_parameters_dict()["properties"]
    assert "'strength' is not an argument" in plain_tool(image="cat.jpg", strength=0.2).content
    tool = make_tool(**settings, expose={"strength"})
    schema = tool.metadata.get_parameters_dict()["properties"]["strength"]
    assert (schema["type"], schema["minimum"], schema["maximum"]) == ("number", 0, 1)
    arguments: Any = {"image": "cat.jpg", "size": "256x256", "strength": 0.25}
    for output in (tool(**arguments), await tool.acall(**arguments)):
        assert output.raw_output["images"][0]["strength"] == 0.25
    error = tool(image="cat.jpg", strength=2)
    assert error.is_error
    assert "strength must be a number from 0 to 1, got 2" in error.content
    with pytest.raises(InvalidRequestError, match="InstantEngine has no strength that a"):
        make_tool(root_dir=root, expose={"strength"})


def test_it_exposes_what_the_langchain_tool_exposes(root: Path) -> None:
    """With `expose`, description and schema are those of LangChain's tool."""
    settings: Any = {
        "root_dir": root,
        "engine": DialEngine(),
        "expose": {"strength", "prompt", "fit", "name"},
    }
    function = make_tool(**settings).metadata.to_openai_tool()["function"]
    expected = convert_to_openai_tool(ImageVariationTool(**settings))["function"]
    assert function["description"] == expected["description"]
    properties = function["parameters"]["properties"]
    assert list(properties) == list(expected["parameters"]["properties"])
    for name in properties:
        properties[name].pop("title", None)
    assert properties == expected["parameters"]["properties"]


@pytest.mark.parametrize("exposed", [frozenset(), frozenset({"prompt"})], ids=["none", "prompt"])
def test_the_schema_has_the_tools_description(root: Path, exposed: Any) -> None:
    """The docstring of `fn_schema` is the description of the tool, with a prompt or without."""
    spec = ImageVariationToolSpec(engine=DialEngine(), root_dir=root, expose=exposed)
    metadata = spec.to_tool_list()[0].metadata
    assert metadata.fn_schema is not None
    assert metadata.fn_schema.__doc__ == metadata.description


async def test_the_methods_take_exposed_arguments(root: Path) -> None:
    """The spec's own methods take the arguments that are exposed, and refuse others."""
    spec = ImageVariationToolSpec(engine=DialEngine(), root_dir=root, expose={"strength"})
    outputs = [
        spec.image_variation("cat.jpg", size="256x256", strength=0.1),
        await spec.aimage_variation("cat.jpg", size="256x256", strength=0.1),
    ]
    assert [output.raw_output["images"][0]["strength"] for output in outputs] == [0.1, 0.1]
    wrong = spec.image_variation("cat.jpg", prompt="snow")
    assert "'prompt' is not an argument" in wrong.content
