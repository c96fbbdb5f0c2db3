import pytest

from tests.calling import KINDS, Caller


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    for name in ("BASE_URL", "API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


@pytest.fixture(params=KINDS)
def call(request: pytest.FixtureRequest) -> Caller:
    """Run each test sync, on asyncio and on trio."""
    return Caller(request.param)
