import pytest

from tests.calling import KINDS, Caller


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's environment takes no part."""
    for name in ("BASE_URL", "API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


@pytest.fixture(params=KINDS)
def call(request: pytest.FixtureRequest) -> Caller:
    """Each test runs sync, and async on asyncio and on trio."""
    return Caller(request.param)
