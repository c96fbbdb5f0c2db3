"""The conformance kit's rules about engines, on two tiny models."""

from collections.abc import Iterator

import pytest

from langchain_image_variation.engines.diffusers import DiffusersEngine
from pytest_image_variation.conformance import EngineConformanceTests
from tests.engines.diffusers.calls import make_engine
from tests.engines.diffusers.conftest import MakeTinyModel


class TestSDVariations(EngineConformanceTests):
    """The default preset."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tiny_model: MakeTinyModel) -> Iterator[DiffusersEngine]:
        """An engine with a seed."""
        engine = make_engine(tiny_model("sd-variations"))
        yield engine
        engine.close()


@pytest.mark.slow
class TestUnCLIP(EngineConformanceTests):
    """The preset whose images are drawn one by one."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tiny_model: MakeTinyModel) -> Iterator[DiffusersEngine]:
        """An engine with a seed."""
        engine = make_engine(tiny_model("unclip"))
        yield engine
        engine.close()
