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
from langchain_image_variation.agents.handles import ReachableImages
from langchain_image_variation.agents.image_folder import ImageFolder
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
)
from langchain_image_variation.images.pixels import decode
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output import save_images
from langchain_image_variation.source import MAX_SOURCE_BYTES
from pytest_image_variation.samples import square_png
from tests.agents.file_systems import SECRET, Bucket, bucket
from tests.agents.scripted import call
from tests.agents.test_image_folder import OUTSIDE
from tests.images.compressed import encodings

PNG = SquarePNG(square_png())
SCOPE, OTHER = scope_name("thread 1"), scope_name("thread 2")
KINDS = ["folder", "memory", "file", "bucket"]


def answer(n: int, image: SquarePNG = PNG) -> ImagesResponse:
    """Return an answer of the instant engine."""
    return InstantEngine().create_variation(
        CreateImageVariationRequest(image=image, n=n, size="256x256")
    )


@pytest.fixture(autouse=True)
def _file_systems() -> Iterator[None]:
    """An empty bucket and an empty memory."""
    with bucket():
        yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def results(
    kind: str, tmp_path: Path, scope: str | None = None, max_results: int | None = None
) -> Results:
    """Return results of a kind."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    photos = ImageFolder(tmp_path / "photos")
    limits: Any = {"scope": scope, "max_results": max_results}
    if kind == "folder":
        return ResultFolder(photos, PurePosixPath("variations"), **limits)
    return ResultStorage(photos, url(kind, tmp_path), {}, **limits)


def url(kind: str, tmp_path: Path) -> str:
    """Return where results of a kind go."""
    places = {
        "folder": "variations",
        "file": f"file://{tmp_path}/kept/here",
        "memory": "memory://kept/here",
        "bucket": "bucket://kept/here",
    }
    return places[kind]


def files(kind: str, tmp_path: Path) -> tuple[Any, str]:
    """Return the file system of the results of a kind, and where in it they are."""
    whole = f"file://{tmp_path}/photos/variations" if kind == "folder" else url(kind, tmp_path)
    return fsspec.core.url_to_fs(whole)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_found_by_its_handle_its_name_and_its_path(kind: str, tmp_path: Path) -> None:
    """Wherever it is kept, under the name that `save_images` gives it."""
    kept = results(kind, tmp_path, SCOPE)
    kept.ensure_writable()
    saved = kept.save(answer(2), name="a cat")
    expected = save_images(answer(2), tmp_path / "plain", name="a cat")
    for (path, image), other in zip(saved, expected, strict=True):
        assert (image.name, image.sha256, image.seed) == (other.path.name, other.sha256, None)
        assert (image.width, image.height) == (256, 256)
        stem = image.name.removesuffix(".png")
        names = (stem, image.name, path)
        for file in (*(kept.open_handle(name) for name in names), kept.open(path)):
            assert file is not None
            with file:
                assert file.read() == other.path.read_bytes()
        assert str(tmp_path) not in path


@pytest.mark.parametrize("kind", KINDS)
def test_a_different_picture_is_never_replaced(kind: str, tmp_path: Path) -> None:
    """The hash in the name grows instead; what is there already is not written again."""
    kept = results(kind, tmp_path)
    kept.ensure_writable()
    system, root = files(kind, tmp_path)
    ((_, first),) = kept.save(answer(1), name="cat")
    before = system.info(f"{root}/{first.name}") if kind != "bucket" else None
    ((_, again),) = kept.save(answer(1), name="cat")
    assert again == first
    if before is not None:
        after = system.info(f"{root}/{first.name}")
        # Of a file of this machine its times may change, on which `latest` depends.
        same = [name for name in before if "ino" not in before or name not in ("mtime", "created")]
        assert [after[name] for name in same] == [before[name] for name in same]
    system.pipe_file(f"{root}/{first.name}", b"something else")
    ((path, second),) = kept.save(answer(1), name="cat")
    assert len(second.name) == len(first.name) + 8
    assert system.cat_file(f"{root}/{first.name}") == b"something else"
    with kept.open(path) as file:  # type: ignore[union-attr]
        assert file.read() == answer(1).data[0].read()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_are_kept_once(kind: str, tmp_path: Path) -> None:
    """However they are compressed: the first file stays, and the hash returned is that file's."""
    kept = results(kind, tmp_path)
    kept.ensure_writable()
    system, root = files(kind, tmp_path)
    first, *others = encodings(decode(SquarePNG(square_png(24))))
    saved = [
        kept.save(ImagesResponse.from_pngs([data], response_format="b64_json"), name="cat")
        for data in (first, *others)
    ]
    assert saved == saved[:1] * len(saved)
    ((_, image),) = saved[0]
    assert image.sha256 == hashlib.sha256(first).hexdigest()
    assert system.cat_file(f"{root}/{image.name}") == first


@pytest.mark.parametrize("kind", KINDS)
def test_a_scope_finds_its_own_results_only(kind: str, tmp_path: Path) -> None:
    """Neither the handle nor the path of another's result is found, and none is listed."""
    mine, other = (results(kind, tmp_path, scope) for scope in (SCOPE, OTHER))
    everybody = results(kind, tmp_path)
    saved: dict[Results, str] = {}
    for each in (mine, other, everybody):
        each.ensure_writable()
        ((saved[each], _),) = each.save(answer(1), name=f"cat{len(saved)}")
    for path in (saved[other], saved[everybody]):
        assert mine.open_handle(path) is None
        assert mine.open_handle(PurePosixPath(path).stem) is None
    assert mine.newest_handles() == [PurePosixPath(saved[mine]).stem]
    assert everybody.newest_handles() == [PurePosixPath(saved[everybody]).stem]
    for file in (mine.open(saved[other]), mine.open_handle(saved[mine])):
        assert file is not None
        file.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_conversation_all_results_may_be_used(kind: str, tmp_path: Path) -> None:
    """By their paths, whatever scope they are of."""
    other = results(kind, tmp_path, OTHER)
    other.ensure_writable()
    ((path, image),) = other.save(answer(1), name="cat")
    label, source = ReachableImages(results(kind, tmp_path), None).load(path, fit="crop", urls=None)
    assert f"{label}.png" == f"{source.name}.png" == image.name


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_come_first_and_the_oldest_go(kind: str, tmp_path: Path) -> None:
    """With a limit, new results push out old ones; what is no result is left alone."""
    kept = results(kind, tmp_path, SCOPE, max_results=3)
    kept.ensure_writable()
    system, root = files(kind, tmp_path)
    mine = {"notes.txt", "cat.png", "cat-0123abcd-1.jpg", "IMG-20240131-1.png"}
    for name in (*mine, ".cat-0123abcd-1.png.part"):
        system.pipe_file(f"{root}/{SCOPE}/{name}", b"x")
        if kind in ("folder", "file"):
            os.utime(f"{root}/{SCOPE}/{name}", (0, 0))
    handles: list[list[str]] = []
    for index in range(3):
        image = SquarePNG(square_png(16 + index))
        handles.append([i.name[:-4] for _, i in kept.save(answer(2, image), name="cat")])
        if kind in ("folder", "file"):
            for handle in handles[-1]:
                os.utime(f"{root}/{SCOPE}/{handle}.png", (index, index))
    assert sorted(kept.newest_handles()[:2]) == sorted(handles[2])
    assert kept.newest_handles()[2] in handles[1]
    assert len(kept.newest_handles()) == 4
    left = {str(path).rpartition("/")[2] for path in system.find(f"{root}/{SCOPE}")}
    assert mine < left


@pytest.mark.parametrize("kind", KINDS)
def test_many_writers_of_one_picture_agree(kind: str, tmp_path: Path) -> None:
    """Threads that keep the same pictures at once all get the same whole files, and no others."""
    kept = results(kind, tmp_path)
    kept.ensure_writable()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(kept.save, answer(2), name="cat") for _ in range(16)]
        (paths,) = {tuple(path for path, _ in job.result()) for job in jobs}
    system, root = files(kind, tmp_path)
    left = {str(path).rpartition("/")[2] for path in system.find(root)} - {".writable"}
    assert left == {PurePosixPath(path).name for path in paths}


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
    """As a handle or as a recorded path, it is not found, and nothing outside is asked for."""
    kept = results(kind, tmp_path, SCOPE)
    kept.ensure_writable()
    system, root = files(kind, tmp_path)
    above = root.rpartition("/")[0]
    for place in (above, root, f"{root}/{OTHER}", "/etc" if kind == "memory" else above):
        system.makedirs(place, exist_ok=True)
        system.pipe_file(f"{place}/secret-0123abcd-1.png", b"secret")
    Bucket.asked.clear()
    for name in ELSEWHERE:
        assert kept.open_handle(name) is None, name
        if name != f"{OTHER}/secret-0123abcd-1.png":
            assert kept.open(name) is None, name
    assert set(Bucket.asked) <= {
        *(f"kept/here/{SCOPE}/{name}" for name in ("secret-0123abcd-1.png",)),
        f"kept/here/{OTHER}/secret-0123abcd-1.png",
    }


@pytest.mark.parametrize("scope", ["..", "a/b", "", "a\0", "a b", "::", "x" * 65, "%2e%2e"])
def test_a_scope_of_another_form_is_refused(tmp_path: Path, scope: str) -> None:
    """Whoever makes a conversation by hand cannot lead it out of the storage."""
    with pytest.raises(SourceError, match="scope_name"):
        results("memory", tmp_path, scope)


def test_a_result_is_read_up_to_the_limit_of_sources(tmp_path: Path) -> None:
    """Of a file that grew, no more is taken into memory than shows that it is too large."""
    kept = results("bucket", tmp_path)
    Bucket.objects["kept/here/cat-0123abcd-1.png"] = (0, b"x" * (MAX_SOURCE_BYTES + 10))
    with kept.open("cat-0123abcd-1.png") as file:  # type: ignore[union-attr]
        assert len(file.read()) == MAX_SOURCE_BYTES + 1
    with pytest.raises(SourceError, match="more than 67,108,864 bytes"):
        ReachableImages(kept, None).load("cat-0123abcd-1", fit="crop", urls=None)


FAULTS: list[tuple[str, Callable[[Results], object], type[ImageVariationError] | None]] = [
    ("write", lambda kept: kept.ensure_writable(), OutputError),
    ("write", lambda kept: kept.save(answer(1), name="cat"), OutputError),
    ("read", lambda kept: kept.save(answer(1), name="cat"), OutputError),
    ("read", lambda kept: kept.open("cat-0123abcd-1.png"), SourceError),
    ("read", lambda kept: kept.open_handle("cat-0123abcd-1"), SourceError),
    ("read", lambda kept: kept.read_record("x.json"), SourceError),
    ("write", lambda kept: kept.write_record("x.json", b"{}"), OutputError),
    ("list", lambda kept: kept.newest_handles(), None),
]


@pytest.mark.parametrize(("fault", "act", "expected"), FAULTS)
def test_what_a_file_system_raises_is_an_error_of_ours(
    tmp_path: Path,
    fault: str,
    act: Callable[[Results], object],
    expected: type[ImageVariationError] | None,
) -> None:
    """Without its text, which may hold keys and paths; a listing that fails is empty."""
    kept = results("bucket", tmp_path)
    Bucket.failing.add(fault)
    if expected is None:
        assert act(kept) == []
        return
    with pytest.raises(expected, match=r"^The bucket storage .* \(ForeignError\)\.$") as caught:
        act(kept)
    error: BaseException | None = caught.value
    assert SECRET not in str(error)
    assert error is not None
    assert error.__suppress_context__


def test_a_bucket_is_never_made(tmp_path: Path) -> None:
    """A name that was mistyped is an error, and no new bucket in somebody's account."""
    kept = ResultStorage(ImageFolder(tmp_path), "bucket://mistyped/here", {}, scope=SCOPE)
    with pytest.raises(OutputError, match="cannot be written to; check its URL"):
        kept.ensure_writable()
    assert "mistyped" not in Bucket.buckets


def test_a_file_that_cannot_be_moved_into_place_leaves_nothing(tmp_path: Path) -> None:
    """Neither under its name nor under a temporary one."""
    kept = ResultStorage(ImageFolder(tmp_path), f"stuck://{tmp_path}/kept", {})
    kept.ensure_writable()
    with pytest.raises(OutputError, match=r"cannot store 'cat-.*-1.png'; free some") as caught:
        kept.save(answer(1), name="cat")
    assert SECRET not in str(caught.value)
    assert os.listdir(tmp_path / "kept") == [".writable"]


@contextmanager
def absent(package: str) -> Iterator[None]:
    """Run as if a package were not installed."""
    known = {name: module for name, module in sys.modules.items() if name.startswith(package)}
    for name in known:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    yield
    del sys.modules[package]
    sys.modules.update(known)


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    """The extra that brings fsspec, and the package of a protocol by its name."""
    with absent("fsspec"), pytest.raises(MissingExtraError, match=r"variation\[fsspec\]'$"):
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir="memory://kept")
    fsspec.register_implementation("far", "no_such_package.FarSystem", clobber=True)
    with pytest.raises(
        MissingExtraError, match=r"'far://' as output_dir needs the package 'no_such_package',"
    ):
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir="far://kept")


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ("nothing://x", InvalidRequestError, "not of the kind 'nothing'"),
        ("dir::memory://kept", InvalidRequestError, "the URL of one file system"),
        ("memory://a::memory://b", InvalidRequestError, "the URL of one file system"),
        ("closed://u:hunter2@h/kept", OutputError, r"cannot be opened; .* \(ForeignError\)"),
    ],
)
def test_a_wrong_url_is_refused_at_once(
    tmp_path: Path, wrong: str, error: type[ImageVariationError], text: str
) -> None:
    """When the tool is made, without the URL, which may hold a password."""
    with pytest.raises(error, match=text) as caught:
        ImageVariationTool(engine="instant", root_dir=tmp_path, output_dir=wrong)
    assert "hunter2" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_with_its_results_anywhere(kind: str, tmp_path: Path) -> None:
    """Sync and async, on the loop and off it, results are made, named and varied again."""
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
    place = {"folder": "variations/"}.get(kind, "") + f"{SCOPE}/"
    assert [item["path"] for item in (one, two)] == [
        f"{place}{item['handle']}.png" for item in (one, two)
    ]
    said = place if kind == "folder" else f"{place} in {kind} storage"
    assert f"They are saved in {said} as <name>.png" in first.content
    for image in (two["handle"], two["path"], "latest"):
        message = await tool.ainvoke(call(image=image, size="256x256"), config)
        assert message.content.startswith("Made 1 variation of "), message.content
    missing = await tool.ainvoke(call(image="dog.png"), config)
    assert f"Earlier results: {message.artifact['images'][0]['handle']}, " in missing.content


def test_a_storage_that_cannot_be_written_to_costs_no_picture(tmp_path: Path) -> None:
    """It is found out before the engine is asked."""
    (tmp_path / "cat.png").write_bytes(square_png())

    class Never:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            raise AssertionError

    Bucket.failing.add("write")
    tool = ImageVariationTool(engine=Never(), root_dir=tmp_path, output_dir="bucket://kept")
    message = tool.invoke(call(image="cat.png"))
    assert "bucket storage cannot be written to; check its URL" in message.content


def test_url_and_options_are_shown_nowhere(tmp_path: Path) -> None:
    """Neither in the tool's own text, nor in messages, artifacts and errors."""
    (tmp_path / "cat.png").write_bytes(square_png())
    tool = ImageVariationTool(
        engine="instant",
        root_dir=tmp_path,
        output_dir="bucket://user:hunter2@kept/deep?token=hunter2",
        storage_options={"key": "hunter2"},
    )
    shown = [repr(tool), str(tool), repr(tool.invoke(call(image="cat.png", size="256x256")))]
    for fault in ("list", "read", "write"):
        Bucket.failing.add(fault)
        shown += [repr(tool.invoke(call(image=image))) for image in ("cat.png", "a-0123abcd-1")]
    for text in shown:
        assert "hunter2" not in text
        assert "kept" not in text
        assert SECRET not in text


@pytest.mark.parametrize("kind", ["file", "dir", "dirs"])
def test_a_file_url_inside_the_root_keeps_conversations_apart(kind: str, tmp_path: Path) -> None:
    """What is kept there counts as results, which are no files for a conversation to open."""
    pictures = ImageFolder(tmp_path)
    path = {"dir": f"{tmp_path}/kept", "dirs": "/"}.get(kind)
    options = {"path": path, "target_protocol": "file"} if path else {}
    where = "dir://" if kind == "dir" else f"{kind.removesuffix('s')}://{tmp_path}/kept"
    other = ResultStorage(pictures, where, options, scope=OTHER)
    other.ensure_writable()
    ((path, _),) = other.save(answer(1), name="cat")
    mine = ResultStorage(pictures, where, options, scope=SCOPE)
    with pytest.raises(SourceError, match="There is no image"):
        ReachableImages(mine, Conversation(scope=SCOPE)).load(f"kept/{path}", fit="crop", urls=None)
    label, _ = ReachableImages(mine, None).load(f"kept/{path}", fit="crop", urls=None)
    assert label == PurePosixPath(path).stem


def test_a_file_url_that_holds_the_root_is_refused(tmp_path: Path) -> None:
    """Of a folder that is the root, or above it, all pictures would be results."""
    (tmp_path / "photos").mkdir()
    pictures = ImageFolder(tmp_path / "photos")
    for where in (tmp_path, tmp_path / "photos", "/"):
        with pytest.raises(SourceError, match="must not contain root_dir"):
            ResultStorage(pictures, f"file://{where}", {})
