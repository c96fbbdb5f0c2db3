"""`open_result` opens the results that an artifact names, and nothing else."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image

from langchain_image_variation.agents.artifact import read_image
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, upload
from tests.agents.file_systems import SECRET, Bucket, bucket
from tests.agents.scripted import AnswerQueue, asks, call

KINDS = ["variations", "memory", "file", "bucket"]
SHA256 = "a" * 64


@pytest.fixture(autouse=True)
def _file_systems() -> Iterator[None]:
    """Start with an empty bucket and an empty memory."""
    with bucket():
        yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def make_tool(root: Path, kind: str = "variations", **settings: Any) -> ImageVariationTool:
    """Return a tool with results in one kind of location."""
    output_dirs = {
        "variations": "variations",
        "memory": "memory://kept",
        "file": f"file://{root.parent}/stored",
        "bucket": "bucket://kept",
    }
    settings = {"root_dir": root, "output_dir": output_dirs[kind], "engine": "instant", **settings}
    return ImageVariationTool(**settings)


def make_results(tool: ImageVariationTool, thread: str | None = None, n: int = 2) -> dict[str, Any]:
    """Make variations, and return their artifact as a client that stored it gets it."""
    message = Talk(tool, thread, upload(square_png(32))).vary("latest", n=n)
    artifact: dict[str, Any] = json.loads(json.dumps(message.artifact))
    return artifact


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thread", [None, "t-1"])
def test_opens_each_result(root: Path, kind: str, thread: str | None) -> None:
    """A stored artifact gives all files of the call, in this tool and in one made later."""
    artifact = make_results(make_tool(root, kind), thread)
    tool = make_tool(root, kind)
    contents = [tool.open_result(artifact, index).read() for index in range(2)]
    facts = [image["sha256"] for image in artifact["images"]]
    assert [hashlib.sha256(content).hexdigest() for content in contents] == facts
    assert contents[0] != contents[1]
    with Image.open(tool.open_result(artifact, 1)) as image:
        assert (image.format, image.size) == ("PNG", (256, 256))


def test_opens_results_of_a_stored_conversation(root: Path) -> None:
    """A page of another process opens the results that a checkpoint names."""
    config: Any = {"configurable": {"thread_id": "t"}}
    path = str(root.parent / "state.sqlite")
    with SqliteSaver.from_conn_string(path) as saver:
        model = AnswerQueue(script=[asks(image="cat.png", n=2, size="256x256"), AIMessage("Done.")])
        agent: Any = create_agent(model, [make_tool(root)], checkpointer=saver)
        agent.invoke({"messages": [("user", "Vary cat.png.")]}, config)
    with SqliteSaver.from_conn_string(path) as saver:
        agent = create_agent(AnswerQueue(script=[]), [make_tool(root)], checkpointer=saver)
        message = agent.get_state(config).values["messages"][2]
    assert isinstance(message, ToolMessage)
    with Image.open(make_tool(root).open_result(message.artifact, 1)) as image:
        assert image.size == (256, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_opens_results_from_the_cache(root: Path, kind: str) -> None:
    """Results that the cache copied are opened like others."""
    tool = make_tool(root, kind, cache=True)
    first, second = make_results(tool, "t-1"), make_results(tool, "t-2")
    assert second["cached"]
    assert second["images"][0]["path"] != first["images"][0]["path"]
    assert tool.open_result(second, 0).read() == tool.open_result(first, 0).read()


IMAGE = {"handle": "cat-12345678-1", "path": "variations/cat-12345678-1.png", "sha256": SHA256}


@pytest.mark.parametrize(
    ("artifact", "index", "problem"),
    [
        (None, 0, "got a value of type NoneType. A call that failed has none."),
        ("base64" * 99, 0, "got 'base64base64base64ba…'."),
        (ToolMessage("", tool_call_id="1"), 0, "got a value of type ToolMessage."),
        ({}, 0, "got a value of type dict."),
        ({"images": "abc"}, 0, "got a value of type dict."),
        ({"images": []}, 0, "got a value of type dict."),
        ({"images": [IMAGE]}, 1, "index must be a whole number from 0 to 0, got 1."),
        ({"images": [IMAGE]}, -1, "index must be a whole number from 0 to 0, got -1."),
        ({"images": [IMAGE]}, True, "index must be a whole number from 0 to 0, got True."),
        ({"images": [IMAGE]}, "0", "index must be a whole number from 0 to 0, got '0'."),
        ({"images": ["cat.png"]}, 0, "Image 0 of the artifact does not have the handle,"),
        ({"images": [{**IMAGE, "sha256": None}]}, 0, "Image 0 of the artifact does not have"),
        ({"images": [{**IMAGE, "path": "dog-12345678-1.png"}]}, 0, "Image 0 of the artifact"),
    ],
)
def test_a_wrong_argument_is_named(root: Path, artifact: Any, index: Any, problem: str) -> None:
    """A wrong argument gets an error that names it."""
    with pytest.raises(InvalidRequestError) as caught:
        make_tool(root).open_result(artifact, index)
    assert problem in caught.value.message
    assert caught.value.param in ("artifact", "index")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_result_is_an_error(root: Path, kind: str) -> None:
    """A result that was deleted, changed or never made gets one and the same error."""
    tool = make_tool(root, kind)
    artifact = make_results(tool, "t-1", n=3)
    location = str(tool.output_dir) if "://" in str(tool.output_dir) else f"file://{root}"
    system, folder = fsspec.core.url_to_fs(location)
    missing, changed, unknown = artifact["images"]
    if isinstance(system, Bucket):
        del Bucket.objects[f"{folder}/{missing['path']}"]
        Bucket.objects[f"{folder}/{changed['path']}"] = (0, square_png(8))
    else:
        system.rm_file(f"{folder}/{missing['path']}")
        system.pipe_file(f"{folder}/{changed['path']}", square_png(8))
    unknown["sha256"] = SHA256
    for index, image in enumerate(artifact["images"]):
        with pytest.raises(OutputError) as caught:
            tool.open_result(artifact, index)
        assert caught.value.problem == f"The result {image['handle']!r} was deleted or changed."
        assert caught.value.hint is not None


def test_another_folder_has_no_such_result(root: Path, tmp_path: Path) -> None:
    """A tool with another folder does not have the file, and its error says what to check."""
    artifact = make_results(make_tool(root))
    for other in ({"output_dir": "elsewhere"}, {"root_dir": tmp_path}):
        with pytest.raises(OutputError, match="the root_dir and output_dir of that tool"):
            make_tool(root, **other).open_result(artifact, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path",
    [
        "cat-12345678-1.png",
        "variations/../cat-12345678-1.png",
        "variations/t/../../cat-12345678-1.png",
        "variations/link-12345678-1.png",
        "variations/hard-12345678-1.png",
        "variations/linked/cat-12345678-1.png",
        "variations/folder-12345678-1.png",
        "../outside/cat-12345678-1.png",
        "{outside}/cat-12345678-1.png",
        "file://{outside}/cat-12345678-1.png",
        "..\\outside\\cat-12345678-1.png",
        "a/" * 9_999 + "cat-12345678-1.png",
        "cat-12345678-1.png\0",
        "cat.png",
        "{upload}",
    ],
)
def test_a_forged_artifact_opens_nothing_else(root: Path, kind: str, path: str) -> None:
    """Files that are not results cannot be opened, even by a path and a hash that are right."""
    tool = make_tool(root, kind)
    make_results(tool, "t-1")
    secret = square_png(40)
    outside, variations = root.parent / "outside", root / "variations"
    variations.mkdir(exist_ok=True)
    for folder in (outside, variations / "folder-12345678-1.png"):
        folder.mkdir()
    for file in (outside / "cat-12345678-1.png", root / "cat-12345678-1.png", root / "cat.png"):
        file.write_bytes(secret)
    (variations / "link-12345678-1.png").symlink_to(outside / "cat-12345678-1.png")
    os.link(outside / "cat-12345678-1.png", variations / "hard-12345678-1.png")
    (variations / "linked").symlink_to(outside)
    kept_upload = "".join(
        path.relative_to(root).as_posix() for path in root.glob("variations/*/uploads/*")
    )
    path = path.format(outside=outside, upload=kept_upload or "t/uploads/img_1.png")
    image = {
        "handle": path.rpartition("/")[2].removesuffix(".png"),
        "path": path,
        "sha256": hashlib.sha256(square_png(32) if "img_" in path else secret).hexdigest(),
    }
    with pytest.raises((InvalidRequestError, OutputError)) as caught:
        tool.open_result({"images": [image]}, 0)
    assert str(root.parent) not in caught.value.message


def test_a_failing_store_gets_an_error(root: Path) -> None:
    """If the file system fails, the error has neither its text nor the URL."""
    tool = make_tool(root, "bucket")
    artifact = make_results(tool)
    Bucket.failing.add("read")
    with pytest.raises(OutputError) as caught:
        tool.open_result(artifact, 0)
    assert SECRET not in str(caught.value)
    assert "kept" not in str(caught.value)


def test_a_missing_root_gets_an_error(root: Path) -> None:
    """If `root_dir` is gone, the error says so."""
    tool = make_tool(root)
    artifact = make_results(tool)
    root.rename(root.parent / "elsewhere")
    with pytest.raises(OutputError, match="There is no folder 'root'"):
        tool.open_result(artifact, 0)


def test_a_name_with_a_whole_hash_is_a_result() -> None:
    """A result whose name has all digits of its hash, because shorter names were taken, counts."""
    handle = f"{'x' * 40}-{SHA256}-10"
    image = {"handle": handle, "path": f"variations/{handle}.png", "sha256": SHA256}
    assert read_image(image) is not None


def test_a_call_of_the_tool_is_opened(root: Path) -> None:
    """Without an agent, the artifact of a call works too."""
    tool = make_tool(root)
    message = tool.invoke(call(image="cat.png", size="256x256"))
    assert tool.open_result(message.artifact, 0).read().startswith(b"\x89PNG")
