from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from langchain_image_variation.engines.loading import load_engine
from tests.hosted.services.fakes import (
    KEY,
    SERVICES,
    FakeFal,
    FakeRecraft,
    FakeReplicate,
    FakeService,
)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's keys out of the tests."""
    for name in ("FAL_KEY", "RECRAFT_API_TOKEN", "REPLICATE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fal() -> Iterator[FakeFal]:
    """A fake fal.ai on loopback."""
    service = FakeFal()
    with service.running():
        yield service


@pytest.fixture
def recraft() -> Iterator[FakeRecraft]:
    """A fake Recraft on loopback."""
    service = FakeRecraft()
    with service.running():
        yield service


@pytest.fixture
def replicate() -> Iterator[FakeReplicate]:
    """A fake Replicate on loopback."""
    service = FakeReplicate()
    with service.running():
        yield service


@pytest.fixture(params=sorted(SERVICES))
def name(request: pytest.FixtureRequest) -> str:
    """The name of an engine. Each test runs for all of them."""
    value: str = request.param
    return value


@pytest.fixture
def service(name: str) -> Iterator[FakeService]:
    """The engine's service on loopback."""
    with SERVICES[name]().running() as running:
        yield running


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Any]]:
    """Make engines of a service. They are closed after the test."""
    engines: list[Any] = []

    def make(name: str, service: FakeService, **options: Any) -> Any:
        engine = load_engine(name, **{"base_url": service.url, "api_key": KEY, **options})
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def make_engine(
    name: str, service: FakeService, open_engine: Callable[..., Any]
) -> Callable[..., Any]:
    """Make engines whose server is `service`. They are closed after the test."""
    return partial(open_engine, name, service)
