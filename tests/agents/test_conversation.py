import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.agents.announcement import announce_results, parse_announcement
from langchain_image_variation.agents.conversation import (
    Conversation,
    ResultImage,
    scope_name,
)
from langchain_image_variation.agents.message_image import MessageImage, normalize_name
from pytest_image_variation.samples import square_png

URL = "https://images.example/cat.png"
CAT = MessageImage(URL)
CAT_NAME = "img_ac1abaed"
ONE = ResultImage("cat-0123abcd-1", "variations/cat-0123abcd-1.png", "0" * 64)
TWO = ResultImage("cat-4567cdef-2", "variations/cat-4567cdef-2.png", "1" * 64)
CONVERSATION = Conversation((CAT, ONE, TWO))


@pytest.mark.parametrize(
    "handle",
    [CAT_NAME, "IMG_AC1ABAED", "img-ac1abaed", "img ac1abaed", "imgac1abaed", "Img_ac1abaed"],
)
def test_finds_an_upload_by_its_name(handle: str) -> None:
    """An image in a message is found by its name, as models spell it."""
    name = normalize_name(handle)
    assert name == CAT_NAME
    assert CONVERSATION.find_uploads(name) == {hashlib.sha256(URL.encode()).hexdigest(): CAT}


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        ("cat-0123abcd-1", ONE),
        ("cat-0123abcd-1.png", ONE),
        ("variations/cat-0123abcd-1.png", ONE),
        ("cat-4567cdef-2", TWO),
    ],
)
def test_finds_a_result_by_its_handle(handle: str, expected: object) -> None:
    """A result is found by its handle, file name or path."""
    assert CONVERSATION.find_result(handle) is expected


@pytest.mark.parametrize(
    "handle",
    [
        *("img_0", "img_1", "img_-1", "img_1.5", "img_ac1abae", "img_ac1abaed0", "img_ac1abaeg"),
        *(f"{CAT_NAME}.png", f"{CAT_NAME}-1", "cat", "", "cat-0123abcd", "img_", "1", "latest"),
        "img_ac1abae\u0664",
    ],
)
def test_numbers_and_parts_of_names_find_nothing(handle: str) -> None:
    """A number or a part of a name finds no image."""
    assert normalize_name(handle) is None
    assert CONVERSATION.find_result(handle) is None


def test_choices_have_names_and_sizes() -> None:
    """The choices are the names of the newest twelve images, each once, with known sizes."""
    assert CONVERSATION.choices() == (
        f"In this conversation: {CAT_NAME}, cat-0123abcd-1, cat-4567cdef-2 (the newest)."
    )
    assert Conversation((CAT, ONE, CAT)).choices() == (
        f"In this conversation: cat-0123abcd-1, {CAT_NAME} (the newest)."
    )
    # Only the model's provider has the newest image.
    assert Conversation((CAT, ONE, MessageImage(None))).choices() == (
        f"In this conversation: {CAT_NAME}, cat-0123abcd-1."
    )
    assert Conversation((CAT,) * 30).choices() == f"In this conversation: {CAT_NAME}."
    images = [MessageImage(None, base64.b64encode(square_png(16 + i))) for i in range(30)]
    sentence = Conversation(images).choices()
    assert sentence.startswith("In this conversation (the newest 12 uploads): img_")
    assert re.findall(r"\((\d+)x", sentence) == [str(side) for side in range(34, 46)]
    assert sentence.endswith(" (45x45, the newest).")
    assert (Conversation().choices(), Conversation((MessageImage(None),)).choices()) == ("", "")


def test_results_do_not_hide_uploads() -> None:
    """Uploads and results are limited separately, so an upload is listed after many results."""
    results = [ResultImage(f"cat-0123abcd-{i}", f"{i}.png", "0" * 64) for i in range(30)]
    sentence = Conversation((CAT, *results)).choices()
    assert sentence.startswith(f"In this conversation (the newest 12 results): {CAT_NAME}, cat-")
    assert sentence.count("cat-0123abcd-") == 12
    images = [MessageImage(None, base64.b64encode(square_png(16 + i))) for i in range(30)]
    sentence = Conversation((*results, *images)).choices()
    assert sentence.startswith("In this conversation (the newest 12 uploads and 12 results): cat-")
    assert (sentence.count("cat-"), sentence.count("img_")) == (12, 12)


@given(st.text(), st.text())
def test_no_two_conversations_share_a_scope(one: str, other: str) -> None:
    """Each id has its own scope, a short and plain folder name, whatever the id contains."""
    assert (scope_name(one) == scope_name(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_-]{16,57}", scope_name(one))
    assert not scope_name(one).startswith("-")


@pytest.mark.parametrize(
    "other", ["user 1", "user/1", "USER-1", "user-1-", "../user-1", "user-1\0"]
)
def test_similar_ids_have_different_scopes(other: str) -> None:
    """The scopes of similar ids differ even on a file system that ignores case."""
    assert scope_name(other).lower() != scope_name("user-1").lower()


_HANDLES = st.lists(st.from_regex(r"\w[\w.-]{0,40}-[0-9a-f]{8}-[0-9]", fullmatch=True), min_size=1)


@given(
    _HANDLES,
    st.text(max_size=40),
    st.sampled_from(["my results/", "t-1/ in s3 storage"]),
    st.none() | st.sampled_from(["https://files.example.com/", "/my files: a, b/", "C:\\images\\"]),
    st.text(),
)
def test_an_announcement_can_be_parsed(
    handles: list[str], label: str, location: str, public_url: str | None, next_text: str
) -> None:
    """An announcement is parsed whatever its label, its location and the text after it."""
    urls = None if public_url is None else [f"{public_url}{handle}.png" for handle in handles]
    text = announce_results(handles, label=label, size="256x256", location=location, urls=urls)
    images = parse_announcement(f"{text} {next_text}")
    assert [image.handle for image in images] == handles
    assert [image.path for image in images] == [f"{handle}.png" for handle in handles]
    assert {image.sha256 for image in images} == {None}


def test_a_quoted_announcement_is_not_parsed() -> None:
    """Only a text that starts with a complete announcement is parsed."""
    text = announce_results(["a-0123abcd-1"], label="a", size="256x256", location="x/")
    with_url = announce_results(
        ["a-0123abcd-1"], label="a", size="256x256", location="x/", urls=["/x/a-0123abcd-1.png"]
    )
    for original in (text, with_url):
        assert len(parse_announcement(original)) == 1
        for other in ("", f"I {original}", original[:70], original.replace("a-0123abcd", "../a")):
            assert parse_announcement(other) == []
