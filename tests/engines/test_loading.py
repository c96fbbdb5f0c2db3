import sys
from pathlib import Path

import pytest

from langchain_image_variation.engines import (
    AsyncVariationEngine,
    VariationEngine,
    engine_names,
    load_engine,
    load_engine_class,
)
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    InvalidRequestError,
    MissingExtraError,
)


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a third-party distribution with three engines on the path."""
    metadata = tmp_path / "their_engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-engines\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[langchain_image_variation.engines]\n"
        "theirs = their_engine:Engine\n"
        "heavy = their_heavy:Engine [gpu]\n"
        "gone = their_engine:NoSuchEngine\n"
    )
    (tmp_path / "their_engine.py").write_text(
        "class Engine:\n"
        "    def __init__(self, *, depth: int = 1) -> None:\n"
        "        self.depth = depth\n"
        "    async def create_variation(self, request: object) -> object: ...\n"
    )
    (tmp_path / "their_heavy.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("their_engine", "their_heavy"):
        sys.modules.pop(module, None)
    return tmp_path


def test_our_engines_are_declared() -> None:
    """The engines of this project are found like anyone's."""
    assert {"instant", "local"} <= set(engine_names())
    assert isinstance(load_engine("instant"), InstantEngine)


def test_engines_satisfy_the_protocol() -> None:
    """Both Protocols can be checked at run time."""
    assert isinstance(load_engine("instant"), VariationEngine)
    assert not isinstance(object(), VariationEngine | AsyncVariationEngine)


def test_loads_an_engine_of_another_distribution(declared: Path) -> None:
    """An engine declared by another distribution is listed and loaded, with its options."""
    assert "theirs" in engine_names()
    assert vars(load_engine("theirs", depth=3)) == {"depth": 3}


def test_an_unknown_engine_is_refused_with_the_list() -> None:
    """The error names what is installed."""
    with pytest.raises(EngineNotFoundError, match=r"no engine 'nope'; installed are: .*local"):
        load_engine("nope")


def test_an_unknown_option_is_refused_with_the_list(declared: Path) -> None:
    """A misspelt option is an error that lists the engine's options."""
    with pytest.raises(InvalidRequestError, match="has no option 'dept'; its options are depth"):
        load_engine("theirs", dept=3)
    with pytest.raises(InvalidRequestError, match="it has no options"):
        load_engine("instant", seed=3)


def test_a_missing_package_names_the_extra_to_install(declared: Path) -> None:
    """If an engine's package is missing, the error is an ImportError that names the extra."""
    with pytest.raises(ImportError, match=r"pip install 'their-engines\[gpu\]'") as caught:
        load_engine_class("heavy")
    assert isinstance(caught.value, MissingExtraError)


def test_a_broken_declaration_is_our_error(declared: Path) -> None:
    """An entry point to a class that does not exist is an EngineError."""
    with pytest.raises(EngineError, match="does not exist"):
        load_engine("gone")
