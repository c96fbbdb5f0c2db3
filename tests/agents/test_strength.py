"""A tool with `expose_strength`: the model chooses how much to change an image."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from langchain_image_variation import ImageVariationTool
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import InvalidRequestError
from pytest_image_variation.samples import jpeg
from tests.agents.scripted import call


class DialEngine(InstantEngine):
    """An engine whose strength is the seed of its images. Its fingerprint leaves it out."""

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__(seed=round(strength * 100))
        self.strength = strength

    @property
    def fingerprint(self) -> str:
        """The same for all strengths."""
        return "dial"

    def with_options(self, *, strength: float) -> "DialEngine":
        """Return a copy with another strength."""
        return DialEngine(strength)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a photo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return tmp_path


def make_tool(engine: Any = None, **settings: Any) -> ImageVariationTool:
    """Return a tool whose model chooses the strength."""
    settings = {"expose_strength": True, "fixed_size": "256x256", **settings}
    return ImageVariationTool(engine=engine or DialEngine(), **settings)


class _Standard:
    @property
    def tool_constructor(self) -> type[ImageVariationTool]:
        """The class under test."""
        return ImageVariationTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        """A tool that exposes the strength."""
        return {"engine": DialEngine(), "expose_strength": True}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        """A model's arguments."""
        return {"image": "cat.jpg", "size": "256x256", "strength": 0.3}


class TestStandardUnit(_Standard, ToolsUnitTests):
    """LangChain's standard unit tests for tools."""


class TestStandardIntegration(_Standard, ToolsIntegrationTests):
    """LangChain's standard integration tests for tools."""


def test_the_model_sees_a_bounded_number() -> None:
    """The schema has an optional number from 0 to 1, without a null that services refuse."""
    properties = convert_to_openai_tool(make_tool())["function"]["parameters"]["properties"]
    description = properties["strength"].pop("description")
    assert description.startswith("How much to change the image, from 0 (almost a copy) to 1")
    assert properties["strength"] == {"type": "number", "minimum": 0, "maximum": 1}
    hidden = convert_to_openai_tool(make_tool(expose_strength=False))["function"]["parameters"]
    assert list(hidden["properties"]) == ["image", "n"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_engine_gets_the_chosen_strength(kind: str) -> None:
    """The engine works with the model's strength, or its own, and the artifact says which."""
    tool = make_tool()
    for arguments, strength in (({"strength": 0.25}, 0.25), ({"strength": None}, None), ({}, None)):
        tool_call = call(image="cat.jpg", **arguments)
        message = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
        (image,) = message.artifact["images"]
        assert image.get("strength") == strength
        engine = DialEngine() if strength is None else DialEngine(strength)
        (expected,) = make_tool(engine).invoke(call(image="cat.jpg")).artifact["images"]
        assert image["sha256"] == expected["sha256"]


@pytest.mark.parametrize("strength", [-0.1, 1.1, "much", "nan", [0.5]])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_wrong_strength_is_a_mistake(strength: object, kind: str) -> None:
    """A strength that is not a number from 0 to 1 is answered with the rule, and makes nothing."""
    tool_call = call(image="cat.jpg", strength=strength)
    tool = make_tool()
    message = tool.invoke(tool_call) if kind == "sync" else await tool.ainvoke(tool_call)
    assert "strength must be a number from 0 to 1, got " in message.text
    assert (message.status, Path("variations").exists()) == ("error", False)


def test_without_the_setting_it_is_no_argument() -> None:
    """A model that sends a strength to another tool learns which arguments there are."""
    message = make_tool(expose_strength=False).invoke(call(image="cat.jpg", strength=0.5))
    assert "'strength' is not an argument; the arguments are image and n." in message.text
    message = make_tool().invoke(call(image="cat.jpg", power=0.5))
    assert "'power' is not an argument; the arguments are image, n and strength." in message.text


def test_the_cache_tells_strengths_apart() -> None:
    """Calls with different strengths are different, whatever the engine's fingerprint says."""
    tool = make_tool(cache=True)
    strengths = (0.2, 0.7, None, 0.2, 0.7, None)
    messages = [tool.invoke(call(image="cat.jpg", strength=strength)) for strength in strengths]
    images = [message.artifact["images"][0]["sha256"] for message in messages]
    assert images[:3] == images[3:]
    assert len(set(images)) == 3
    assert [message.artifact.get("cached", False) for message in messages] == [False] * 3 + [
        True
    ] * 3


def test_an_engine_without_strength_is_refused() -> None:
    """A tool with an engine whose strength a request cannot set is not made."""
    with pytest.raises(
        InvalidRequestError, match=r"InstantEngine has no with_options\(strength=\.\.\.\): choose"
    ):
        make_tool(InstantEngine())
    assert make_tool(InstantEngine(), expose_strength=False)
    assert make_tool("local")


def test_the_local_engine_takes_the_strength() -> None:
    """With the engine `local`, a call with a strength makes what the engine makes at it."""
    tool = make_tool(LocalEngine(seed=3))
    (image,) = tool.invoke(call(image="cat.jpg", strength=0.1)).artifact["images"]
    own_tool = make_tool(LocalEngine(seed=3, strength=0.1), expose_strength=False)
    (expected,) = own_tool.invoke(call(image="cat.jpg")).artifact["images"]
    assert image["sha256"] == expected["sha256"]
