import asyncio
import hashlib
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
from langchain_image_variation.exceptions import RateLimitError, ToolCallError
from langchain_image_variation.http.url_policy import URLPolicy
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.names import name_of
from tests.agents.scripted import asks, call

ONE, OTHER = square_png(64), square_png(65)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return tmp_path


@pytest.fixture
def tool(root: Path) -> ImageVariationTool:
    """Return a tool on that folder. The colors of its results depend on the original."""
    return ImageVariationTool(root_dir=root, engine="instant")


def expected(tmp_path: Path, image: bytes, n: int = 1) -> list[bytes]:
    """Return the variations of an image, made outside of any conversation."""
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "image.png").write_bytes(image)
    tool = ImageVariationTool(root_dir=folder, engine="instant")
    return files(tool.invoke(call(image="image.png", n=n, size="256x256")), folder)


@pytest.mark.parametrize("thread", [None, "t-1"])
def test_uploads_and_results_have_names_and_an_order(
    tool: ImageVariationTool, root: Path, thread: str | None
) -> None:
    """Uploads and results are found by name, and `latest` is the last one."""
    talk = Talk(tool, thread, upload(ONE), upload(OTHER))
    results = files(talk.vary("latest", n=2), root)
    assert results == expected(root, OTHER, 2)
    assert files(talk.vary(name_of(ONE)), root) == expected(root, ONE)
    handle = talk.messages[3].artifact["images"][1]["handle"]  # type: ignore[attr-defined]
    assert files(talk.vary(handle), root) == expected(root, results[1])
    assert talk.messages[-1].text.startswith(f"Made 1 variation of {handle}")


@pytest.mark.parametrize("thread", [None, "t-1"])
def test_a_result_is_varied_by_its_handle(
    tool: ImageVariationTool, root: Path, thread: str | None
) -> None:
    """A result is varied by the handle in its message, whatever it was made of."""
    talk = Talk(tool, thread)
    for image in ("cat.jpg", None, None):
        source = image or talk.messages[-1].artifact["images"][0]["handle"]  # type: ignore[attr-defined]
        answer = talk.vary(source)
        assert answer.status == "success", answer.content
    assert answer.artifact["images"][0]["handle"].startswith("cat-")


def test_a_conversation_continues_after_a_restart(root: Path) -> None:
    """A new tool finds the images that the messages of a stored conversation name."""
    talk = Talk(ImageVariationTool(root_dir=root, engine="instant"), "t-1", upload(ONE))
    results = talk.vary("latest", n=2)
    stored_messages = json.dumps(messages_to_dict(talk.messages))
    new_tool = ImageVariationTool(root_dir=root, engine="instant")
    restored_talk = Talk(new_tool, "t-1", *messages_from_dict(json.loads(stored_messages)))
    second = results.artifact["images"][1]["handle"]
    assert files(restored_talk.vary(second), root) == expected(root, files(results, root)[1])
    assert files(restored_talk.vary(name_of(ONE)), root) == expected(root, ONE)


def test_a_thread_finds_results_of_removed_messages(tool: ImageVariationTool, root: Path) -> None:
    """Results of removed messages are found in a thread's folder, and lost without a thread."""
    for thread, status in (("t-1", "success"), (None, "error")):
        handle = Talk(tool, thread, upload(ONE)).vary("latest").artifact["images"][0]["handle"]
        shortened_talk = Talk(tool, thread, HumanMessage("A summary."))
        assert shortened_talk.vary(handle).status == status


def test_an_image_in_messages_wins_over_a_file(tool: ImageVariationTool, root: Path) -> None:
    """A name is that of an image in the conversation, never of a file without a suffix."""
    for name in (name_of(ONE), name_of(OTHER), f"{name_of(ONE)}.png"):
        (root / name).write_bytes(OTHER)
    talk = Talk(tool, None, upload(ONE))
    assert files(talk.vary(name_of(ONE)), root) == expected(root, ONE)
    assert files(talk.vary(f"{name_of(ONE)}.png"), root) == expected(root, OTHER)
    assert talk.vary(name_of(OTHER)).text.startswith(f"There is no image {name_of(OTHER)} here.")


def test_a_script_may_use_all_results(tool: ImageVariationTool, root: Path) -> None:
    """Without a conversation, `latest` is the newest result, and every handle works."""
    first = tool.invoke(call(image="cat.jpg", size="256x256"))
    handle = first.artifact["images"][0]["handle"]
    repeat = tool.invoke(call(image="latest", size="256x256"))
    assert repeat.content.startswith(f"Made 1 variation of {handle}")


def test_a_result_is_found_without_its_artifact(tool: ImageVariationTool, root: Path) -> None:
    """Only in a thread do `latest` and a handle find a result whose artifact is missing."""
    for thread, status in (("t-1", "success"), (None, "error")):
        talk = Talk(tool, thread, upload(ONE))
        results = talk.vary("latest", n=2)
        stored_messages = messages_to_dict(talk.messages)
        stored_messages[-1]["data"]["artifact"] = None
        for image, index in (("latest", 1), (results.artifact["images"][0]["handle"], 0)):
            answer = Talk(tool, thread, *messages_from_dict(stored_messages)).vary(image)
            assert answer.status == status
            if thread:
                assert files(answer, root) == expected(root, files(results, root)[index])


@pytest.mark.parametrize(
    ("file_form", "written_form"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")]
)
def test_accents_match_composed_or_not(
    tool: ImageVariationTool, root: Path, file_form: Any, written_form: Any
) -> None:
    """A name matches whether its accents are composed or decomposed."""
    (root / f"{normalize(file_form, 'café')}.png").write_bytes(ONE)
    assert Talk(tool).vary(f"{normalize(written_form, 'café')}.png").status == "success"


def test_messages_show_no_control_characters(tool: ImageVariationTool, root: Path) -> None:
    """Messages escape the control characters in the name of a corrupt file."""
    (root / "a\x1b[2J\nb.png").write_bytes(ONE[:50])
    answer = Talk(tool).vary("a\x1b[2J\nb.png")
    assert answer.text.startswith("'a\\x1b[2J\\nb.png': image is a corrupt PNG")
    assert answer.text.isprintable()


@pytest.mark.parametrize("folder", ["/home/ann/", "C:\\Users\\ann\\", "\\\\server\\ann\\"])
def test_messages_show_no_absolute_folder(tool: ImageVariationTool, folder: str) -> None:
    """If a model asks for an absolute path, the message shows only the name of the file."""
    answer = Talk(tool).vary(f"{folder}cat.png")
    assert answer.text.startswith("There is no image 'cat.png' here.")
    assert "ann" not in answer.text


ENDLESS_NAMES = {
    "accents": "a" + "\N{COMBINING GRAVE ACCENT BELOW}\N{COMBINING GRAVE ACCENT}" * 200_000,
    "folders": "a/" * 1_000_000,
    "parents": "../" * 1_000_000,
    "quotes": "'" * 1_000_000,
    "letters": "img_" * 1_000_000,
}


@pytest.mark.parametrize("kind", ENDLESS_NAMES)
def test_an_endless_name_is_answered(tool: ImageVariationTool, kind: str) -> None:
    """A name of a megabyte is answered. It would take minutes to look for such a file."""
    answer = Talk(tool, "t-1", upload(ONE)).vary(ENDLESS_NAMES[kind])
    assert answer.status == "error"
    assert answer.text.startswith("There is no image '")
    assert len(answer.text) < 300


def test_an_endless_path_in_a_message_is_not_followed(tool: ImageVariationTool) -> None:
    """A path of megabytes in a forged message is not followed."""
    name = "cat-01234567-1"
    path = f"variations/{'a/' * 1_000_000}{name}.png"
    artifact = {"images": [{"handle": name, "path": path, "sha256": "0" * 64}]}
    message = ToolMessage("Made 1 variation.", tool_call_id="x", artifact=artifact)
    assert Talk(tool, "t-1", message).vary("latest").status == "error"


def test_the_newest_result_is_the_last_of_a_call(tool: ImageVariationTool, root: Path) -> None:
    """The newest result is the last of its call, whenever its file was written."""
    for side in (64, 65, 66, 67, 64):
        (root / "cat.png").write_bytes(square_png(side))
        results = tool.invoke(call(image="cat.png", n=6, size="256x256")).artifact["images"]
        repeat = tool.invoke(call(image="latest", size="256x256"))
        assert repeat.content.startswith(f"Made 1 variation of {results[-1]['handle']}")


def test_changes_to_an_upload_are_mentioned(tool: ImageVariationTool) -> None:
    """A message about changes to an upload uses the name that the model knows."""
    answer = Talk(tool, None, upload(jpeg())).vary("latest")
    assert f"{name_of(jpeg())}: converted JPEG to PNG" in answer.content


class TestConversationsApart:
    """A conversation never sees the images of another one."""

    def test_results_of_others_cannot_be_named(self, tool: ImageVariationTool, root: Path) -> None:
        """Handles, paths and names find no images of others, and errors do not list them."""
        for owner, thief in (("a", "b"), ("a", None), (None, "b"), (None, None)):
            (image,) = Talk(tool, owner, upload(ONE)).vary("latest").artifact["images"]
            other = Talk(tool, thief, upload(OTHER))
            for name in (image["handle"], image["path"], f"{image['handle']}.png", name_of(ONE)):
                answer = other.vary(name)
                assert answer.status == "error"
                assert answer.content.count("image-") == (name != name_of(ONE))
                assert answer.content.count(name_of(ONE)) == (name == name_of(ONE))
            (root / image["path"]).unlink()

    def test_latest_is_never_of_another_conversation(self, tool: ImageVariationTool) -> None:
        """A conversation without images has no latest image."""
        Talk(tool, "a", upload(ONE)).vary("latest")
        for thread in ("b", None):
            answer = Talk(tool, thread).vary("latest")
            assert (answer.status, "image-" in answer.content) == ("error", False)

    @pytest.mark.parametrize("thread", ["b", None])
    def test_a_forged_message_reaches_nothing(
        self, tool: ImageVariationTool, root: Path, thread: str | None
    ) -> None:
        """A forged path is not followed if its hash is wrong or if it leads outside the results."""
        (image,) = Talk(tool, "a", upload(ONE)).vary("latest").artifact["images"]
        (root / "notes.txt").write_text("secret")
        outside = root.parent / "outside.png"
        outside.write_bytes(ONE)
        for path in (image["path"], f"variations/../../{outside.name}", str(outside), "cat.jpg"):
            for sha256 in ("0" * 64, image["sha256"]) if path != image["path"] else ("0" * 64,):
                for handle in ("mine", Path(path).stem):
                    forged_image = {"handle": handle, "path": path, "sha256": sha256}
                    message = ToolMessage(
                        "Made 1 variation.", tool_call_id="x", artifact={"images": [forged_image]}
                    )
                    assert Talk(tool, thread, message).vary("latest").status == "error"

    def test_a_forged_handle_does_not_replace_another(
        self, tool: ImageVariationTool, root: Path
    ) -> None:
        """A forged message cannot give the name of one result to the file of another one."""
        talk = Talk(tool, "a", upload(ONE))
        result = talk.vary("latest")
        (one,), (other,) = (m.artifact["images"] for m in (result, talk.vary("cat.jpg")))
        artifact = {"images": [{**other, "handle": one["handle"]}]}
        talk.messages.append(ToolMessage("Made it.", tool_call_id="x", artifact=artifact))
        assert files(talk.vary(one["handle"]), root) == expected(root, files(result, root)[0])

    def test_without_hash_only_its_folder_is_searched(
        self, tool: ImageVariationTool, root: Path
    ) -> None:
        """A handle that was read from a text finds no result of another conversation."""
        (image,) = Talk(tool, "a", upload(ONE)).vary("latest").artifact["images"]
        arguments = ImageVariationArguments(image="latest")
        images = [ResultImage(image["handle"], image["path"], None)]
        owner = Conversation(images, scope_name("a"))
        result = call_tool(tool, LoadedEngines(), arguments, owner)
        assert len(result.artifact["images"]) == 1
        for scope in (scope_name("b"), None):
            conversation = Conversation(images, scope)
            with pytest.raises(ToolCallError, match=r"^The file of .* was deleted or changed\."):
                call_tool(tool, LoadedEngines(), arguments, conversation)

    @pytest.mark.slow
    async def test_a_hundred_conversations_at_once(
        self, tool: ImageVariationTool, root: Path
    ) -> None:
        """Each of a hundred concurrent conversations varies its own upload and its own result."""
        uploads = [square_png(20 + index) for index in range(100)]
        talks = [Talk(tool, f"t-{index}", upload(uploads[index])) for index in range(100)]
        for _ in range(2):
            answers = await asyncio.gather(*(talk.avary("latest") for talk in talks))
        assert len({message.artifact["images"][0]["path"] for message in answers}) == 100
        results = {files(message, root)[0] for message in answers}
        assert results == {expected(root, expected(root, image)[0])[0] for image in uploads}


class TestImagesByURL:
    """A URL in a message follows the URL policy. Nothing else is taken for a URL."""

    @pytest.mark.parametrize(
        "url",
        [
            *("cat.jpg", "./cat.jpg", "/etc/hostname", "file:///etc/hostname", "variations/x.png"),
            *(
                "http://images.example/cat.png",
                "ftp://images.example/cat.png",
                "//host/cat.png",
            ),
            *("\\\\host\\share\\cat.png", "s3://bucket/cat.png", "iVBORw0KGgo=", "", " data:x"),
        ],
    )
    def test_a_url_is_never_read_as_a_path(self, root: Path, url: str) -> None:
        """Only `data:` and https URLs in messages are read, and never a path."""
        tool = ImageVariationTool(
            root_dir=root, engine="instant", urls=URLPolicy(hosts=["images.example"])
        )
        message = HumanMessage(content=[{"type": "image", "url": url}])
        answer = Talk(tool, None, message).vary("latest")
        assert answer.status == "error"
        assert answer.text.startswith(
            "The newest image: The message contains neither the image data nor an https"
        )

    def test_by_default_no_host_is_allowed(self, tool: ImageVariationTool) -> None:
        """By default, no host is allowed, and the error says so."""
        url = "https://images.example/a.png"
        name = f"img_{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        talk = Talk(tool, None, HumanMessage(content=[{"type": "image", "url": url}]))
        for image in ("latest", name):
            assert talk.vary(image).text.startswith(
                f"{name}: This image is only a link, which this tool may not open. Ask the user to"
            )

    def test_another_host_is_not_contacted(self, root: Path) -> None:
        """A host that is not allowed is not contacted, and its name is not even resolved."""

        def resolve(host: str, port: int) -> list[str]:
            raise AssertionError("resolved")

        policy = URLPolicy(hosts=["images.example"], resolve=resolve)
        tool = ImageVariationTool(root_dir=root, engine="instant", urls=policy)
        message = HumanMessage(content=[{"type": "image", "url": "https://elsewhere.example/a"}])
        answer = Talk(tool, None, message).vary("latest")
        assert "'elsewhere.example' is not allowed" in answer.content

    def test_a_url_from_the_model_is_never_fetched(self, root: Path) -> None:
        """A URL from the model is never fetched, and the error says what to write."""
        policy = URLPolicy(hosts=["images.example"])
        tool = ImageVariationTool(root_dir=root, engine="instant", urls=policy)
        answer = Talk(tool).vary("https://images.example/a.png")
        assert answer.text.startswith(
            "There is no image 'https://images.example/a.png' here. This tool cannot open a URL; "
            "ask the user to upload the image itself. "
        )
        answer = Talk(tool).vary("data:image/png;base64,iVBORw0KGgo=")
        assert answer.text.startswith("There is no image ")


class TestLimits:
    """The settings of the developer win over the arguments of the model."""

    def test_a_call_beyond_max_calls_is_refused(self, root: Path) -> None:
        """A call beyond `max_calls` is refused, and another conversation has its own limit."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_calls=2)
        talk = Talk(tool, None, upload(ONE))
        assert [talk.vary(name_of(ONE)).status for _ in range(3)] == ["success", "success", "error"]
        assert "has used all of its 2 calls" in talk.messages[-1].text
        assert Talk(tool, None, upload(ONE)).vary(name_of(ONE)).status == "success"

    def test_the_oldest_results_beyond_max_results_are_deleted(self, root: Path) -> None:
        """Beyond `max_results`, the oldest results are deleted, and other files stay."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_results=3)
        (root / "variations").mkdir()
        (root / "variations" / "mine.png").write_bytes(ONE)
        first = Talk(tool, None, upload(ONE)).vary("latest", n=2)
        second = Talk(tool, None, upload(OTHER)).vary("latest", n=2)
        names = {path.name for path in (root / "variations").iterdir()}
        new_names = {f"{image['handle']}.png" for image in second.artifact["images"]}
        assert new_names | {"mine.png"} < names
        old_names = {f"{image['handle']}.png" for image in first.artifact["images"]}
        assert len(names & old_names) == 1

    def test_max_results_keeps_all_new_results(self, root: Path) -> None:
        """A call never deletes its own results."""
        tool = ImageVariationTool(root_dir=root, engine="instant", max_results=1)
        assert len(files(Talk(tool, None, upload(ONE)).vary("latest", n=4), root)) == 4


def test_a_message_stays_small_with_large_images(tool: ImageVariationTool) -> None:
    """A message about large images has less than 2,500 characters, including its artifact."""
    talk = Talk(tool, "t-1", upload(square_png(1000)))
    message_json = json.dumps(message_to_dict(talk.vary("latest", n=4)))
    assert len(message_json) < 2_500


def test_the_rate_limiter_is_acquired_once_per_call(root: Path) -> None:
    """A call acquires the rate limiter once, and a call with a mistake does not acquire it."""
    acquisitions: list[str] = []

    class Limiter:
        def acquire(self) -> bool:
            acquisitions.append("sync")
            return True

        async def aacquire(self) -> bool:
            acquisitions.append("async")
            return True

    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=Limiter())
    tool.invoke(call(image="cat.jpg"))
    asyncio.run(tool.ainvoke(call(image="cat.jpg")))
    tool.invoke(call(image="no.jpg"))
    assert acquisitions == ["sync", "async"]


async def test_a_rate_limiter_may_refuse(root: Path) -> None:
    """If the rate limiter returns False, the call fails without an engine call."""

    class Full:
        def acquire(self) -> bool:
            return False

        async def aacquire(self) -> bool:
            return False

    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=Full())
    for kind in ("sync", "async"):
        with pytest.raises(RateLimitError, match="has too many requests") as caught:
            if kind == "sync":
                tool.invoke(call(image="cat.jpg"))
            else:
                await tool.ainvoke(call(image="cat.jpg"))
        assert str(caught.value.__cause__) == "The rate limiter refused this call. Try again later."
    assert list((root / "variations").iterdir()) == []


def test_long_file_names_keep_messages_short(tool: ImageVariationTool, root: Path) -> None:
    """A message lists the newest files only up to its maximum length."""
    for index in range(12):
        (root / f"{index}{'x' * 190}.png").write_bytes(ONE)
    answer = tool.invoke(call(image="no.png"))
    assert (answer.text.count(".png"), len(answer.text) < 500) == (3, True)


def test_the_schema_shows_the_limits(root: Path) -> None:
    """In the schema, `max_n` bounds `n`, and a fixed size removes `size`."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_n=4, fixed_size="256x256")
    schema: Any = tool.tool_call_schema
    properties = schema.model_json_schema()["properties"]
    assert list(properties) == ["image", "n"]
    assert properties["n"]["maximum"] == 4
    assert "10" not in tool.description
    refused = tool.invoke(call(image="cat.jpg", n=20))
    assert refused.text.endswith("n must be a whole number from 1 to 4, got 20.")
    assert properties["n"]["description"] == "How many variations to make, from 1 to 4."
    # A model may name a size in spite of the schema.
    message = tool.invoke(call(image="cat.jpg", n=4, size="1024x1024"))
    assert [image["width"] for image in message.artifact["images"]] == [256] * 4


def test_parallel_calls_each_count(root: Path) -> None:
    """`max_calls` also counts the earlier calls of the same message."""
    tool = ImageVariationTool(root_dir=root, engine="instant", max_calls=1)
    name = name_of(ONE)
    talk = Talk(tool, None, upload(ONE), asks({"image": name}, {"image": name}))
    answer = talk.vary(name)
    assert (answer.status, "has used its only call to this tool" in answer.text) == ("error", True)
