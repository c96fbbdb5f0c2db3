"""`delete_conversation` deletes what a conversation has stored, and nothing else."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from langchain_image_variation.agents.conversation import scope_name
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.agents.uploads import UPLOADS_FOLDER
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import OutputError, SourceError
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, upload
from tests.agents.file_systems import SECRET, Bucket, bucket

CAT = square_png(64)
KINDS = ["variations", "memory", "file", "bucket"]
LOCAL_KINDS = ["variations", "file"]


@pytest.fixture(autouse=True)
def _file_systems() -> Iterator[None]:
    """Start with an empty bucket and an empty memory."""
    with bucket():
        yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def make_tool(kind: str, tmp_path: Path, **settings: Any) -> ImageVariationTool:
    """Return a tool with results in one kind of location."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    locations = {
        "variations": "variations",
        "memory": "memory://kept",
        "file": f"file://{tmp_path}/stored",
        "bucket": "bucket://kept",
    }
    return ImageVariationTool(
        root_dir=tmp_path / "photos", output_dir=locations[kind], engine="instant", **settings
    )


def local_folder(tool: ImageVariationTool) -> Path:
    """Return the local folder of all results."""
    # A path from the root replaces `root_dir`.
    return Path(tool.root_dir, str(tool.output_dir).removeprefix("file://"))


def stored_paths(tool: ImageVariationTool) -> list[str]:
    """Return the paths of all files and folders in `output_dir`, relative to it."""
    location = str(tool.output_dir)
    if "://" not in location:
        location = str(local_folder(tool))
    system, root = fsspec.core.url_to_fs(location)
    if isinstance(system, Bucket):
        return sorted(key.removeprefix(f"{root}/") for key in Bucket.objects)
    system.invalidate_cache()
    paths = system.find(root, withdirs=True)
    return sorted(path.removeprefix(f"{root}/") for path in paths if path != root)


def converse(tool: ImageVariationTool, thread: str) -> None:
    """Upload an image in a conversation, and vary it."""
    Talk(tool, thread, upload(CAT)).vary("latest", n=2)


@pytest.mark.parametrize("kind", KINDS)
def test_only_that_conversation_is_deleted(kind: str, tmp_path: Path) -> None:
    """A conversation's results, uploads and folders are deleted. A similar id keeps everything."""
    tool = make_tool(kind, tmp_path)
    for thread in ("user-1 ", "User-1", "user"):
        converse(tool, thread)
    other_paths = stored_paths(tool)
    assert len(other_paths) >= 9
    converse(tool, "user-1")
    assert stored_paths(tool) != other_paths
    tool.delete_conversation("user-1")
    assert stored_paths(tool) == other_paths


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_delete_is_no_error(kind: str, tmp_path: Path) -> None:
    """A conversation that stored nothing, or was deleted before, can be deleted."""
    tool = make_tool(kind, tmp_path)
    tool.delete_conversation("user-1")
    assert not (tmp_path / "photos" / "variations").exists()
    converse(tool, "user-1")
    for _ in range(2):
        tool.delete_conversation("user-1")
    for thread in ("", ".", "..", "../..", "/", "*"):
        tool.delete_conversation(thread)
    assert not stored_paths(tool)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deleted_conversation_can_go_on(kind: str, tmp_path: Path) -> None:
    """The next call stores its results again, but does not find the old uploads."""
    tool = make_tool(kind, tmp_path)
    talk = Talk(tool, "user-1", upload(CAT))
    (image,) = talk.vary("latest").artifact["images"]
    tool.delete_conversation("user-1")
    assert Talk(tool, "user-1").vary(image["handle"]).status == "error"
    talk.messages[:] = [upload(square_png(65))]
    assert talk.vary("latest").status == "success"


def test_results_without_a_conversation_stay(tmp_path: Path) -> None:
    """Results of a script, and the records of the cache, are not those of a conversation."""
    tool = make_tool("variations", tmp_path, cache=True)
    (tmp_path / "photos" / "cat.png").write_bytes(CAT)
    tool.invoke({"image": "cat.png"})
    paths = stored_paths(tool)
    Talk(tool, "user-1").vary("cat.png", n=1)
    tool.delete_conversation("user-1")
    assert set(paths) <= set(stored_paths(tool))
    assert (tmp_path / "photos" / "cat.png").exists()


@pytest.mark.parametrize("thread", [7, uuid4()])
def test_an_id_may_have_another_type(tmp_path: Path, thread: Any) -> None:
    """The `thread_id` may have the type that it has in the config."""
    tool = make_tool("variations", tmp_path)
    converse(tool, thread)
    tool.delete_conversation(thread)
    assert not stored_paths(tool)


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_foreign_files_and_links_stay(kind: str, tmp_path: Path) -> None:
    """Files with other names, folders and links stay, and so do the folders with them."""
    tool = make_tool(kind, tmp_path)
    converse(tool, "user-1")
    secret = tmp_path / "secret.png"
    secret.write_bytes(CAT)
    scope = local_folder(tool) / scope_name("user-1")
    foreign_paths = []
    for folder in (scope, scope / UPLOADS_FOLDER):
        (folder / "notes.txt").write_text("mine")
        (folder / "cat-0123abcd-1.png").mkdir()
        (folder / "dog-0123abcd-1.png").symlink_to(secret)
        (folder / f"img_{'0' * 64}.png").symlink_to(secret)
        names = ("notes.txt", "cat-0123abcd-1.png", "dog-0123abcd-1.png", f"img_{'0' * 64}.png")
        foreign_paths += [folder / name for name in names]
    tool.delete_conversation("user-1")
    assert sorted(scope.rglob("*")) == sorted([*foreign_paths, scope / UPLOADS_FOLDER])
    assert secret.read_bytes() == CAT


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("folder", ["", UPLOADS_FOLDER])
@pytest.mark.parametrize("is_inside", [True, False])
def test_a_linked_folder_is_refused(
    kind: str, tmp_path: Path, folder: str, is_inside: bool
) -> None:
    """Through a link to a folder, nothing is deleted: neither another conversation nor outside."""
    tool = make_tool(kind, tmp_path)
    converse(tool, "user-2")
    results = local_folder(tool)
    target = results / scope_name("user-2")
    if not is_inside:
        target = target.rename(tmp_path / "outside")
    link = results / scope_name("user-1") / folder
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target / folder)
    paths = sorted(target.rglob("*"))
    with pytest.raises((OutputError, SourceError)) as caught:
        tool.delete_conversation("user-1")
    assert str(tmp_path) not in str(caught.value)
    assert sorted(target.rglob("*")) == paths


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_leftovers_of_a_killed_process_are_deleted(kind: str, tmp_path: Path) -> None:
    """Temporary files that nobody can still be writing are deleted. Newer ones stay."""
    tool = make_tool(kind, tmp_path)
    converse(tool, "user-1")
    scope = local_folder(tool) / scope_name("user-1")
    old_file, new_file = scope / f".{'0' * 16}.part", scope / f".{'1' * 16}.part"
    for file in (old_file, new_file):
        file.write_bytes(CAT[:99])
    two_hours_ago = time.time() - 7200
    os.utime(old_file, (two_hours_ago, two_hours_ago))
    tool.delete_conversation("user-1")
    assert list(scope.iterdir()) == [new_file]


@pytest.mark.parametrize("operation", ["list", "remove"])
def test_storage_that_refuses_is_an_error(tmp_path: Path, operation: str) -> None:
    """If the storage refuses to list or delete files, the error says so, without its text."""
    tool = make_tool("bucket", tmp_path)
    converse(tool, "user-1")
    Bucket.buckets.add(f"kept/{scope_name('user-1')}/{UPLOADS_FOLDER}")
    Bucket.failing.add(operation)
    with pytest.raises(OutputError, match="cannot delete files") as caught:
        tool.delete_conversation("user-1")
    assert SECRET not in str(caught.value)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """A file with the name of the conversation's folder is not deleted."""
    tool = make_tool("variations", tmp_path)
    converse(tool, "user-2")
    file = local_folder(tool) / scope_name("user-1")
    file.write_bytes(CAT)
    with pytest.raises(OutputError, match="cannot be deleted"):
        tool.delete_conversation("user-1")
    assert file.read_bytes() == CAT


@pytest.mark.parametrize("kind", KINDS)
def test_running_calls_are_not_harmed(kind: str, tmp_path: Path) -> None:
    """A call succeeds if its conversation is deleted, with its folders, at any moment of it."""
    tool = make_tool(kind, tmp_path)
    with ThreadPoolExecutor() as pool:
        for _ in range(20):
            deletion = pool.submit(tool.delete_conversation, "user-1")
            converse(tool, "user-1")
            deletion.result()
    tool.delete_conversation("user-1")
    assert not stored_paths(tool)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_saved_after_a_deletion(kind: str, tmp_path: Path) -> None:
    """If the conversation is deleted while the engine works, the call still saves its results."""

    class DeletingEngine:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            tool.delete_conversation("user-1")
            return InstantEngine().create_variation(request)

    tool = make_tool(kind, tmp_path).model_copy(update={"engine": DeletingEngine()})
    message = Talk(tool, "user-1", upload(CAT)).vary("latest", n=2)
    assert message.status == "success"
    paths = {image["path"].removeprefix("variations/") for image in message.artifact["images"]}
    assert len(paths) == 2
    assert paths <= set(stored_paths(tool))
