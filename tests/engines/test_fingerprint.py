import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation import AsyncImageVariationClient, ImageVariationClient, load_engine
from langchain_image_variation.engines.fingerprint import engine_fingerprint
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.hosted.variations import VariationsEngine

URL = "http://127.0.0.1:9/v1"
HOSTED: list[Any] = [
    ImageVariationClient,
    AsyncImageVariationClient,
    VariationsEngine,
    GptImageEngine,
]


def local(**options: Any) -> LocalEngine:
    """Return an engine with options."""
    return LocalEngine(**{"seed": 7, **options})


CLIENT, ASYNC_CLIENT = httpx.Client(), httpx.AsyncClient()


def hosted(kind: Any) -> Callable[..., Any]:
    """Return what makes engines of a kind with options."""
    # Making a client for each would take most of the time.
    client = ASYNC_CLIENT if kind is AsyncImageVariationClient else CLIENT
    usual = {"base_url": URL, "api_key": "KEY", "http_client": client}
    return lambda **options: kind(**{**usual, **options})


DIFFERENT = [
    *((local, {name: value}) for name, value in (("seed", 8), ("strength", 0.4), ("light", False))),
    (local, {"seed": None}),
    *(
        (hosted(kind), options)
        for kind in HOSTED
        for options in (
            {"base_url": "http://127.0.0.1:8/v1"},
            {"base_url": f"{URL}?version=2"},
            {"model": "another"},
            {"extra_fields": {"quality": "low"}},
            {"project": "another"},
        )
    ),
    (hosted(ImageVariationClient), {"normalize": True}),
    (hosted(GptImageEngine), {"prompt": "As a woodcut"}),
    (hosted(GptImageEngine), {"input_fidelity": "low"}),
    (hosted(VariationsEngine), {"server": "xinference"}),
]


@pytest.mark.parametrize(("make", "options"), DIFFERENT)
def test_settings_that_matter_are_part_of_it(make: Any, options: dict[str, Any]) -> None:
    """Engines that differ in a setting that matters have different fingerprints."""
    one, other = engine_fingerprint(make()), engine_fingerprint(make(**options))
    assert None is not one != other is not None


ALIKE = [
    (local, {"threads": 1}),
    *(
        (hosted(kind), {"api_key": "ANOTHER", "max_retries": 0, "timeout": 1, "deadline": 9})
        for kind in HOSTED
    ),
    (hosted(GptImageEngine), {"http_client": None}),
    (hosted(GptImageEngine), {"n_per_call": 1}),
]


@pytest.mark.parametrize(("make", "options"), ALIKE)
def test_settings_that_do_not_matter_are_left_out(make: Any, options: dict[str, Any]) -> None:
    """Engines that make the same images in different ways have equal fingerprints."""
    assert engine_fingerprint(make()) == engine_fingerprint(make(**options)) is not None


def test_a_fingerprint_reveals_nothing() -> None:
    """A fingerprint contains neither the key in an address nor the prompt."""
    engine = GptImageEngine(base_url=f"{URL}?key=hunter2", api_key="sk-secret", prompt="hunter2")
    for text in (engine.fingerprint, engine_fingerprint(engine)):
        assert text is not None
        assert len(text) == 64
        assert set(text) <= set("0123456789abcdef")


def test_classes_have_different_fingerprints() -> None:
    """Engines of different classes have different fingerprints, even with the same settings."""

    class Other:
        fingerprint = ""

    assert engine_fingerprint(Other()) != engine_fingerprint(InstantEngine())


@dataclass(slots=True)
class Slotted:
    """An engine whose objects each define their fingerprint."""

    fingerprint: str | None


def test_an_engine_can_define_its_fingerprint() -> None:
    """A fingerprint may be a property, a class attribute or an attribute of the object."""
    assert engine_fingerprint(Slotted("a")) != engine_fingerprint(Slotted("b"))
    assert engine_fingerprint(Slotted(None)) is None
    engine: Any = object.__new__(type("Plain", (), {}))
    assert engine_fingerprint(engine) is None
    engine.fingerprint = "v2"
    assert engine_fingerprint(engine) is not None


def test_an_inherited_fingerprint_does_not_count() -> None:
    """A subclass must define its own fingerprint, since it may make different images."""

    class Mine(LocalEngine):
        blur = 3

    class Stated(LocalEngine):
        @property
        def fingerprint(self) -> str:
            return f"{super().fingerprint} blurred"

    assert engine_fingerprint(Mine(seed=1)) is None
    assert None is not engine_fingerprint(Stated(seed=1)) != engine_fingerprint(LocalEngine(seed=1))


def test_a_name_without_options_is_enough() -> None:
    """An engine made by name alone needs no fingerprint, but may refuse with None."""
    plain: Any = type("Plain", (), {})()
    assert engine_fingerprint(plain, by_name=True) is not None
    assert engine_fingerprint(Slotted(None), by_name=True) is None
    assert engine_fingerprint(load_engine("local"), by_name=True) == engine_fingerprint(
        LocalEngine()
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "got a int"), (lambda self: "x", "got a method"), ("x" * 10_001, "up to 10,000 char")],
)
def test_a_fingerprint_must_be_a_string(value: object, text: str) -> None:
    """A fingerprint that is a method instead of a property is refused."""
    with pytest.raises(EngineError, match=text):
        engine_fingerprint(type("Odd", (), {"fingerprint": value})())


@pytest.mark.parametrize("kind", [RuntimeError, AttributeError])
def test_a_failing_fingerprint_is_an_engine_error(kind: type[Exception]) -> None:
    """A failing fingerprint is an EngineError without the text of the original error."""

    class Broken:
        @property
        def fingerprint(self) -> str:
            raise kind("/home/x sk-123")

    with pytest.raises(EngineError, match=rf"of the engine Broken failed with {kind.__name__}\.$"):
        engine_fingerprint(Broken())


@pytest.mark.parametrize("declares", [True, False])
def test_a_new_version_has_a_new_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declares: bool
) -> None:
    """A new version of the distribution that contains an engine changes its fingerprint."""

    def fingerprint_of(folder: Path, version: str) -> str | None:
        metadata = folder / f"their_images-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: their-images\nVersion: {version}\n"
        )
        (metadata / "top_level.txt").write_text("their_images\n")
        if declares:
            (metadata / "entry_points.txt").write_text(
                "[langchain_image_variation.engines]\ntheirs = their_images:Engine\n"
            )
        (folder / "their_images.py").write_text("class Engine:\n    fingerprint = ''\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            patch.delitem(sys.modules, "their_images", raising=False)
            return engine_fingerprint(import_module("their_images").Engine())

    one, other = fingerprint_of(tmp_path / "a", "1.0"), fingerprint_of(tmp_path / "b", "1.1")
    assert None is not one != other is not None
    if declares:
        assert fingerprint_of(tmp_path / "c", "1.0") == one
