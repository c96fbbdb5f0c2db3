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

CAT = MessageImage("https://pictures.example/cat.png")
ONE = ResultImage("cat-0123abcd-1", "variations/cat-0123abcd-1.png", "0" * 64)
TWO = ResultImage("cat-4567cdef-2", "variations/cat-4567cdef-2.png", "1" * 64)
CONVERSATION = Conversation((CAT, ONE, TWO))


@pytest.mark.parametrize(
    ("image", "found"),
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
def test_a_picture_is_found_by_number_and_by_handle(image: str, found: object) -> None:
    """`latest`, `img_2`, as models vary it, a handle, with its suffix or its path."""
    known = CONVERSATION.find(image)
    assert known is not None
    assert known[1] is found


@pytest.mark.parametrize(
    "image",
    ["img_0", "img_4", "img_-1", "img_1.5", "img_99999999", "cat", "", "cat-0123abcd", "img_", "1"],
)
def test_nothing_else_is(image: str) -> None:
    """A number out of range, or part of a name, is no picture."""
    assert CONVERSATION.find(image) is None


def test_an_upload_is_called_by_its_number_and_a_result_by_its_handle() -> None:
    """Whichever way it was asked for."""
    labels = [(CONVERSATION.find(image) or ("",))[0] for image in ("latest", "img_1", "img_2")]
    assert labels == ["cat-4567cdef-2", "img_1", "cat-0123abcd-1"]


def test_without_pictures_there_is_no_latest() -> None:
    """Nor anything to choose from."""
    assert (Conversation().find("latest"), Conversation().choices()) == (None, "")


def test_the_choices_are_numbered_as_they_are_asked_for() -> None:
    """The newest twelve, each with its handle."""
    assert CONVERSATION.choices() == (
        "In this conversation: img_1, img_2 (cat-0123abcd-1), img_3 (cat-4567cdef-2)."
    )
    many = Conversation((CAT,) * 30).choices()
    assert many.startswith("In this conversation (the newest 12 of 30): img_19, img_20")
    assert many.endswith(", img_30.")


@given(st.text(), st.text())
def test_no_two_conversations_share_a_scope(one: str, other: str) -> None:
    """A scope is a plain, short name for a folder, whatever the identity is made of."""
    assert (scope_name(one) == scope_name(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_-]{16,57}", scope_name(one))
    assert not scope_name(one).startswith("-")


@pytest.mark.parametrize(
    "other", ["user 1", "user/1", "USER-1", "user-1-", "../user-1", "user-1\0"]
)
def test_identities_that_look_alike_have_scopes_of_their_own(other: str) -> None:
    """Even where a file system does not tell upper case from lower."""
    assert scope_name(other).lower() != scope_name("user-1").lower()


_HANDLES = st.lists(st.from_regex(r"\w[\w.-]{0,40}-[0-9a-f]{8}-[0-9]", fullmatch=True), min_size=1)


@given(
    _HANDLES,
    st.text(max_size=40),
    st.sampled_from(["my results/", "t-1/ in s3 storage"]),
    st.text(),
)
def test_what_was_announced_is_read_back(
    handles: list[str], label: str, place: str, after: str
) -> None:
    """Whatever the picture was called, wherever it is kept and whatever comes after."""
    text = announce_results(handles, label=label, size="256x256", location=place)
    found = parse_announcement(f"{text} {after}")
    assert [picture.handle for picture in found] == handles
    assert [picture.path for picture in found] == [f"{handle}.png" for handle in handles]
    assert {picture.sha256 for picture in found} == {None}


def test_a_text_that_quotes_an_announcement_is_none() -> None:
    """It has to begin with it, and to be whole."""
    text = announce_results(["a-0123abcd-1"], label="a", size="256x256", location="x/")
    for other in ("", f"I {text}", text[:80], text.replace("a-0123abcd-1", "../a")):
        assert parse_announcement(other) == []
