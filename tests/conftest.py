import warnings
from collections.abc import Callable
from importlib import import_module

import pytest

Run = Callable[..., pytest.RunResult]

# What an inner run imports is taken out of `sys.modules` after it, and some of it cannot be
# imported twice. So all of it is imported out here.
_IMPORTED = (
    "langchain_image_variation.tool",
    "pytest_image_variation.assertions",
    "pytest_image_variation.live",
    "pytest_image_variation.loopback",
    "pytest_image_variation.replay",
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a suite with the plugin, strictly, and with no other plugin than those it names."""
    for name in _IMPORTED:
        import_module(name)
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
