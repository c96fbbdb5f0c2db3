import gc
import pickle
import struct
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from langchain_image_variation.engines.loading import make_engine
from langchain_image_variation.error_translation import ErrorTranslation, portable_error
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    ImageVariationError,
    OutputError,
    QuotaExceededError,
)
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.images.pixels import decode_png, decode_result
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import corrupt_png
from tests.images.encoder import SIGNATURE, chunk


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("is_chained", [True, False])
def test_foreign_errors_are_replaced(is_chained: bool) -> None:
    """An error of another library is replaced. The traceback shows it only if it is chained."""
    translation = ErrorTranslation(
        lambda error: OutputError(f"It failed with {type(error).__name__}."), is_chained=is_chained
    )
    with pytest.raises(OutputError, match="failed with KeyError") as caught, translation:
        _raise(KeyError("secret"))
    assert isinstance(caught.value.__cause__, KeyError) == is_chained
    assert caught.value.__suppress_context__


class OddError(ContentPolicyError):
    """Does not pickle, and its constructor takes something else than a message."""

    def __init__(self, lock: Any) -> None:
        super().__init__("This image is odd.", param="image", hint="Use another one.")
        self.code, self.lock = "odd", lock


def test_portable_errors_survive_pickling() -> None:
    """A portable error keeps every field, and the nearest class of the tree."""
    limited = QuotaExceededError("The plan is used up.", retry_after=7.5)
    limited.status_code, limited.request_id = 402, "req_1"
    for error, kind in (
        (limited, QuotaExceededError),
        (OddError(threading.Lock()), ContentPolicyError),
    ):
        copy = pickle.loads(pickle.dumps(portable_error(error)))
        assert type(copy) is kind
        assert str(copy) == str(error)
        names = vars(EngineError("")).keys()
        assert {name: vars(copy)[name] for name in names} == {
            name: vars(error)[name] for name in names
        }
        assert copy.problem == error.problem


@pytest.mark.parametrize("error", [EngineError("ours"), KeyboardInterrupt()])
def test_other_exceptions_pass(error: BaseException) -> None:
    """Errors of this package and interrupts are not replaced."""
    with pytest.raises(type(error)) as caught, ErrorTranslation(lambda _: OutputError("replaced")):
        raise error
    assert caught.value is error


# Every function that translates errors while its callers hold images.


class Failing(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that fails."""

    protocol = "failing"

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        """Fail."""
        raise RuntimeError


class FailingEngine:
    """An engine that cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError


def _read_failing_storage() -> object:
    fsspec.register_implementation("failing", Failing, clobber=True)
    files = FileSystem("failing://folder", {}, param="path")
    with files.translate_errors("cannot be read"):
        return files.backend.cat_file("name")


JUNK = (
    SIGNATURE
    + chunk(b"IHDR", struct.pack(">II5B", 8, 8, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", b"junk")
    + chunk(b"IEND")
)
"""A PNG file whose pixels are not compressed data."""

WORK: dict[str, Callable[[], object]] = {
    "corrupt PNG": lambda: load_source(corrupt_png()),
    "corrupt GIF": lambda: load_source(b"GIF89a, cut off"),
    "corrupt JPEG": lambda: load_source(b"\xff\xd8\xff\xd9"),
    "corrupt pixels": lambda: decode_png(SquarePNG(JUNK)),
    "corrupt result": lambda: decode_result(b"not an image"),
    "storage": _read_failing_storage,
    "engine": lambda: make_engine("failing", FailingEngine, {}),
}


class Held:
    """Something that a frame holds, such as an image."""


@pytest.mark.mostly_slow("corrupt PNG", "storage")
@pytest.mark.parametrize("name", WORK)
def test_a_translated_error_keeps_nothing_alive(name: str) -> None:
    """A translated error frees what its traceback's frames hold, without the garbage collector."""
    references: list[weakref.ref[Held]] = []

    def hold_and_work() -> None:
        held = Held()
        references.append(weakref.ref(held))
        WORK[name]()

    gc.collect()
    gc.disable()
    try:
        with suppress(ImageVariationError):
            hold_and_work()
        assert references[0]() is None
    finally:
        gc.enable()
