import warnings
from collections.abc import Callable

import pytest

# What an inner run imports is taken out of `sys.modules` after it, and some of it cannot be
# imported twice. So all of it is imported out here.
import langchain_image_variation.tool  # noqa: F401  # see above
import pytest_image_variation.assertions
import pytest_image_variation.live
import pytest_image_variation.loopback
import pytest_image_variation.replay  # noqa: F401  # see above

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a suite with the plugin, strictly, and with no other plugin than those it names."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "IMAGE_VARIATION_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(source: str, *arguments: str, subprocess: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        strict = (
            "-p",
            "image_variation",
            "-W",
            "error",
            "--strict-markers",
            "-p",
            "no:cacheprovider",
        )
        if subprocess:
            return pytester.runpytest_subprocess(*strict, *arguments, timeout=60)
        with warnings.catch_warnings():
            # What pytest says of plugins that are loaded already; the suite's own are errors.
            warnings.simplefilter("ignore")
            return pytester.runpytest_inprocess(*strict, *arguments)

    return run
