"""What the log has of a failure: its chain with tracebacks, without secrets and image data."""

import gc
import logging
import weakref
from pathlib import Path

import pytest

from langchain_image_variation.agents.conversation import scope_name
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.failed_images import failed_images
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    ImageVariationError,
)
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk
from tests.agents.failing import ENCODED, KEY, LOGGER, FailingEngine
from tests.agents.scripted import call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.png").write_bytes(square_png(16))
    return tmp_path


LEAKS = {
    "url": (f"GET https://me:{KEY}@example.com/a?sig={'ab' * 9} failed", "abab"),
    "header": ("{'Authorization': 'Bearer abcdefghijkl'}", "abcdefghijkl"),
    "basic": ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    "json": ('{"api_key": "1234567890"}', "1234567890"),
    "parameter": ("token=abcdefghijkl&x=1", "abcdefghijkl"),
    "quoted": ("password = 'open sesame'", "sesame"),
    "cookie": ("Set-Cookie: a=b; session=abcdefghijkl", "abcdefghijkl"),
    "signature": ("GET /a.png?sig=abcdefghijkl HTTP/1.1", "abcdefghijkl"),
    "variable": ("AWS_SECRET_ACCESS_KEY=abcdefghijkl", "abcdefghijkl"),
    "token of Hugging Face": ("hf_abcdefghijkl is invalid", "abcdefghijkl"),
    "key of Replicate": ("The key r8_abcdefghijkl is invalid", "abcdefghijkl"),
    "key of Google": ("AIzaabcdefghijkl is invalid", "abcdefghijkl"),
    "numbers": (str(list(square_png(64))), "137, 80, 78"),
    "reversed text": ("\u202egnp.x", "\u202e"),
    "bytes": (repr(square_png(64)), "PNG"),
    "lines": ("\n".join(ENCODED[i : i + 76] for i in range(0, 760, 76)), ENCODED[:60]),
    "long": ("x " * 100_000, "x " * 2_000),
    "terminal": ("\x1b]0;owned\x07", "\x1b"),
    "lines that look like others": ("x\nERROR root:a.py:1 forged", ": x\nERROR root"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_secrets_of_foreign_errors_are_masked(
    root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Keys, parts of URLs, image data and long texts of other libraries are not logged."""
    text, leak = LEAKS[name]
    error = ExceptionGroup("two", [ValueError(text), RuntimeError("harmless")])
    error.add_note(text)
    cause = KeyError(text)
    error.__cause__ = cause
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=())
    assert tool.invoke(call(image="cat.png")).status == "error"
    assert leak not in caplog.text
    for part in ("ExceptionGroup: two (2 sub-exceptions)", "ValueError", "harmless", "KeyError"):
        assert part in caplog.text


@pytest.mark.parametrize("error", [ValueError("a bug"), ContentPolicyError("No faces.")])
async def test_a_record_names_its_conversation(
    root: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The record of a failure or a refusal has the folder of its conversation, if it has one."""
    caplog.set_level(logging.INFO, LOGGER)
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=())
    for thread in ("user-1", "user-2", None):
        Talk(tool, thread).vary("cat.png")
        await Talk(tool, thread).avary("cat.png")
    expected_folders = [scope_name("user-1")] * 2 + [scope_name("user-2")] * 2 + [None] * 2
    assert [vars(record)["conversation_folder"] for record in caplog.records] == expected_folders


def test_an_error_without_a_text_is_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error whose own `__str__` fails, and one in an endless chain, are logged too."""

    class Textless(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    error, cause = Textless(), ValueError("the cause")
    error.__cause__, cause.__cause__ = cause, error
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=())
    assert tool.invoke(call(image="cat.png")).status == "error"
    assert "Textless" in caplog.text
    assert "ValueError: the cause" in caplog.text


def test_a_circular_group_is_logged_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors that were raised again while their group was handled are logged once each."""
    members = [ValueError(f"member {number}.") for number in range(12)]
    group = ExceptionGroup("a group", members)
    for member in members:
        member.__context__ = group
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(group), raise_on=())
    assert tool.invoke(call(image="cat.png")).status == "error"
    for member in members:
        assert 1 <= caplog.text.count(f"ValueError: {member}") <= 2


class WrongNote:
    """A note that has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("notes", [None, 7, [WrongNote(), "the last note"]])
def test_wrong_notes_do_not_hide_an_error(
    root: Path, caplog: pytest.LogCaptureFixture, notes: object
) -> None:
    """An error whose notes are not texts is logged and answered like any other."""
    error = ValueError("the text")
    error.__notes__ = notes  # type: ignore[assignment]  # wrong on purpose
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=())
    answer = tool.invoke(call(image="cat.png"))
    assert answer.text.startswith("The image engine failed.")
    assert "ValueError: the text" in caplog.text
    assert ("the last note" in caplog.text) is isinstance(notes, list)


def test_a_failure_keeps_no_image_alive(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answered failure, nothing keeps the request, without the garbage collector."""
    references: list[weakref.ref[object]] = []

    class Keeping(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            references.append(weakref.ref(request))
            raise TypeError

    tool = ImageVariationTool(root_dir=root, engine=Keeping(), raise_on=())
    # pytest keeps all records.
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", False)
    gc.collect()
    gc.disable()
    try:
        assert tool.invoke(call(image="cat.png")).status == "error"
        assert references[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [EngineError("a bug"), ContentPolicyError("No faces.")])
def test_the_record_of_one_image_names_its_conversation(
    root: Path, caplog: pytest.LogCaptureFixture, error: ImageVariationError
) -> None:
    """If only one of two images fails, its record has the folder of the conversation too."""

    class Engine:
        base_url = "https://images.example/v1"

        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            response = InstantEngine().create_variation(request)
            response.data[1:] = failed_images(1, error)
            return response

    caplog.set_level(logging.INFO, LOGGER)
    tool = ImageVariationTool(root_dir=root, engine=Engine())
    Talk(tool, "user-1").vary("cat.png", n=2)
    [record] = caplog.records
    assert vars(record)["conversation_folder"] == scope_name("user-1")
