import pytest


@pytest.fixture(autouse=True)
def every_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours keep the rules of every level, so that a broken one of any level fails."""
    monkeypatch.setattr(request.config.option, "image_variation_level", "may")
