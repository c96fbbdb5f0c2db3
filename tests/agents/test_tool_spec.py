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
from pydantic import BaseModel

from langchain_image_variation import ImageVariationToolSpec
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import InvalidRequestError, SourceError
from langchain_image_variation.images.pixels import decode
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.scripted import call
from tests.images.compressed import encodings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo and a broken picture."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "broken.png").write_bytes(square_png()[:100])
    return tmp_path


@pytest.fixture
def tool(root: Path) -> FunctionTool:
    """Return the tool on that folder with the instant engine."""
    return made(root_dir=root)


def made(**settings: Any) -> FunctionTool:
    """Return the tool of a spec with settings."""
    (tool,) = ImageVariationToolSpec(**{"engine": "instant", **settings}).to_tool_list()
    return tool


def test_it_is_a_tool_spec_of_one_tool(root: Path) -> None:
    """LlamaIndex's base is among its bases, and the list holds the same tool however it is made."""
    assert BaseToolSpec in ImageVariationToolSpec.__mro__
    spec = ImageVariationToolSpec(root_dir=root)
    for functions in (None, ["image_variation"], [("image_variation", "aimage_variation")]):
        (tool,) = spec.to_tool_list(functions)
        assert tool.metadata.get_name() == "image_variation"
    with pytest.raises(InvalidRequestError, match=r"Its only function is .image_variation.\."):
        spec.to_tool_list(["show_images"])


async def test_the_list_is_made_async_too(root: Path) -> None:
    """As LlamaIndex's base offers it."""
    (tool,) = await ImageVariationToolSpec(root_dir=root, max_n=2).to_tool_list_async()
    assert tool.metadata.get_parameters_dict()["properties"]["n"]["maximum"] == 2


def test_the_description_is_short_enough_for_every_model(tool: FunctionTool, root: Path) -> None:
    """Under 1,024 characters, also where LlamaIndex writes it from the signature of a function."""
    spec = ImageVariationToolSpec(root_dir=root)
    plain = FunctionTool.from_defaults(spec.image_variation, async_fn=spec.aimage_variation)
    for each in (tool, plain):
        described = each.metadata.to_openai_tool()["function"]
        assert 100 < len(described["description"]) < 1024


def test_the_model_sees_three_arguments_with_the_developer_s_bounds(root: Path) -> None:
    """Never the context; n up to `max_n`; no size where it is fixed."""
    seen = made(root_dir=root).metadata.get_parameters_dict()["properties"]
    assert list(seen) == ["image", "n", "size"]
    assert seen["size"]["enum"] == ["256x256", "512x512", "1024x1024"]
    bounded = made(root_dir=root, max_n=4, fixed_size="256x256").metadata.get_parameters_dict()
    assert list(bounded["properties"]) == ["image", "n"]
    assert (bounded["properties"]["n"]["maximum"], bounded["required"]) == (4, ["image"])


def test_no_text_for_the_model_contradicts_the_bound_of_n(root: Path) -> None:
    """Neither tool speaks of 10 where a developer allows 4."""
    spec = made(root_dir=root, max_n=4).metadata
    tool = ImageVariationTool(root_dir=root, max_n=4)
    for text in (spec.description, spec.get_parameters_dict(), convert_to_openai_tool(tool)):
        assert not re.search(r"\b10\b", str(text))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_raw_output_is_the_artifact_of_the_langchain_tool(root: Path, kind: str) -> None:
    """And the text is the same, sync and async."""
    asked = {"image": "cat.jpg", "n": 3, "size": "256x256"}
    other = ImageVariationTool(root_dir=root, engine="instant").invoke(call(**asked))
    tool = made(root_dir=root)
    output = tool.call(**asked) if kind == "sync" else await tool.acall(**asked)
    for image in [*output.raw_output["images"], *other.artifact["images"]]:
        del image["created"]
    assert (output.content, output.raw_output) == (other.content, other.artifact)
    assert json.loads(json.dumps(output.raw_output)) == output.raw_output
    assert (output.tool_name, output.is_error) == ("image_variation", False)
    assert output.raw_input == {"args": (), "kwargs": asked}


def test_a_single_name_is_the_picture(tool: FunctionTool) -> None:
    """A program may call the tool with the name alone, and null means the default."""
    for output in (tool("cat.jpg"), tool.call(image="cat.jpg", n=None, size=None)):
        assert [image["width"] for image in output.raw_output["images"]] == [1024]


async def test_the_functions_of_the_spec_answer_as_the_tool_does(root: Path) -> None:
    """For programs, and for tools that are made of them by hand."""
    spec = ImageVariationToolSpec(root_dir=root, engine="instant")
    output = spec.image_variation("cat.jpg", size="256x256")
    assert (await spec.aimage_variation("cat.jpg", size="256x256")).blocks == output.blocks
    plain = FunctionTool.from_defaults(spec.image_variation)
    assert plain.requires_context
    assert plain.call(image="cat.jpg", size="256x256", ctx=None).content == output.content


@pytest.mark.parametrize("thumbnail", [False, True])
def test_the_blocks_are_text_and_a_thumbnail_if_asked_for(root: Path, thumbnail: bool) -> None:
    """A thumbnail is small and in memory: LlamaIndex would fetch a path or URL unguarded."""
    output = made(root_dir=root, thumbnail=thumbnail).call(image="cat.jpg", n=4)
    text, *pictures = output.blocks
    assert isinstance(text, TextBlock)
    assert len(text.text) < 400
    assert len(pictures) == thumbnail
    for block in pictures:
        assert isinstance(block, ImageBlock)
        assert (block.path, block.url, block.image_mimetype) == (None, None, "image/jpeg")
        with Image.open(io.BytesIO(block.resolve_image().read())) as picture:
            assert (picture.format, max(picture.size) <= 512) == ("JPEG", True)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "dog.png"}, "There is no image 'dog.png' here. Files: "),
    ({"image": "/etc/passwd"}, "There is no image 'passwd' here. Files: "),
    ({"image": "broken.png"}, "broken.png: image is a corrupt PNG file: it is cut off at byte 100"),
    ({"image": "cat.jpg", "n": 11}, "n must be a whole number from 1 to 10, got 11."),
    ({"image": "cat.jpg", "n": "many"}, "n must be a whole number from 1 to 10, got 'many'."),
    ({"image": "cat.jpg", "size": "1x1"}, "size must be one of 256x256, 512x512, 1024x1024, got"),
    ({"image": "cat.jpg", "prompt": "blue"}, "'prompt' is not an argument."),
    ({"image": "cat.jpg", "model": "gpt-9"}, "'model' is not an argument."),
    ({"image": "cat.jpg", "ctx": {"store": {}}}, "'ctx' is not an argument."),
    ({"input": "cat.jpg"}, "image is missing; it must be a string"),
    ({"n": 2}, "image is missing; it must be a string"),
    ({"image": "A" * 10**6}, "There is no image 'AAAA"),
    ({"image": ["A" * 10**6]}, "or a relative path, got a value of type list."),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[text[:30] for _, text in BAD])
async def test_a_mistake_is_answered_with_text_to_act_on(
    tool: FunctionTool, arguments: dict[str, Any], text: str
) -> None:
    """Each mistake of a model is an error that says what to do, never an exception."""
    for output in (call_tool(tool, arguments), await acall_tool(tool, arguments)):
        assert (output.is_error, output.raw_output) == (True, None)
        assert text in output.content
        assert len(output.content) < 400
        assert len(output.model_dump_json()) < 600


async def test_an_engine_s_failure_is_answered_without_its_text(root: Path) -> None:
    """An exception from elsewhere may hold a key or a path."""

    class Failing:
        def create_variation(self, request: object) -> Any:
            raise RuntimeError("/home/x sk-123")

    tool = made(root_dir=root, engine=Failing())
    for output in (tool.call(image="cat.jpg"), await tool.acall(image="cat.jpg")):
        assert output.is_error
        assert output.content.startswith("The engine Failing failed with RuntimeError.")
        assert "sk-123" not in output.content


@pytest.mark.parametrize("image", ["cat.jpg", "nope", ".."])
def test_no_bytes_and_no_absolute_path_in_what_is_returned(
    tool: FunctionTool, root: Path, image: str
) -> None:
    """Neither blocks nor raw output hold picture data or a path of the machine."""
    text = tool.call(image=image).model_dump_json()
    assert str(root) not in text
    assert "base64" not in text
    assert not re.search(r"[A-Za-z0-9+/]{70}", text)


def test_a_tool_may_have_another_name_and_description(root: Path) -> None:
    """By LlamaIndex's mapping, with the arguments of this tool unless others are given."""

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


def test_mistakes_of_the_developer_are_raised_at_once(root: Path) -> None:
    """A wrong folder or setting is an error when the spec is made, not in a conversation."""
    with pytest.raises(SourceError, match="no folder 'nowhere'"):
        ImageVariationToolSpec(root_dir=root / "nowhere")
    wrong: dict[str, Any]
    for wrong in ({"max_n": 11}, {"seed": 7}, {"spec_functions": []}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ImageVariationToolSpec(**wrong)


def test_pictures_are_saved_where_the_raw_output_says(tool: FunctionTool, root: Path) -> None:
    """As PNG files of the size asked for, under names that can be varied again."""
    (image,) = tool.call(image="cat.jpg", size="256x256").raw_output["images"]
    with Image.open(io.BytesIO((root / image["path"]).read_bytes())) as picture:
        assert (picture.format, picture.size) == ("PNG", (256, 256))
    for name in (image["handle"], f"{image['handle']}.png", image["path"]):
        assert not tool.call(image=name).is_error


def test_how_the_source_is_compressed_changes_no_handle(tool: FunctionTool, root: Path) -> None:
    """The same pixels are varied the same, so the results have the same names."""
    handles = set()
    for data in encodings(decode(SquarePNG(square_png(24)))):
        (root / "dog.png").write_bytes(data)
        output = tool.call(image="dog.png", n=2, size="256x256")
        handles.add(tuple(image["handle"] for image in output.raw_output["images"]))
    assert len(handles) == 1
