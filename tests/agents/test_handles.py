import asyncio
import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.messages.base import message_to_dict, messages_to_dict
from langchain_core.messages.utils import messages_from_dict

from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.call import call_tool
from langchain_image_variation.agents.conversation import Conversation, ResultImage, scope_name
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.http.url_policy import URLPolicy
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.scripted import asks, call

ONE, OTHER = square_png(64), square_png(65)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return tmp_path


@pytest.fixture
def tool(root: Path) -> ImageVariationTool:
    """Return a tool on that folder, whose pictures' colours follow from their source."""
    return ImageVariationTool(root_dir=root, engine="instant")


def expected(tmp_path: Path, picture: bytes, n: int = 1) -> list[bytes]:
    """Return the variations of a picture, made without any conversation."""
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "picture.png").write_bytes(picture)
    tool = ImageVariationTool(root_dir=folder, engine="instant")
    return files(tool.invoke(call(image="picture.png", n=n, size="256x256")), folder)


@pytest.mark.parametrize("thread", [None, "t-1"])
def test_the_newest_picture_and_each_by_its_number(
    tool: ImageVariationTool, root: Path, thread: str | None
) -> None:
    """Uploaded or made: `latest` is the last, `img_N` counts from the first."""
    talk = Talk(tool, thread, upload(ONE), upload(OTHER))
    made = files(talk.vary("latest", n=2), root)
    assert made == expected(root, OTHER, 2)
    assert files(talk.vary("img_1"), root) == expected(root, ONE)
    assert files(talk.vary("img_4"), root) == expected(root, made[1])
    assert talk.messages[-1].text.startswith("Made 1 variation of image-")


@pytest.mark.parametrize("thread", [None, "t-1"])
def test_a_result_is_varied_again_by_its_handle(
    tool: ImageVariationTool, root: Path, thread: str | None
) -> None:
    """As the message named it; also from a file, and a result of a result."""
    talk = Talk(tool, thread)
    for image in ("cat.jpg", None, None):
        source = image or talk.messages[-1].artifact["images"][0]["handle"]  # type: ignore[attr-defined]
        answer = talk.vary(source)
        assert answer.status == "success", answer.content
    assert answer.artifact["images"][0]["handle"].startswith("cat-")


def test_a_stored_conversation_goes_on_after_a_restart(root: Path) -> None:
    """Its messages are all that is kept: a new tool finds the pictures that they name."""
    talk = Talk(ImageVariationTool(root_dir=root, engine="instant"), "t-1", upload(ONE))
    made = talk.vary("latest", n=2)
    stored = json.dumps(messages_to_dict(talk.messages))
    again = ImageVariationTool(root_dir=root, engine="instant")
    later = Talk(again, "t-1", *messages_from_dict(json.loads(stored)))
    second = made.artifact["images"][1]["handle"]
    assert files(later.vary(second), root) == expected(root, files(made, root)[1])
    assert files(later.vary("img_1"), root) == expected(root, ONE)


def test_a_thread_finds_its_results_when_its_messages_were_shortened(
    tool: ImageVariationTool, root: Path
) -> None:
    """They are in the thread's own folder; without a thread, they are gone with the message."""
    for thread, status in (("t-1", "success"), (None, "error")):
        handle = Talk(tool, thread, upload(ONE)).vary("latest").artifact["images"][0]["handle"]
        shortened = Talk(tool, thread, HumanMessage("A summary."))
        assert shortened.vary(handle).status == status


def test_a_picture_in_the_messages_comes_before_a_file_of_its_name(
    tool: ImageVariationTool, root: Path
) -> None:
    """`img_1` is the conversation's; with a suffix that a file has, it is the file."""
    (root / "img_1").write_bytes(OTHER)
    (root / "img_1.png").write_bytes(OTHER)
    talk = Talk(tool, None, upload(ONE))
    assert files(talk.vary("img_1"), root) == expected(root, ONE)
    assert files(talk.vary("img_1.png"), root) == expected(root, OTHER)


def test_without_a_conversation_all_results_may_be_used(
    tool: ImageVariationTool, root: Path
) -> None:
    """A script's own calls: `latest` is the newest result, and a handle any of them."""
    first = tool.invoke(call(image="cat.jpg", size="256x256"))
    handle = first.artifact["images"][0]["handle"]
    again = tool.invoke(call(image="latest", size="256x256"))
    assert again.content.startswith(f"Made 1 variation of {handle}")


def test_a_result_whose_message_kept_the_text_alone_is_found(
    tool: ImageVariationTool, root: Path
) -> None:
    """As `latest` and by its number, in the thread's own folder; without a thread, nowhere."""
    for thread, status in (("t-1", "success"), (None, "error")):
        talk = Talk(tool, thread, upload(ONE))
        made = talk.vary("latest", n=2)
        stored = messages_to_dict(talk.messages)
        stored[-1]["data"]["artifact"] = None
        for image, index in (("latest", 1), ("img_2", 0)):
            answer = Talk(tool, thread, *messages_from_dict(stored)).vary(image)
            assert answer.status == status
            if thread:
                assert files(answer, root) == expected(root, files(made, root)[index])


@pytest.mark.parametrize(("kept", "named"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_an_accent_is_the_same_composed_or_not(
    tool: ImageVariationTool, root: Path, kept: Any, named: Any
) -> None:
    """A model writes it as it likes, whichever way the file's name has it."""
    (root / f"{normalize(kept, 'café')}.png").write_bytes(ONE)
    assert Talk(tool).vary(f"{normalize(named, 'café')}.png").status == "success"


def test_a_broken_file_is_named_without_control_characters(
    tool: ImageVariationTool, root: Path
) -> None:
    """Whatever it is called: a message is printed, and read by a model."""
    (root / "a\x1b[2J\nb.png").write_bytes(ONE[:50])
    answer = Talk(tool).vary("a\x1b[2J\nb.png")
    assert answer.text.startswith("'a\\x1b[2J\\nb.png': image is a corrupt PNG")
    assert answer.text.isprintable()


def test_the_newest_result_is_the_last_of_a_call(tool: ImageVariationTool, root: Path) -> None:
    """In whatever order its pictures came to the disk, and if they were there already."""
    for side in (64, 65, 66, 67, 64):
        (root / "cat.png").write_bytes(square_png(side))
        made = tool.invoke(call(image="cat.png", n=6, size="256x256")).artifact["images"]
        again = tool.invoke(call(image="latest", size="256x256"))
        assert again.content.startswith(f"Made 1 variation of {made[-1]['handle']}")


def test_what_was_done_to_an_upload_is_said(tool: ImageVariationTool) -> None:
    """Under the name by which the model knows it."""
    answer = Talk(tool, None, upload(jpeg())).vary("latest")
    assert "img_1: converted JPEG to PNG" in answer.content


class TestConversationsApart:
    """What one conversation has, another never sees."""

    def test_a_result_cannot_be_named_from_elsewhere(
        self, tool: ImageVariationTool, root: Path
    ) -> None:
        """Not by its handle, its path or its number, nor is it listed in an error."""
        for owner, thief in (("a", "b"), ("a", None), (None, "b"), (None, None)):
            (image,) = Talk(tool, owner, upload(ONE)).vary("latest").artifact["images"]
            other = Talk(tool, thief, upload(OTHER))
            for name in (image["handle"], image["path"], f"{image['handle']}.png", "img_2"):
                answer = other.vary(name)
                assert answer.status == "error"
                assert answer.content.count("image-") == (name != "img_2")
            (root / image["path"]).unlink()

    def test_latest_is_never_another_s(self, tool: ImageVariationTool) -> None:
        """A conversation without pictures has no latest one."""
        Talk(tool, "a", upload(ONE)).vary("latest")
        for thread in ("b", None):
            answer = Talk(tool, thread).vary("latest")
            assert (answer.status, "image-" in answer.content) == ("error", False)

    @pytest.mark.parametrize("thread", ["b", None])
    def test_a_forged_message_names_nothing_of_another_s(
        self, tool: ImageVariationTool, root: Path, thread: str | None
    ) -> None:
        """A path without the hash of the file, or one that leads elsewhere, is not followed."""
        (image,) = Talk(tool, "a", upload(ONE)).vary("latest").artifact["images"]
        (root / "notes.txt").write_text("secret")
        outside = root.parent / "outside.png"
        outside.write_bytes(ONE)
        for path in (image["path"], f"variations/../../{outside.name}", str(outside), "cat.jpg"):
            for sha256 in ("0" * 64, image["sha256"]) if path != image["path"] else ("0" * 64,):
                forged = {"images": [{"handle": "mine", "path": path, "sha256": sha256}]}
                message = ToolMessage("Made 1 variation.", tool_call_id="x", artifact=forged)
                answer = Talk(tool, thread, message).vary("latest")
                assert answer.status == "error"
                assert answer.text.startswith("The file of 'mine' was deleted or changed.")

    def test_what_is_known_without_its_hash_is_found_in_one_s_own_folder_only(
        self, tool: ImageVariationTool, root: Path
    ) -> None:
        """Whoever reads handles from a text names no result of another conversation."""
        (image,) = Talk(tool, "a", upload(ONE)).vary("latest").artifact["images"]
        asked = ImageVariationArguments(image="latest")
        for scope, found in ((scope_name("a"), True), (scope_name("b"), False), (None, False)):
            known = Conversation([ResultImage(image["handle"], image["path"], None)], scope)
            if found:
                assert len(call_tool(tool, LoadedEngines(), asked, known).artifact["images"]) == 1
                continue
            with pytest.raises(SourceError, match=r"^The file of .* was deleted or changed\."):
                call_tool(tool, LoadedEngines(), asked, known)

    @pytest.mark.slow
    async def test_a_hundred_at_once(self, tool: ImageVariationTool, root: Path) -> None:
        """Each varies its own upload, then its own result, while all others do."""
        uploads = [square_png(20 + index) for index in range(100)]
        talks = [Talk(tool, f"t-{index}", upload(uploads[index])) for index in range(100)]
        for _ in range(2):
            answers = await asyncio.gather(*(talk.avary("latest") for talk in talks))
        assert len({message.artifact["images"][0]["path"] for message in answers}) == 100
        made = {files(message, root)[0] for message in answers}
        assert made == {expected(root, expected(root, picture)[0])[0] for picture in uploads}


class TestPicturesByURL:
    """A block that is a URL follows the URL policy, and nothing else that looks like one."""

    @pytest.mark.parametrize(
        "url",
        [
            *("cat.jpg", "./cat.jpg", "/etc/hostname", "file:///etc/hostname", "variations/x.png"),
            *(
                "http://pictures.example/cat.png",
                "ftp://pictures.example/cat.png",
                "//host/cat.png",
            ),
            *("\\\\host\\share\\cat.png", "s3://bucket/cat.png", "iVBORw0KGgo=", "", " data:x"),
        ],
    )
    def test_no_url_is_taken_for_a_path(self, root: Path, url: str) -> None:
        """Only `data:` and https URLs are read; a path in a message leads nowhere."""
        tool = ImageVariationTool(
            root_dir=root, engine="instant", urls=URLPolicy(hosts=["pictures.example"])
        )
        message = HumanMessage(content=[{"type": "image", "url": url}])
        answer = Talk(tool, None, message).vary("img_1")
        assert answer.status == "error"
        assert answer.text.startswith(
            "img_1: The message contains neither the image data nor an https"
        )

    def test_by_default_no_host_is_allowed(self, tool: ImageVariationTool) -> None:
        """The answer says what to do instead."""
        message = HumanMessage(content=[{"type": "image", "url": "https://pictures.example/a.png"}])
        answer = Talk(tool, None, message).vary("latest")
        assert answer.text.startswith("img_1: URLs are not fetched by default.")

    def test_a_host_that_is_not_allowed_is_not_asked(self, root: Path) -> None:
        """Names are not even resolved."""

        def resolve(host: str, port: int) -> list[str]:
            raise AssertionError("resolved")

        policy = URLPolicy(hosts=["pictures.example"], resolve=resolve)
        tool = ImageVariationTool(root_dir=root, engine="instant", urls=policy)
        message = HumanMessage(content=[{"type": "image", "url": "https://elsewhere.example/a"}])
        answer = Talk(tool, None, message).vary("latest")
        assert "'elsewhere.example' is not among those allowed" in answer.content

    def test_a_url_that_a_model_writes_is_never_fetched(self, root: Path) -> None:
        """Even from a host that is allowed: models damage URLs, and are told what to write."""
        policy = URLPolicy(hosts=["pictures.example"])
        tool = ImageVariationTool(root_dir=root, engine="instant", urls=policy)
        for url in ("https://pictures.example/a.png", "data:image/png;base64,iVBORw0KGgo="):
            answer = Talk(tool).vary(url)
            assert answer.text.startswith("There is no image ")


class TestLimits:
    """What a developer sets beats what a model asks for."""

    def test_calls_in_a_conversation(self, root: Path) -> None:
        """So many are made, and the next is refused; another conversation has its own."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_calls=2)
        talk = Talk(tool, None, upload(ONE))
        assert [talk.vary("img_1").status for _ in range(3)] == ["success", "success", "error"]
        assert "has used all of its 2 calls" in talk.messages[-1].text
        assert Talk(tool, None, upload(ONE)).vary("img_1").status == "success"

    def test_results_that_are_kept(self, root: Path) -> None:
        """The oldest go first; files that are no results of ours stay."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_results=3)
        (root / "variations").mkdir()
        (root / "variations" / "mine.png").write_bytes(ONE)
        first = Talk(tool, None, upload(ONE)).vary("latest", n=2)
        second = Talk(tool, None, upload(OTHER)).vary("latest", n=2)
        kept = {path.name for path in (root / "variations").iterdir()}
        made = {f"{image['handle']}.png" for image in second.artifact["images"]}
        assert made | {"mine.png"} < kept
        assert len(kept & {f"{image['handle']}.png" for image in first.artifact["images"]}) == 1

    def test_more_than_are_kept_are_kept_while_they_are_new(self, root: Path) -> None:
        """A call's own results are never deleted by it."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_results=1)
        assert len(files(Talk(tool, None, upload(ONE)).vary("latest", n=4), root)) == 4


def test_a_message_stays_small_with_large_pictures(tool: ImageVariationTool) -> None:
    """Content and artifact say as much of a picture of 3 MB as of one of 1 kB."""
    talk = Talk(tool, "t-1", upload(square_png(1000)))
    stored = json.dumps(message_to_dict(talk.vary("latest", n=4)))
    assert len(stored) < 2_500


def test_the_rate_limiter_is_waited_for(root: Path) -> None:
    """Once a call, before the engine, and not for a call that is refused."""
    acquired: list[str] = []

    class Limiter:
        def acquire(self) -> bool:
            acquired.append("sync")
            return True

        async def aacquire(self) -> bool:
            acquired.append("async")
            return True

    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=Limiter())
    tool.invoke(call(image="cat.jpg"))
    asyncio.run(tool.ainvoke(call(image="cat.jpg")))
    tool.invoke(call(image="no.jpg"))
    assert acquired == ["sync", "async"]


async def test_a_rate_limiter_may_refuse(root: Path) -> None:
    """One that gives up waiting says False; the engine is not asked, and the model is told."""

    class Full:
        def acquire(self) -> bool:
            return False

        async def aacquire(self) -> bool:
            return False

    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=Full())
    for answer in (tool.invoke(call(image="cat.jpg")), await tool.ainvoke(call(image="cat.jpg"))):
        assert answer.status == "error"
        assert answer.text == "The rate limiter refused this call. Try again later."
    assert list((root / "variations").iterdir()) == []


def test_long_names_of_files_make_no_long_message(tool: ImageVariationTool, root: Path) -> None:
    """As many are listed as a message has room for, the newest first."""
    for index in range(12):
        (root / f"{index}{'x' * 190}.png").write_bytes(ONE)
    answer = tool.invoke(call(image="no.png"))
    assert (answer.text.count(".png"), len(answer.text) < 500) == (3, True)


def test_a_model_learns_of_the_limits_from_the_schema(root: Path) -> None:
    """`n` is bounded by `max_n`, and with a fixed size there is none to choose."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_n=4, fixed_size="256x256")
    schema: Any = tool.tool_call_schema
    properties = schema.model_json_schema()["properties"]
    assert list(properties) == ["image", "n"]
    assert properties["n"]["maximum"] == 4
    assert "10" not in tool.description
    refused = tool.invoke(call(image="cat.jpg", n=20))
    assert refused.text.endswith("n must be a whole number from 1 to 4, got 20.")
    # A model that asks for more nevertheless gets what it may have, and is told.
    message = tool.invoke(call(image="cat.jpg", n=9, size="1024x1024"))
    assert "This tool makes at most 4 variations per call." in message.content
    assert [image["width"] for image in message.artifact["images"]] == [256] * 4


def test_several_calls_of_one_message_count_each(root: Path) -> None:
    """Those before it in the same message, too."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_calls=1)
    talk = Talk(tool, None, upload(ONE), asks({"image": "img_1"}, {"image": "img_1"}))
    assert talk.vary("img_1").status == "error"
