import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pytest

from langchain_image_variation.agents.conversation import Conversation, scope_name
from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.agents.reachable_images import ReachableImages
from langchain_image_variation.agents.results import ResultFolder, Results
from langchain_image_variation.agents.stored_results import ResultStorage
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    SourceError,
    ToolCallError,
    install_command,
)
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output import save_images
from langchain_image_variation.source.read import MAX_SOURCE_BYTES
from pytest_image_variation.samples import square_png
from tests.agents.file_systems import SECRET, Bucket, bucket
from tests.agents.scripted import call
from tests.agents.test_image_folder import OUTSIDE
from tests.images.compressed import encodings

PNG = SquarePNG(square_png())
SCOPE, OTHER = scope_name("thread 1"), scope_name("thread 2")
KINDS = ["folder", "memory", "file", "bucket"]


def answer(n: int, image: SquarePNG = PNG) -> ImagesResponse:
    """Return a response of the instant engine."""
    return InstantEngine().create_variation(
        CreateImageVariationRequest(image=image, n=n, size="256x256")
    )


@pytest.fixture(autouse=True)
def _file_systems() -> Iterator[None]:
    """Start with an empty bucket and an empty memory."""
    with bucket():
        yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def open_results(
    kind: str, tmp_path: Path, scope: str | None = None, max_results: int | None = None
) -> Results:
    """Return results in one kind of location."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    photos = ImageFolder(tmp_path / "photos")
    limits: Any = {"scope": scope, "max_results": max_results}
    if kind == "folder":
        return ResultFolder(photos, PurePosixPath("variations"), **limits)
    return ResultStorage(photos, url(kind, tmp_path), {}, **limits)


def url(kind: str, tmp_path: Path) -> str:
    """Return the `output_dir` of one kind of location."""
    places = {
        "folder": "variations",
        "file": f"file://{tmp_path}/kept/here",
        "memory": "memory://kept/here",
        "bucket": "bucket://kept/here",
    }
    return places[kind]


def files(kind: str, tmp_path: Path) -> tuple[Any, str]:
    """Return the file system of a kind, and the folder of its results."""
    whole = f"file://{tmp_path}/photos/variations" if kind == "folder" else url(kind, tmp_path)
    return fsspec.core.url_to_fs(whole)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_opens_a_result_by_handle_name_and_path(kind: str, tmp_path: Path) -> None:
    """A result is named as by `save_images`, and opens by handle, name and path everywhere."""
    results = open_results(kind, tmp_path, SCOPE)
    results.ensure_writable()
    saved_images = results.save(answer(2), name="a cat")
    expected = save_images(answer(2), tmp_path / "plain", name="a cat")
    for (path, image), other in zip(saved_images, expected, strict=True):
        assert (image.name, image.sha256, image.seed) == (other.path.name, other.sha256, None)
        assert (image.width, image.height) == (256, 256)
        stem = image.name.removesuffix(".png")
        names = (stem, image.name, path)
        for file in (*(results.open_handle(name) for name in names), results.open(path)):
            assert file is not None
            with file:
                assert file.read() == other.path.read_bytes()
        assert str(tmp_path) not in path


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path) -> None:
    """Results that are saved after the clock was set back still count as the newest."""
    results = open_results("folder", tmp_path, max_results=2)
    results.ensure_writable()
    ((path, _),) = results.save(answer(1), name="first")
    in_2099 = 4_000_000_000
    os.utime(tmp_path / "photos" / path, (in_2099, in_2099))
    for name in ("second", "third"):
        results.save(answer(1), name=name)
        assert results.newest_handles()[0].startswith(f"{name}-")
    assert [handle.partition("-")[0] for handle in results.newest_handles()] == ["third", "second"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_different_image_is_never_replaced(kind: str, tmp_path: Path) -> None:
    """An image whose name is taken gets a longer hash in its name, and replaces nothing."""
    results = open_results(kind, tmp_path)
    results.ensure_writable()
    system, root = files(kind, tmp_path)
    ((_, first),) = results.save(answer(1), name="cat")
    old_info = system.info(f"{root}/{first.name}") if kind != "bucket" else None
    ((_, repeat),) = results.save(answer(1), name="cat")
    assert repeat == first
    if old_info is not None:
        new_info = system.info(f"{root}/{first.name}")
        if "ino" in old_info:
            # The times of a local file may change, so that it becomes `latest`.
            for info in (old_info, new_info):
                del info["mtime"], info["created"]
        assert new_info == old_info
    system.pipe_file(f"{root}/{first.name}", b"something else")
    ((path, second),) = results.save(answer(1), name="cat")
    assert len(second.name) == len(first.name) + 8
    assert system.cat_file(f"{root}/{first.name}") == b"something else"
    with results.open(path) as file:  # type: ignore[union-attr]
        assert file.read() == answer(1).data[0].read()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_pixels_are_saved_once(kind: str, tmp_path: Path) -> None:
    """Images with equal pixels are saved once, and the first file's hash is returned."""
    results = open_results(kind, tmp_path)
    results.ensure_writable()
    system, root = files(kind, tmp_path)
    first, *others = encodings(decode_png(SquarePNG(square_png(24))))
    saved_images = [
        results.save(ImagesResponse.from_pngs([data], response_format="b64_json"), name="cat")
        for data in (first, *others)
    ]
    assert saved_images == saved_images[:1] * len(saved_images)
    ((_, image),) = saved_images[0]
    assert image.sha256 == hashlib.sha256(first).hexdigest()
    assert system.cat_file(f"{root}/{image.name}") == first


@pytest.mark.parametrize("kind", KINDS)
def test_a_scope_finds_only_its_own_results(kind: str, tmp_path: Path) -> None:
    """A scope neither opens nor lists the results of another scope."""
    own_results, other = (open_results(kind, tmp_path, scope) for scope in (SCOPE, OTHER))
    unscoped_results = open_results(kind, tmp_path)
    handles: dict[Results, str] = {}
    for scope_results in (own_results, other, unscoped_results):
        scope_results.ensure_writable()
        ((handles[scope_results], _),) = scope_results.save(answer(1), name=f"cat{len(handles)}")
    for path in (handles[other], handles[unscoped_results]):
        assert own_results.open_handle(path) is None
        assert own_results.open_handle(PurePosixPath(path).stem) is None
    assert own_results.newest_handles() == [PurePosixPath(handles[own_results]).stem]
    assert unscoped_results.newest_handles() == [PurePosixPath(handles[unscoped_results]).stem]
    for file in (own_results.open(handles[other]), own_results.open_handle(handles[own_results])):
        assert file is not None
        file.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_conversation_all_results_are_open(kind: str, tmp_path: Path) -> None:
    """Without a conversation, the results of every scope can be opened by path."""
    other = open_results(kind, tmp_path, OTHER)
    other.ensure_writable()
    ((path, image),) = other.save(answer(1), name="cat")
    images = ReachableImages(open_results(kind, tmp_path), None)
    label, source = images.load(path, fit="crop", urls=None)
    assert f"{label}.png" == f"{source.name}.png" == image.name


@pytest.mark.parametrize("kind", KINDS)
def test_lists_the_newest_and_deletes_the_oldest(kind: str, tmp_path: Path) -> None:
    """At the limit, new results replace the oldest ones, and other files stay."""
    results = open_results(kind, tmp_path, SCOPE, max_results=3)
    results.ensure_writable()
    system, root = files(kind, tmp_path)
    other_files = {"notes.txt", "cat.png", "cat-0123abcd-1.jpg", "IMG-20240131-1.png"}
    for name in (*other_files, ".cat-0123abcd-1.png.part"):
        system.pipe_file(f"{root}/{SCOPE}/{name}", b"x")
        if kind in ("folder", "file"):
            os.utime(f"{root}/{SCOPE}/{name}", (0, 0))
    handles: list[list[str]] = []
    for index in range(3):
        image = SquarePNG(square_png(16 + index))
        handles.append([i.name[:-4] for _, i in results.save(answer(2, image), name="cat")])
        if kind in ("folder", "file"):
            for handle in handles[-1]:
                os.utime(f"{root}/{SCOPE}/{handle}.png", (index, index))
    assert sorted(results.newest_handles()[:2]) == sorted(handles[2])
    assert results.newest_handles()[2] in handles[1]
    assert len(results.newest_handles()) == 4
    remaining_names = {str(path).rpartition("/")[2] for path in system.find(f"{root}/{SCOPE}")}
    assert other_files < remaining_names


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_writers_of_one_image_agree(kind: str, tmp_path: Path) -> None:
    """Threads that save the same images all get the same complete files, and no others."""
    results = open_results(kind, tmp_path)
    results.ensure_writable()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(results.save, answer(2), name="cat") for _ in range(16)]
        (paths,) = {tuple(path for path, _ in job.result()) for job in jobs}
    system, root = files(kind, tmp_path)
    remaining_names = {str(path).rpartition("/")[2] for path in system.find(root)} - {".writable"}
    assert remaining_names == {PurePosixPath(path).name for path in paths}


ELSEWHERE = [
    *OUTSIDE,
    "../secret-0123abcd-1.png",
    "..%2fsecret-0123abcd-1.png",
    "%2e%2e/secret-0123abcd-1",
    f"{OTHER}/secret-0123abcd-1.png",
    f"../{OTHER}/secret-0123abcd-1",
    f"{SCOPE}/../secret-0123abcd-1.png",
    f"{SCOPE}/../../secret-0123abcd-1.png",
    f"{SCOPE}//{SCOPE}/secret-0123abcd-1.png",
    "/kept/secret-0123abcd-1.png",
    "/kept/here/../secret-0123abcd-1.png",
    "memory://kept/secret-0123abcd-1.png",
    "bucket://kept/secret-0123abcd-1.png",
    "file:///etc/secret-0123abcd-1.png",
    "x::memory://kept/secret-0123abcd-1.png",
    "zip://secret-0123abcd-1.png::memory://kept/secret.zip",
    "simplecache::memory::secret-0123abcd-1.png",
    "secret-0123abcd-1.png\0",
    "secret\0-0123abcd-1.png",
    "secret-0123abcd-1.png?versionId=1",
    "secret-0123abcd-1.png#x",
    "*-0123abcd-1.png",
    "?ecret-0123abcd-1.png",
    "[a-z]ecret-0123abcd-1.png",
    "..\\secret-0123abcd-1.png",
    "~/secret-0123abcd-1.png",
    ".variation-cache/secret-0123abcd-1.png",
    ".variation-cache",
    ".writable",
]


@pytest.mark.parametrize("kind", ["memory", "file", "bucket"])
def test_no_spelling_leads_out_of_a_storage(kind: str, tmp_path: Path) -> None:
    """No handle and no path finds anything outside the storage, or even requests it."""
    results = open_results(kind, tmp_path, SCOPE)
    results.ensure_writable()
    system, root = files(kind, tmp_path)
    above = root.rpartition("/")[0]
    for prefix in (above, root, f"{root}/{OTHER}", "/etc" if kind == "memory" else above):
        system.makedirs(prefix, exist_ok=True)
        system.pipe_file(f"{prefix}/secret-0123abcd-1.png", b"secret")
    Bucket.requested_keys.clear()
    for name in ELSEWHERE:
        assert results.open_handle(name) is None, name
        if name != f"{OTHER}/secret-0123abcd-1.png":
            assert results.open(name) is None, name
    assert set(Bucket.requested_keys) <= {
        *(f"kept/here/{SCOPE}/{name}" for name in ("secret-0123abcd-1.png",)),
        f"kept/here/{OTHER}/secret-0123abcd-1.png",
    }


@pytest.mark.parametrize("scope", ["..", "a/b", "", "a\0", "a b", "::", "x" * 65, "%2e%2e"])
def test_a_scope_must_be_a_scope_name(tmp_path: Path, scope: str) -> None:
    """A scope that is not a scope name is refused, so that none leads out of the storage."""
    with pytest.raises(SourceError, match="scope_name"):
        open_results("memory", tmp_path, scope)


def test_a_large_result_is_not_read_completely(tmp_path: Path) -> None:
    """A result that is too large is read only until that is certain."""
    results = open_results("bucket", tmp_path)
    Bucket.objects["kept/here/cat-0123abcd-1.png"] = (0, b"x" * (MAX_SOURCE_BYTES + 10))
    with results.open("cat-0123abcd-1.png") as file:  # type: ignore[union-attr]
        assert len(file.read()) == MAX_SOURCE_BYTES + 1
    with pytest.raises(ToolCallError, match="limit of 67,108,864 bytes"):
        ReachableImages(results, None).load("cat-0123abcd-1", fit="crop", urls=None)


FAULTS: list[tuple[str, Callable[[Results], object], type[ImageVariationError] | None]] = [
    ("write", lambda results: results.ensure_writable(), OutputError),
    ("write", lambda results: results.save(answer(1), name="cat"), OutputError),
    ("read", lambda results: results.save(answer(1), name="cat"), OutputError),
    ("read", lambda results: results.open("cat-0123abcd-1.png"), OutputError),
    ("read", lambda results: results.open_handle("cat-0123abcd-1"), OutputError),
    ("read", lambda results: results.read_record("x.json"), OutputError),
    ("write", lambda results: results.write_record("x.json", b"{}"), OutputError),
    ("list", lambda results: results.newest_handles(), None),
]


@pytest.mark.parametrize(("fault", "operation", "expected"), FAULTS)
def test_errors_of_a_file_system_are_translated(
    tmp_path: Path,
    fault: str,
    operation: Callable[[Results], object],
    expected: type[ImageVariationError] | None,
) -> None:
    """Errors of a file system lose their text, which may contain keys and paths."""
    results = open_results("bucket", tmp_path)
    Bucket.failing.add(fault)
    if expected is None:
        assert operation(results) == []
        return
    with pytest.raises(expected, match=r"^The bucket storage .* \(ForeignError\)\.$") as error_info:
        operation(results)
    error: BaseException | None = error_info.value
    assert SECRET not in str(error)
    assert error is not None
    assert error.__suppress_context__


def test_a_bucket_is_never_created(tmp_path: Path) -> None:
    """A bucket that does not exist is an error, and is not created."""
    results = ResultStorage(ImageFolder(tmp_path), "bucket://mistyped/here", {}, scope=SCOPE)
    with pytest.raises(OutputError, match="cannot be written to; check its address"):
        results.ensure_writable()
    assert "mistyped" not in Bucket.buckets


def test_a_failed_move_leaves_no_file(tmp_path: Path) -> None:
    """A failed move leaves no file, neither under its name nor under a temporary one."""
    results = ResultStorage(ImageFolder(tmp_path), f"stuck://{tmp_path}/kept", {})
    results.ensure_writable()
    with pytest.raises(OutputError, match=r"cannot store 'cat-.*-1.png'; free some") as error_info:
        results.save(answer(1), name="cat")
    assert SECRET not in str(error_info.value)
    assert os.listdir(tmp_path / "kept") == [".writable"]


@contextmanager
def without_package(package: str) -> Iterator[None]:
    """Simulate that a package is not installed."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith(package)}
    for name in modules:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(modules)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """The error names the extra for fsspec, or the package that the protocol needs."""
    with (
        without_package("fsspec"),
        pytest.raises(MissingExtraError) as caught,
    ):
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir="memory://kept")
    command = install_command("langchain-image-variation[fsspec]")
    assert caught.value.message.endswith(f"which is not installed. Run: {command}")
    fsspec.register_implementation("far", "no_such_package.FarSystem", clobber=True)
    with pytest.raises(
        MissingExtraError, match=r"'far://' as output_dir needs the package 'no_such_package',"
    ):
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir="far://kept")


@pytest.mark.parametrize(
    ("output_dir", "error", "text"),
    [
        ("nothing://x", InvalidRequestError, "the kind 'nothing', which fsspec does not know"),
        ("dir::memory://kept", InvalidRequestError, "the URL of one file system"),
        ("memory://a::memory://b", InvalidRequestError, "the URL of one file system"),
        ("closed://u:hunter2@h/kept", OutputError, r"cannot be opened; .* \(ForeignError\)"),
    ],
)
def test_a_wrong_url_is_refused_immediately(
    tmp_path: Path, output_dir: str, error: type[ImageVariationError], text: str
) -> None:
    """A tool with a wrong URL cannot be constructed, and the error does not show the URL."""
    with pytest.raises(error, match=text) as error_info:
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir=output_dir)
    assert "hunter2" not in str(error_info.value)
    assert SECRET not in str(error_info.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_saves_its_results_anywhere(kind: str, tmp_path: Path) -> None:
    """Results are saved, named and varied again in every location, sync and async."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(square_png())
    tool = ImageVariationTool(
        engine="instant",
        root_dir=tmp_path / "photos",
        output_dir=url(kind, tmp_path),
        storage_options={} if kind == "folder" else {"skip_instance_cache": True},
    )
    config: Any = {"configurable": {"thread_id": "thread 1"}}
    first = tool.invoke(call(image="cat.png", n=2, size="256x256"), config)
    (one, two) = first.artifact["images"]
    prefix = {"folder": "variations/"}.get(kind, "") + f"{SCOPE}/"
    assert [item["path"] for item in (one, two)] == [
        f"{prefix}{item['handle']}.png" for item in (one, two)
    ]
    location = prefix if kind == "folder" else f"{prefix} in {kind} storage"
    assert f"Saved in {location} as <name>.png." in first.content
    for image in (two["handle"], two["path"], "latest"):
        message = await tool.ainvoke(call(image=image, size="256x256"), config)
        assert message.content.startswith("Made 1 variation of "), message.content
    error_message = await tool.ainvoke(call(image="dog.png"), config)
    newest = message.artifact["images"][0]["handle"]
    assert f"Earlier results, the newest first: {newest}, " in error_message.content


def test_an_unwritable_storage_costs_no_engine_call(tmp_path: Path) -> None:
    """An unwritable storage is noticed before the engine is called."""
    (tmp_path / "cat.png").write_bytes(square_png())

    class Never:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            raise AssertionError

    Bucket.failing.add("write")
    tool = ImageVariationTool(engine=Never(), root_dir=tmp_path, output_dir="bucket://kept")
    with pytest.raises(OutputError, match=r"^Images could not be read or saved\.") as caught:
        tool.invoke(call(image="cat.png"))
    cause = str(caught.value.__cause__)
    assert "bucket storage cannot be written to; check its address" in cause


def test_url_and_options_are_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No repr, message, artifact or error shows the URL or the options of the storage."""
    (tmp_path / "cat.png").write_bytes(square_png())
    tool = ImageVariationTool(
        engine="instant",
        root_dir=tmp_path,
        output_dir="bucket://user:hunter2@kept/deep?token=hunter2",
        storage_options={"key": "hunter2"},
    )
    answering_tool = tool.model_copy(update={"raise_on": ()})
    texts = [repr(tool), str(tool), repr(tool.invoke(call(image="cat.png", size="256x256")))]
    for fault in ("list", "read", "write"):
        Bucket.failing.add(fault)
        images = ("cat.png", "a-0123abcd-1")
        texts += [repr(answering_tool.invoke(call(image=image))) for image in images]
    for text in (*texts, *(record.getMessage() for record in caplog.records)):
        assert "hunter2" not in text
        assert "kept" not in text
        assert SECRET not in text


@pytest.mark.parametrize("kind", ["file", "dir", "dirs"])
def test_a_file_url_inside_the_root_is_excluded(kind: str, tmp_path: Path) -> None:
    """Results at a file URL inside the root cannot be opened by path."""
    image_folder = ImageFolder(tmp_path)
    path = {"dir": f"{tmp_path}/kept", "dirs": "/"}.get(kind)
    options = {"path": path, "target_protocol": "file"} if path else {}
    location = "dir://" if kind == "dir" else f"{kind.removesuffix('s')}://{tmp_path}/kept"
    other = ResultStorage(image_folder, location, options, scope=OTHER)
    other.ensure_writable()
    ((path, _),) = other.save(answer(1), name="cat")
    own_results = ResultStorage(image_folder, location, options, scope=SCOPE)
    images = ReachableImages(own_results, Conversation(scope=SCOPE))
    with pytest.raises(ToolCallError, match="There is no image"):
        images.load(f"kept/{path}", fit="crop", urls=None)
    label, _ = ReachableImages(own_results, None).load(f"kept/{path}", fit="crop", urls=None)
    assert label == PurePosixPath(path).stem


def test_a_file_url_above_the_root_is_refused(tmp_path: Path) -> None:
    """A file URL above the root is refused, since all images would count as results."""
    (tmp_path / "photos").mkdir()
    image_folder = ImageFolder(tmp_path / "photos")
    for location in (tmp_path, tmp_path / "photos", "/"):
        with pytest.raises(SourceError, match="must not contain root_dir"):
            ResultStorage(image_folder, f"file://{location}", {})
