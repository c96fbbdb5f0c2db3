from collections.abc import Iterator

import pytest

from tests.hosted.services.fakes import (
    FakeFal,
    FakeRecraft,
    FakeReplicate,
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
