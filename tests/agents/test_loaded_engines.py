from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import EngineNotFoundError, InvalidRequestError


def test_an_engine_is_loaded_once() -> None:
    """Threads share one engine, so that a hosted one keeps its connections."""
    engines = LoadedEngines()
    with ThreadPoolExecutor(8) as pool:
        engine_ids = {id(engine) for engine in pool.map(engines.get, ["instant"] * 40)}
    assert len(engine_ids) == 1
    assert isinstance(engines.get("instant"), InstantEngine)


def test_an_object_is_returned_as_it_is() -> None:
    """An engine object is returned as it is and not kept, so it does not outlive its tool."""
    engine = InstantEngine()
    engines = LoadedEngines()
    assert engines.get(engine) is engine
    assert engines.get("instant") is not engine


def test_a_class_and_an_unknown_name_are_refused() -> None:
    """The error for a class or an unknown name says what to pass instead."""
    engines = LoadedEngines()
    with pytest.raises(
        InvalidRequestError, match=r"got the class InstantEngine\. Pass Inst"
    ) as info:
        ToolSettings(engine=InstantEngine)  # type: ignore[arg-type]  # wrong on purpose
    assert info.value.param == "engine"
    with pytest.raises(EngineNotFoundError, match="no engine 'nope'"):
        engines.get("nope")


def test_settings_load_no_engine_and_open_no_folder(tmp_path: Path) -> None:
    """Settings load no engine, open no folder, and are checked only when a tool is made of them."""
    settings = ToolSettings(engine="nope", root_dir=tmp_path / "nowhere")
    assert settings.model_dump(include={"engine", "max_n"}) == {"engine": "nope", "max_n": 10}
