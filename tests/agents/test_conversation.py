import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.agents.announcement import announce_results, parse_announcement
from langchain_image_variation.agents.conversation import (
    Conversation,
    MessageImage,
    ResultImage,
    scope_name,
)

CAT = MessageImage("https://images.example/cat.png")
ONE = ResultImage("cat-0123abcd-1", "variations/cat-0123abcd-1.png", "0" * 64)
TWO = ResultImage("cat-4567cdef-2", "variations/cat-4567cdef-2.png", "1" * 64)
CONVERSATION = Conversation((CAT, ONE, TWO))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("latest", TWO),
        ("Latest", TWO),
        ("img_1", CAT),
        ("img_2", ONE),
        ("IMG_3", TWO),
        ("img-2", ONE),
        ("img 2", ONE),
        ("img2", ONE),
        ("cat-0123abcd-1", ONE),
        ("cat-0123abcd-1.png", ONE),
        ("variations/cat-0123abcd-1.png", ONE),
    ],
)
def test_finds_an_image_by_number_and_by_handle(image: str, expected: object) -> None:
    """An image is found by `latest`, number, handle, file name or path, as models spell them."""
    match = CONVERSATION.find(image)
    assert match is not None
    assert match[1] is expected


@pytest.mark.parametrize(
    "image",
    ["img_0", "img_4", "img_-1", "img_1.5", "img_99999999", "cat", "", "cat-0123abcd", "img_", "1"],
)
def test_finds_nothing_else(image: str) -> None:
    """A number out of range or a part of a name finds no image."""
    assert CONVERSATION.find(image) is None


def test_labels_are_numbers_or_handles() -> None:
    """An upload is labeled by number and a result by handle, however the model wrote it."""
    labels = [(CONVERSATION.find(image) or ("",))[0] for image in ("latest", "img_1", "img_2")]
    assert labels == ["cat-4567cdef-2", "img_1", "cat-0123abcd-1"]


def test_without_images_there_is_no_latest() -> None:
    """Without images, `latest` finds nothing, and there is nothing to choose from."""
    assert (Conversation().find("latest"), Conversation().choices()) == (None, "")


def test_choices_are_numbered() -> None:
    """The choices are the newest twelve images with their numbers, and results have handles."""
    assert CONVERSATION.choices() == (
        "In this conversation: img_1, img_2 (cat-0123abcd-1), img_3 (cat-4567cdef-2)."
    )
    sentence = Conversation((CAT,) * 30).choices()
    assert sentence.startswith("In this conversation (the newest 12 of 30): img_19, img_20")
    assert sentence.endswith(", img_30.")


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
