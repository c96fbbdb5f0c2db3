"""Settings of a tool that are changed after it was made."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import InvalidRequestError
from pytest_image_variation.samples import jpeg

WRONG_SETTINGS: dict[str, Any] = {
    "cache": "maybe",
    "engine": object(),
    "expose": {"size"},
    "fixed_size": "3x3",
    "max_n": 11,
    "max_nn": 3,
    "raise_on": (KeyError,),
    "root_dir": "no-folder",
    "state_key": "messages",
    "storage_options": {"key": "secret"},
}


@pytest.fixture
def tool(tmp_path: Path) -> ImageVariationTool:
    """Return a tool for a folder with a photo."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return ImageVariationTool(root_dir=tmp_path, engine="instant", fixed_size="256x256")


def change(tool: ImageVariationTool, how: str, name: str, value: Any) -> ImageVariationTool:
    """Return the tool or a copy of it with another setting."""
    if how == "copy":
        return tool.model_copy(update={name: value})
    setattr(tool, name, value)
    return tool


@pytest.mark.parametrize("name", WRONG_SETTINGS)
@pytest.mark.parametrize("how", ["assignment", "copy"])
def test_a_wrong_value_is_refused(tool: ImageVariationTool, how: str, name: str) -> None:
    """A changed setting gets the error that the constructor raises, and nothing has changed."""
    before = getattr(tool, name, None)
    settings: dict[str, Any] = {"root_dir": tool.root_dir, "engine": "instant"}
    with pytest.raises(Exception) as expected:
        ImageVariationTool(**{**settings, name: WRONG_SETTINGS[name]})
    with pytest.raises(expected.type) as caught:
        change(tool, how, name, WRONG_SETTINGS[name])
    assert str(caught.value).splitlines()[1:] == str(expected.value).splitlines()[1:]
    assert getattr(tool, name, None) is before
    assert tool.invoke({"image": "cat.jpg"}).startswith("Made 1 variation of cat, 256x256")


@pytest.mark.parametrize("how", ["assignment", "copy"])
def test_settings_that_do_not_fit_together_are_refused(tool: ImageVariationTool, how: str) -> None:
    """An option that the engine lacks cannot be exposed, and an exposed one needs its engine."""
    with pytest.raises(InvalidRequestError, match="InstantEngine has no strength"):
        change(tool, how, "expose", {"strength"})
    tool = change(change(tool, how, "engine", "local"), how, "expose", {"strength"})
    assert "strength" in tool.args
    with pytest.raises(InvalidRequestError, match="InstantEngine has no strength"):
        change(tool, how, "engine", "instant")
    assert tool.engine == "local"


@pytest.mark.parametrize("how", ["assignment", "copy"])
def test_a_value_is_converted(tool: ImageVariationTool, how: str) -> None:
    """A changed setting has the type that the constructor gives it."""
    tool = change(change(tool, how, "max_n", "4"), how, "expose", {"name"})
    assert (tool.max_n, tool.expose) == (4, frozenset({"name"}))
    assert type(tool.expose) is frozenset
    assert tool.get_input_jsonschema()["properties"]["n"]["maximum"] == 4


@pytest.mark.parametrize("how", ["assignment", "copy"])
def test_the_fields_of_langchain_can_be_changed(tool: ImageVariationTool, how: str) -> None:
    """What is not a setting can be changed as in every tool of LangChain."""
    tool = change(tool, how, "tags", ["mine"])
    tool = change(tool, how, "description", "Vary an image.")
    tool = change(tool, how, "max_n", 2)
    assert (tool.tags, tool.description) == (["mine"], "Vary an image.")


def test_settings_without_a_tool_are_checked() -> None:
    """An assignment to settings, for example for the MCP server, refuses a wrong value."""
    settings = ToolSettings()
    with pytest.raises(ValidationError, match="less than or equal to 10"):
        settings.max_n = 11
    with pytest.raises(InvalidRequestError, match="raise_on cannot contain KeyError"):
        settings.raise_on = (KeyError,)
    assert settings == ToolSettings()
