import warnings
from collections.abc import Callable
from importlib import import_module

import pytest

Run = Callable[..., pytest.RunResult]

_IMPORTED = (
    "langchain_image_variation.tool",
    "pytest_image_variation.assertions",
    "pytest_image_variation.conformance.lists",
    "pytest_image_variation.conformance.report",
    "pytest_image_variation.live",
    "pytest_image_variation.loopback",
    "pytest_image_variation.replay",
)


@pytest.fixture(scope="session")
def imported() -> None:
    """Import before a test with `pytester` what its inner runs import.

    It takes out of `sys.modules` what was not there before, and some cannot be imported twice.
    """
    for name in _IMPORTED:
        import_module(name)


@pytest.fixture
def run(imported: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a suite with the plugin, strictly, and with no other plugin than those it names."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "IMAGE_VARIATION_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        strict = ("-p", "image_variation", "-W", "error", "--strict-markers")
        with warnings.catch_warnings():
            # What pytest says of plugins that are loaded already; the suite's own are errors.
            warnings.simplefilter("ignore")
            return pytester.runpytest_inprocess(*strict, "-p", "no:cacheprovider", *arguments)

    return run
