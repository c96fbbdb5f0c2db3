import pytest


@pytest.fixture(autouse=True)
def every_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our implementations follow all rules, so a broken rule of any level fails."""
    monkeypatch.setattr(request.config.option, "image_variation_level", "may")
