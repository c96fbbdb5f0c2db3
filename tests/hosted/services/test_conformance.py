from collections.abc import Iterator
from typing import Any

import pytest

from langchain_image_variation.engines.loading import load_engine
from pytest_image_variation.conformance import EngineConformanceTests
from tests.hosted.services.fakes import KEY, SERVICES


def make_tests(name: str) -> type[EngineConformanceTests]:
    """Return the rules about engines for the engine of a service, over its fake."""

    class Tests(EngineConformanceTests):
        @pytest.fixture(scope="class")
        @classmethod
        def engine(cls) -> Iterator[Any]:
            """The engine, with its service on loopback."""
            with SERVICES[name]().running() as service:
                engine: Any = load_engine(name, base_url=service.url, api_key=KEY)
                yield engine
                engine.close()

    return Tests


TestFal = make_tests("fal")
TestRecraft = make_tests("recraft")
# Its calls are jobs like those of fal, so the plain tests of the rules are about fal.
TestReplicate = pytest.mark.slow(make_tests("replicate"))
