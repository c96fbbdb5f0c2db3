"""Uploads keep their names, and can be varied after their messages were removed."""

import asyncio
import base64
import hashlib
import io
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from PIL import Image

from langchain_image_variation.agents.conversation import Conversation, scope_name
from langchain_image_variation.agents.conversation_storage import keep_images
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.langchain_messages import block_images, collect_images
from langchain_image_variation.agents.message_image import MessageImage, identify
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.agents.uploads import MAX_UPLOADS
from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.http.url_policy import URLPolicy
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.file_systems import SECRET, Bucket, bucket
from tests.agents.names import name_of
from tests.agents.scripted import call

CAT, LAKE, DOG = square_png(64), square_png(65), square_png(66)
SUMMARY = HumanMessage("A summary of the conversation.")
PLACES = ["variations", "memory://kept", "bucket://kept"]


@pytest.fixture(autouse=True)
def _file_systems() -> Iterator[None]:
    """Start with an empty bucket and an empty memory."""
    with bucket():
        yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def tool(tmp_path: Path) -> ImageVariationTool:
    """Return a tool whose results depend on the original."""
    return ImageVariationTool(root_dir=tmp_path, engine="instant")


def expected(tmp_path: Path, image: bytes) -> list[bytes]:
    """Return the variation of an image, made outside of any conversation."""
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "image.png").write_bytes(image)
    tool = ImageVariationTool(root_dir=folder, engine="instant")
    return files(tool.invoke(call(image="image.png", size="256x256")), folder)


def folder_of(tmp_path: Path, thread: str = "t-1") -> Path:
    """Return the folder of the uploads of a thread."""
    return tmp_path / "variations" / scope_name(thread) / "uploads"


def kept_names(tool: ImageVariationTool, thread: str = "t-1") -> list[str]:
    """Return the names of the images that a thread keeps, wherever that is."""
    location = str(tool.output_dir)
    if "://" not in location:
        location = f"{tool.root_dir}/{location}"
    system, root = fsspec.core.url_to_fs(location)
    system.invalidate_cache()
    try:
        entries = system.ls(f"{root}/{scope_name(thread)}/uploads", detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rpartition("/")[2][:12] for entry in entries)


def names_of(*images: bytes) -> list[str]:
    """Return the names of images, sorted."""
    return sorted(map(name_of, images))


def summarize(talk: Talk, *messages: BaseMessage) -> None:
    """Replace the messages of a conversation by a summary and newer messages."""
    talk.messages[:] = [SUMMARY, *messages]


class TestNames:
    """A name always means the image whose content it is made from."""

    @pytest.mark.parametrize("output_dir", PLACES)
    def test_a_summarized_image_is_varied_by_its_name(
        self, tmp_path: Path, output_dir: str
    ) -> None:
        """After its message is summarized, a name means the same image, and not a newer one."""
        engine: Any = {"engine": "instant", "content": "thumbnail"}
        tool = ImageVariationTool(root_dir=tmp_path, output_dir=output_dir, **engine)
        talk = Talk(tool, "t-1", upload(CAT))
        before = talk.vary("latest")
        summarize(talk, upload(LAKE))
        after = talk.vary(name_of(CAT))
        assert after.text.startswith(f"Made 1 variation of {name_of(CAT)},")
        assert after.artifact["images"][0]["sha256"] == before.artifact["images"][0]["sha256"]
        assert (
            talk.vary(name_of(LAKE)).artifact["images"][0]["sha256"]
            != (before.artifact["images"][0]["sha256"])
        )
        assert kept_names(tool) == names_of(CAT, LAKE)

    @pytest.mark.parametrize("quoted_name", ["' {} '", '"{}"', " `{}` "])
    def test_quotes_do_not_count(self, tool: ImageVariationTool, quoted_name: str) -> None:
        """White space inside and outside of quotes is ignored."""
        answer = Talk(tool, None, upload(CAT)).vary(quoted_name.format(name_of(CAT)))
        assert answer.text.startswith(f"Made 1 variation of {name_of(CAT)},")

    @pytest.mark.parametrize("style", [str, str.upper])
    def test_a_file_is_not_mistaken_for_an_upload(
        self, tool: ImageVariationTool, tmp_path: Path, style: Any
    ) -> None:
        """If a file has the name of an upload, the text and the results say that it is a file."""
        name = f"{style(name_of(CAT))}.png"
        (tmp_path / name).write_bytes(LAKE)
        answer = Talk(tool, "t-1", upload(CAT)).vary(name)
        assert answer.text.startswith(f"Made 1 variation of {name},")
        assert answer.artifact["images"][0]["handle"].startswith("image-")
        assert files(answer, tmp_path) == expected(tmp_path, LAKE)

    @pytest.mark.parametrize("thread", [None, "t-1"])
    def test_a_number_is_not_a_name(self, tool: ImageVariationTool, thread: str | None) -> None:
        """Images have no numbers. The answer to `img_1` lists their names and sizes."""
        talk = Talk(tool, thread, upload(CAT), upload(LAKE))
        answer = talk.vary("img_1")
        assert answer.status == "error"
        assert answer.text == (
            f"There is no image 'img_1' here. In this conversation: {name_of(CAT)} (64x64), "
            f"{name_of(LAKE)} (65x65, the newest)."
        )

    def test_an_image_is_found_in_another_process(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """A tool that starts later finds an upload whose message is gone, and lists it."""
        Talk(tool, "t-1", upload(CAT)).vary("no")
        talk = Talk(ImageVariationTool(root_dir=tmp_path, engine="instant"), "t-1", SUMMARY)
        assert talk.vary("latest").text == (
            "There is no image in the messages of this conversation. "
            f"Earlier images: {name_of(CAT)} (64x64)."
        )
        assert files(talk.vary(name_of(CAT)), tmp_path) == expected(tmp_path, CAT)

    def test_a_name_means_the_image_in_every_form(self, tool: ImageVariationTool) -> None:
        """An image has one name, however a message contains it."""
        text = base64.b64encode(CAT).decode()
        lines = "\r\n ".join(text[start : start + 76] for start in range(0, len(text), 76))
        percent = "".join(f"%{byte:02x}" for byte in CAT)
        blocks: list[dict[str, Any]] = [
            {"type": "image", "base64": text, "mime_type": "image/png"},
            {"type": "image", "base64": lines, "mime_type": "image/jpeg"},
            {"type": "image", "base64": text.rstrip("="), "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{lines}"}},
            {"type": "image_url", "image_url": f"data:,{percent}"},
            {"image": {"format": "png", "source": {"bytes": CAT}}},
            {"type": "media", "mime_type": "image/png", "data": text},
        ]
        for block in blocks:
            (image,) = block_images(block)
            assert image.identity is not None
            assert (image.identity.name, image.identity.size) == (name_of(CAT), (64, 64))
        talk = Talk(tool, "t-1", *(HumanMessage([block]) for block in blocks))
        assert talk.vary(name_of(CAT)).status == "success"
        assert kept_names(tool) == [name_of(CAT)]

    def test_an_upright_image_has_its_upright_size(self) -> None:
        """The size of a photo is that of the upright image, and no size is made up."""
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (96, 64)).save(file, "JPEG", exif=exif)
        assert identify(file.getvalue()).size == (64, 96)
        assert identify(jpeg()).size == (96, 64)
        for data in (CAT[:20], jpeg()[:30], b"", b"%PDF-1.7"):
            assert identify(data).size is None

    def test_two_images_of_one_name_are_refused(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """If two images share the digits of a name, it is refused, even after one was removed."""
        first, second = colliding_images()
        talk = Talk(tool, "t-1", upload(first), upload(DOG))
        assert files(talk.vary(name_of(first)), tmp_path) == expected(tmp_path, first)
        talk.messages.append(upload(second))
        for messages in (talk.messages, [upload(first)], [upload(second)], [SUMMARY]):
            answer = Talk(tool, "t-1", *messages).vary(name_of(first))
            assert answer.text.startswith(f"Several images have the name {name_of(first)}.")
        latest = Talk(tool, "t-1", upload(first), upload(second)).vary("latest")
        assert files(latest, tmp_path) == expected(tmp_path, second)
        assert Talk(tool, None, upload(second)).vary(name_of(first)).status == "success"

    def test_the_latest_image_is_in_the_messages(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """`latest` is never an older image, an image of a folder or a result that is gone."""
        (tmp_path / "latest").write_bytes(DOG)
        talk = Talk(tool, "t-1", upload(CAT))
        handle = talk.vary("latest").artifact["images"][0]["handle"]
        summarize(talk)
        answer = talk.vary("latest")
        assert answer.text == (
            "There is no image in the messages of this conversation. Earlier images: "
            f"{name_of(CAT)} (64x64). Earlier results: {handle}."
        )
        # A script has no messages.
        script = tool.invoke(call(image="latest"), {"configurable": {"thread_id": "t-1"}})
        assert script.text.startswith(f"Made 1 variation of {handle},")

    def test_lists_start_with_the_oldest_and_say_if_they_are_cut(
        self, tool: ImageVariationTool
    ) -> None:
        """A model reads which of the earlier images is the newest, and that there are others."""
        pngs = [square_png(side) for side in range(30, 43)]
        talk = Talk(tool, "t-1", *map(upload, pngs))
        answers = [talk.vary(name_of(png)) for png in pngs]
        handles = [answer.artifact["images"][0]["handle"] for answer in answers]
        summarize(talk)
        images = [f"{name_of(png)} ({side}x{side})" for side, png in enumerate(pngs, 30)]
        assert talk.vary("img_1").text == (
            "There is no image 'img_1' here. "
            f"Earlier images, the newest first (12 of 13): {', '.join(images[:0:-1])}. "
            f"Earlier results, the newest first (12 of 13): {', '.join(handles[:0:-1])}."
        )

    def test_an_image_without_data_has_no_name(self, tool: ImageVariationTool) -> None:
        """An image without data has no name, and the error says what to ask for."""
        message = HumanMessage([{"type": "image", "file_id": "file-1"}])
        talk = Talk(tool, "t-1", upload(CAT), message)
        assert talk.vary("latest").text.startswith("The newest image: The message contains neither")
        assert talk.vary(name_of(CAT)).status == "success"
        assert kept_names(tool) == [name_of(CAT)]

    @pytest.mark.parametrize("data", [b"%PDF-1.7", b"x", b"<svg></svg>", b"GIF89a", CAT[:60]])
    def test_another_file_is_not_kept(self, tool: ImageVariationTool, data: bytes) -> None:
        """A file that is not an image in a supported format has a name, and is refused."""
        talk = Talk(tool, "t-1", upload(data))
        for image in ("latest", name_of(data)):
            assert talk.vary(image).text.startswith(f"{name_of(data)}: ")
        is_recognized = data.startswith((b"GIF", b"\x89PNG"))
        assert kept_names(tool) == ([name_of(data)] if is_recognized else [])

    def test_invalid_base64_has_no_name(self, tool: ImageVariationTool) -> None:
        """An image whose base64 is not valid has no name, and it does not hide the others."""
        block = {"type": "image", "base64": "!" * 100, "mime_type": "image/png"}
        talk = Talk(tool, "t-1", upload(CAT), HumanMessage([block]))
        assert talk.vary("latest").text.startswith("The newest image: The data: URL does not")
        assert talk.vary(name_of(CAT)).status == "success"


def colliding_images() -> tuple[bytes, bytes]:
    """Return two different images whose names are equal."""
    images: dict[str, bytes] = {}
    for number in count():
        # Decoders ignore what follows the end of a file.
        data = (CAT, LAKE)[number % 2] + number.to_bytes(4)
        digits = hashlib.sha256(data).hexdigest()[:8]
        other = images.setdefault(digits, data)
        if len(other) != len(data):
            assert name_of(other) == name_of(data)
            return other, data
    raise AssertionError


class TestLimits:
    """A conversation keeps its uploads within the limits of the settings."""

    @pytest.mark.parametrize("output_dir", PLACES)
    def test_the_least_recently_used_are_deleted(self, tmp_path: Path, output_dir: str) -> None:
        """Beyond `max_uploads`, the image that was used last and those in messages stay."""
        tool = ImageVariationTool(
            root_dir=tmp_path, engine="instant", output_dir=output_dir, max_uploads=2
        )
        talk = Talk(tool, "t-1", upload(CAT), upload(LAKE), upload(DOG))
        assert talk.vary(name_of(CAT)).status == "success"
        assert kept_names(tool) == names_of(CAT, DOG)
        summarize(talk, upload(LAKE))
        assert talk.vary(name_of(CAT)).status == "success"
        assert kept_names(tool) == names_of(CAT, LAKE)
        assert talk.vary(name_of(DOG)).text.startswith(f"There is no image {name_of(DOG)} here.")

    def test_an_upload_that_was_varied_counts_as_used(self, tmp_path: Path) -> None:
        """Of two older uploads, the one that was varied last is kept longer."""
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", max_uploads=2)
        talk = Talk(tool, "t-1", upload(CAT), upload(LAKE))
        talk.vary("no")
        for image, messages in ((CAT, talk.messages), (LAKE, [SUMMARY]), (CAT, [SUMMARY])):
            assert Talk(tool, "t-1", *messages).vary(name_of(image)).status == "success"
        Talk(tool, "t-1", upload(DOG)).vary("no")
        assert kept_names(tool) == names_of(CAT, DOG)

    def test_a_clock_that_is_set_back_favors_no_old_upload(self, tmp_path: Path) -> None:
        """After the clock was set back, new uploads and used ones still count as newer."""
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", max_uploads=2)
        talk = Talk(tool, "t-1", upload(CAT))
        talk.vary("latest")
        tomorrow = time.time() + 86_400
        for file in folder_of(tmp_path).iterdir():
            os.utime(file, (tomorrow, tomorrow))
        for image in (LAKE, DOG):
            summarize(talk, upload(image))
            talk.vary("latest")
        assert kept_names(tool) == names_of(LAKE, DOG)
        talk.vary(name_of(LAKE))
        summarize(talk, upload(CAT))
        talk.vary("latest")
        assert kept_names(tool) == names_of(LAKE, CAT)

    def test_in_storage_a_use_is_recorded_hourly(self, tmp_path: Path) -> None:
        """In storage, an upload that is varied is written again if it is older than an hour."""
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", output_dir="bucket://kept")
        talk = Talk(tool, "t-1", upload(CAT))
        talk.vary("no")
        ((key, (_, data)),) = Bucket.objects.items()
        for age, is_renewed in ((1_000, False), (4_000, True)):
            for messages in (talk.messages, [SUMMARY]):
                old_time = time.time() - age
                Bucket.objects[key] = (old_time, data)
                assert Talk(tool, "t-1", *messages).vary(name_of(CAT)).status == "success"
                assert (Bucket.objects[key] == (old_time, data)) == (not is_renewed)

    def test_uploads_stay_within_the_byte_limit(self, tmp_path: Path) -> None:
        """All uploads together have at most `max_upload_bytes`, and a larger one is not kept."""
        pictures = [noise(side) for side in (40, 41, 42, 100)]
        limit = len(pictures[1]) + len(pictures[2])
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", max_upload_bytes=limit)
        talk = Talk(tool, "t-1", *map(upload, pictures))
        assert talk.vary("latest").status == "success"
        assert kept_names(tool) == names_of(*pictures[1:3])
        smaller = ImageVariationTool(
            root_dir=tmp_path, engine="instant", max_upload_bytes=len(pictures[2])
        )
        Talk(smaller, "t-1", SUMMARY).vary("no")
        assert kept_names(tool) == names_of(pictures[2])

    def test_an_old_unused_upload_is_deleted(self, tmp_path: Path) -> None:
        """An unused upload is deleted at `max_upload_age`, unless it is in a message."""
        tool = ImageVariationTool(
            root_dir=tmp_path, engine="instant", max_upload_age=timedelta(days=1)
        )
        talk = Talk(tool, "t-1", upload(CAT), upload(LAKE), upload(DOG))
        talk.vary("no")
        for path in folder_of(tmp_path).iterdir():
            os.utime(path, (0, 0))
        summarize(talk, upload(DOG))
        # The image that a call uses is renewed.
        assert talk.vary(name_of(LAKE)).status == "success"
        assert kept_names(tool) == names_of(LAKE, DOG)
        times = {path.name[:12]: path.stat().st_mtime for path in folder_of(tmp_path).iterdir()}
        assert times[name_of(LAKE)] > times[name_of(DOG)] == 0

    def test_zero_keeps_none(self, tmp_path: Path) -> None:
        """With `max_uploads=0`, images in messages are found by name, and none is kept."""
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", max_uploads=0)
        talk = Talk(tool, "t-1", upload(CAT))
        assert talk.vary(name_of(CAT)).status == "success"
        summarize(talk)
        assert talk.vary(name_of(CAT)).status == "error"
        assert not folder_of(tmp_path).exists()

    def test_without_a_thread_nothing_is_kept(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """Without a thread, there is no folder for uploads."""
        talk = Talk(tool, None, upload(CAT))
        assert talk.vary(name_of(CAT)).status == "success"
        summarize(talk)
        answer = talk.vary(name_of(CAT))
        assert answer.text.startswith(f"There is no image {name_of(CAT)} here. Ask the user")
        assert [*tmp_path.rglob("uploads")] == []

    @pytest.mark.slow
    def test_a_thousand_uploads_are_found_again(self, tmp_path: Path) -> None:
        """A thousand images are kept and found again, and only the newest are listed."""
        tool = ImageVariationTool(root_dir=tmp_path, engine="instant", max_uploads=1000)
        pictures = [CAT + number.to_bytes(2) for number in range(1000)]
        talk = Talk(tool, "t-1", *map(upload, pictures))
        talk.vary(name_of(pictures[0]))
        assert len(kept_names(tool)) == 1000
        summarize(talk)
        answer = talk.vary("img_1")
        assert answer.text.count("img_") == 13
        assert len(answer.text) < 500
        assert talk.vary(name_of(pictures[500])).status == "success"

    @pytest.mark.parametrize(
        "setting",
        [
            {"max_uploads": -1},
            {"max_uploads": MAX_UPLOADS + 1},
            {"max_upload_bytes": 0},
            {"max_upload_age": timedelta(0)},
        ],
        ids=str,
    )
    def test_a_wrong_limit_is_refused(self, tmp_path: Path, setting: dict[str, Any]) -> None:
        """A limit out of range is refused on construction."""
        with pytest.raises(ValueError, match=next(iter(setting))):
            ImageVariationTool(root_dir=tmp_path, engine="instant", **setting)


def noise(side: int) -> bytes:
    """Return an image that cannot be compressed."""
    file = io.BytesIO()
    Image.frombytes("L", (side, side), os.urandom(side * side)).save(file, "PNG", compress_level=0)
    return file.getvalue()


class TestHostileFiles:
    """A file in the folder of uploads counts only if it is what the tool wrote."""

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            *((kind, "There is no image {} here.") for kind in ("link", "folder", "missing")),
            *(
                (kind, "The file of {} was deleted or changed.")
                for kind in ("hard link", "other", "cut", "huge")
            ),
        ],
    )
    def test_a_changed_file_is_refused(
        self, tool: ImageVariationTool, tmp_path: Path, kind: str, text: str
    ) -> None:
        """Links, folders and files with another content are neither varied nor listed."""
        talk = Talk(tool, "t-1", upload(CAT))
        talk.vary("no")
        (path,) = folder_of(tmp_path).iterdir()
        outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
        outside.write_bytes(LAKE if kind == "other" else CAT)
        path.unlink()
        if kind == "link":
            path.symlink_to(outside)
        elif kind == "hard link":
            path.hardlink_to(outside)
        elif kind == "folder":
            path.mkdir()
        elif kind != "missing":
            path.write_bytes(LAKE if kind == "other" else CAT[:-1])
            if kind == "huge":
                os.truncate(path, 200 * 2**20)
        answer = Talk(tool, "t-1", SUMMARY).vary(name_of(CAT))
        assert answer.status == "error"
        assert answer.text.startswith(text.format(name_of(CAT)))
        assert "Earlier images" not in answer.text
        # The image in the message is still the image.
        assert files(talk.vary(name_of(CAT)), tmp_path) == expected(tmp_path, CAT)
        outside.unlink()

    def test_a_file_of_another_length_is_replaced(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """A file that is incomplete is written again while a message has the image."""
        talk = Talk(tool, "t-1", upload(CAT))
        talk.vary("no")
        (path,) = folder_of(tmp_path).iterdir()
        path.write_bytes(CAT[:-1])
        talk.vary("no")
        assert path.read_bytes() == CAT

    # A developer may link the folder of a conversation to another folder inside the root.
    @pytest.mark.parametrize(
        ("target", "depth"), [("../outside", 0), ("../outside", 1), ("inside", 0)]
    )
    def test_a_linked_folder_is_not_used(self, tmp_path: Path, target: str, depth: int) -> None:
        """Through a link in place of a folder, nothing is read, written or deleted."""
        (tmp_path / "root").mkdir()
        tool = ImageVariationTool(root_dir=tmp_path / "root", engine="instant", max_uploads=1)
        Talk(tool, "owner", upload(CAT)).vary("no")
        folder = folder_of(tmp_path / "root", "owner")
        linked_folder = (folder, folder.parent)[depth]
        linked_folder.rename(tmp_path / "root" / target)
        other = folder_of(tmp_path / "root", "t-1")
        link = (other, other.parent)[depth]
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "root" / target)
        (path,) = (tmp_path / "root" / target).rglob("img_*")
        if depth == 0:
            assert Talk(tool, "t-1", SUMMARY).vary(name_of(CAT)).status == "error"
            assert Talk(tool, "t-1", upload(LAKE)).vary("latest").status == "success"
        else:
            for talk, name in (
                (Talk(tool, "t-1", SUMMARY), name_of(CAT)),
                (Talk(tool, "t-1", upload(LAKE)), "latest"),
            ):
                with pytest.raises(SourceError):
                    talk.vary(name)
        assert path.read_bytes() == CAT
        assert len([*path.parent.iterdir()]) == 1

    def test_other_files_are_left_alone(self, tool: ImageVariationTool, tmp_path: Path) -> None:
        """Files of another name are neither listed nor deleted, except old temporary files."""
        folder = folder_of(tmp_path)
        folder.mkdir(parents=True)
        new, old = f".{'0' * 16}.part", f".{'1' * 16}.part"
        names = ["notes.txt", "img_7c1e09ab.png", f"img_{'0' * 64}.svg", new, old]
        for name in names:
            (folder / name).write_bytes(LAKE)
        os.utime(folder / old, (0, 0))
        answer = Talk(tool, "t-1", SUMMARY).vary("img_7c1e09ab")
        assert answer.text.startswith("There is no image img_7c1e09ab here. Ask the user")
        assert sorted(os.listdir(folder)) == sorted(set(names) - {old})

    def test_another_conversation_is_out_of_reach(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """No name, path or forged message reaches an upload of another conversation."""
        Talk(tool, "owner", upload(CAT)).vary("no")
        (path,) = folder_of(tmp_path, "owner").iterdir()
        relative_path = path.relative_to(tmp_path).as_posix()
        forgery = {
            "handle": "mine",
            "path": relative_path,
            "sha256": hashlib.sha256(CAT).hexdigest(),
        }
        message = ToolMessage("Made 1.", tool_call_id="x", artifact={"images": [forgery]})
        for thread in ("thief", None):
            talk = Talk(tool, thread, message)
            for name in (name_of(CAT), relative_path, path.name, path.stem, "mine", "latest"):
                answer = talk.vary(name)
                assert answer.status == "error"
                assert "Earlier images" not in answer.text
        named = ToolMessage(
            "Made 1.", tool_call_id="x", artifact={"images": [{**forgery, "handle": name_of(CAT)}]}
        )
        assert Talk(tool, "thief", named).vary(name_of(CAT)).status == "error"
        assert Talk(tool, "thief", upload(CAT)).vary(name_of(CAT)).status == "success"


class TestFailures:
    """A call continues if an upload cannot be kept, and a warning is logged once."""

    def test_a_full_disk_does_not_end_a_call(
        self, tool: ImageVariationTool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On a full disk, the image is varied but not kept, and no part of it stays."""
        log_hint.cache_clear()
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        picture = noise(300)
        talk = Talk(tool, "t-1", upload(picture))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            answers = [talk.vary(name) for name in ("latest", name_of(picture), name_of(picture))]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [answer.status for answer in answers] == ["success"] * 3
        assert [*folder_of(tmp_path).iterdir()] == []
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "An image of a message cannot be kept for later calls" in caplog.text
        assert str(tmp_path) not in caplog.text
        talk.vary("no")
        assert kept_names(tool) == [name_of(picture)]

    def test_a_file_in_place_of_the_folder_does_not_end_a_call(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """If there is a file in place of the folder, calls go on."""
        folder = folder_of(tmp_path)
        folder.parent.mkdir(parents=True)
        folder.write_bytes(b"x")
        talk = Talk(tool, "t-1", upload(CAT))
        assert talk.vary(name_of(CAT)).status == "success"
        assert folder.read_bytes() == b"x"

    @pytest.mark.parametrize("fault", ["list", "write", "remove"])
    def test_a_failing_store_does_not_end_a_call(
        self, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If a store fails, an image in a message can still be varied, and no text shows why."""
        tool = ImageVariationTool(
            root_dir=tmp_path,
            engine="instant",
            output_dir="bucket://kept",
            max_uploads=1,
            raise_on=(),
        )
        talk = Talk(tool, "t-1", upload(CAT))
        talk.vary("no")
        Bucket.failing.add(fault)
        talk.messages.append(upload(LAKE))
        answer = talk.vary(name_of(LAKE))
        assert answer.status == ("error" if fault == "write" else "success")
        assert SECRET not in answer.text + caplog.text

    def test_parallel_calls_keep_whole_files(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """Parallel calls of one conversation, and of others, keep whole files."""
        pictures = [square_png(20 + index) for index in range(12)]

        def run(index: int) -> ToolMessage:
            talk = Talk(tool, f"t-{index % 2}", *map(upload, pictures[: index % 12 + 1]))
            return talk.vary(name_of(pictures[index % 12]))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(run, range(48)))
        assert {answer.status for answer in answers} == {"success"}
        for thread in ("t-0", "t-1"):
            for path in folder_of(tmp_path, thread).iterdir():
                assert name_of(path.read_bytes()) == path.name[:12]

    @pytest.mark.slow
    def test_parallel_processes_vary_the_right_image(
        self, tool: ImageVariationTool, tmp_path: Path
    ) -> None:
        """Processes that delete each other's uploads vary the right image or none."""
        context = multiprocessing.get_context("spawn")
        with context.Pool(3) as pool:
            reports = pool.map(vary_repeatedly, [(str(tmp_path), seed) for seed in range(3)])
        assert all(reports)
        for path in folder_of(tmp_path).iterdir():
            assert name_of(path.read_bytes()) == path.name[:12]


def vary_repeatedly(arguments: tuple[str, int]) -> bool:
    """Vary images of one conversation in this process, with a limit of three uploads."""
    root, seed = arguments
    tool = ImageVariationTool(root_dir=root, engine="instant", max_uploads=3)
    for step in range(30):
        picture = square_png(20 + (seed * 7 + step) % 10)
        answer = Talk(tool, "t-1", upload(picture)).vary(name_of(picture))
        if not answer.text.startswith(f"Made 1 variation of {name_of(picture)},"):
            return False
        earlier = Talk(tool, "t-1", SUMMARY).vary(name_of(picture))
        if earlier.status == "success" and (
            earlier.artifact["images"][0]["sha256"] != answer.artifact["images"][0]["sha256"]
        ):
            return False
    return True


class TestLinks:
    """An image by URL is named after its URL, until it was fetched and kept."""

    @pytest.fixture
    def served(self) -> dict[str, bytes]:
        """Return the images of a server by their path, which tests may change."""
        return {"/cat.png": CAT}

    @pytest.fixture
    def link_tool(self, tmp_path: Path, served: dict[str, bytes]) -> ImageVariationTool:
        """Return a tool that may fetch from that server."""
        transport = httpx.MockTransport(
            lambda request: httpx.Response(200, content=served[request.url.path])
        )
        policy = URLPolicy(
            hosts=["images.example"], resolve=lambda *_: ["93.184.215.14"], transport=transport
        )
        return ImageVariationTool(root_dir=tmp_path, engine="instant", urls=policy)

    def test_a_fetched_image_keeps_its_content(
        self, link_tool: ImageVariationTool, tmp_path: Path, served: dict[str, bytes]
    ) -> None:
        """Once it was fetched, an image by URL never changes, even without its message."""
        url = "https://images.example/cat.png"
        name = f"img_{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        talk = Talk(link_tool, "t-1", HumanMessage([{"type": "image", "url": url}]))
        talk.vary("no")
        assert kept_names(link_tool) == []
        assert files(talk.vary("latest"), tmp_path) == expected(tmp_path, CAT)
        served["/cat.png"] = LAKE
        assert kept_names(link_tool) == [name]
        assert files(talk.vary(name), tmp_path) == expected(tmp_path, CAT)
        summarize(talk)
        assert f"Earlier images: {name} (64x64)." in talk.vary("no").text
        assert files(talk.vary(name), tmp_path) == expected(tmp_path, CAT)
        # Another conversation has not fetched it yet.
        other = Talk(link_tool, "t-2", HumanMessage([{"type": "image", "url": url}]))
        assert files(other.vary(name), tmp_path) == expected(tmp_path, LAKE)

    def test_a_changed_copy_is_not_fetched_again(
        self, link_tool: ImageVariationTool, tmp_path: Path, served: dict[str, bytes]
    ) -> None:
        """If the copy of a fetched image was changed, its name no longer finds it."""
        url = "https://images.example/cat.png"
        talk = Talk(link_tool, "t-1", HumanMessage([{"type": "image", "url": url}]))
        assert talk.vary("latest").status == "success"
        (path,) = folder_of(tmp_path).iterdir()
        path.write_bytes(DOG)
        message = HumanMessage([{"type": "image", "url": url}])
        answer = Talk(link_tool, "t-1", message).vary("latest")
        assert "was deleted or changed." in answer.text

    def test_a_page_is_not_kept(
        self, link_tool: ImageVariationTool, served: dict[str, bytes]
    ) -> None:
        """What a URL returns is kept only if it is an image."""
        served["/cat.png"] = b"<html>Log in</html>"
        message = HumanMessage([{"type": "image", "url": "https://images.example/cat.png"}])
        assert Talk(link_tool, "t-1", message).vary("latest").status == "error"
        assert kept_names(link_tool) == []


def test_images_are_kept_without_a_call(tool: ImageVariationTool) -> None:
    """The images of messages can be kept before a call, and an image without data is not."""
    link = {"type": "image", "url": "https://images.example/cat.png"}
    messages = [
        upload(CAT),
        HumanMessage([link]),
        HumanMessage([{"type": "image", "file_id": "x"}]),
    ]
    images = collect_images(messages)
    keep_images(tool, Conversation(images))
    assert kept_names(tool) == []
    keep_images(tool, Conversation(images, scope_name("t-1")))
    assert kept_names(tool) == [name_of(CAT)]


async def test_async_calls_keep_images(tool: ImageVariationTool, tmp_path: Path) -> None:
    """Async calls keep images and find them, many at a time."""
    pictures = [square_png(20 + index) for index in range(8)]
    talks = [Talk(tool, "t-1", upload(picture)) for picture in pictures]
    await asyncio.gather(*(talk.avary("latest") for talk in talks))
    assert kept_names(tool) == names_of(*pictures)
    for talk, picture in zip(talks, pictures, strict=True):
        summarize(talk)
        assert files(await talk.avary(name_of(picture)), tmp_path) == expected(tmp_path, picture)


def test_the_memory_of_identities_keeps_no_image() -> None:
    """What is remembered of an image does not keep its data alive, and stays small."""
    import gc
    import weakref

    class Text(str):
        """A string that can be watched."""

        __slots__ = ("__weakref__",)

    text = Text(base64.b64encode(noise(30)).decode())
    reference = weakref.ref(text)
    image = MessageImage(None, text)
    assert image.identity == MessageImage(None, str(text)).identity
    del text, image
    gc.collect()
    assert reference() is None
