import asyncio
import gc
import inspect
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import certifi
import pytest

from tests.extras import skip_without_imports, skipping_what_lacks_an_extra

Run = Callable[..., pytest.RunResult]

with suppress(ImportError):
    from hypothesis import settings

    # How long a case takes depends on the machine.
    settings.register_profile("untimed", settings(), deadline=None)
    settings.load_profile("untimed")

_IMPORTED = (
    "langchain_image_variation.agents.tool",
    "pytest_image_variation.assertions",
    "pytest_image_variation.conformance.rule_lists",
    "pytest_image_variation.conformance.report",
    "pytest_image_variation.live_session",
    "pytest_image_variation.loopback",
    "pytest_image_variation.replay",
)

_LOADED = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
"""What pytest says of plugins that the outer run has loaded already."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--all`."""
    parser.addoption("--all", action="store_true", help="Run the slow tests too.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests unless you ask for them: by an option, or by their file or id."""
    if config.option.all or config.option.markexpr:
        return
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        wanted = item.path in named or item.get_closest_marker("slow") is None
        (kept if wanted else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Look for garbage less often: modules and tests, which are most of what there is, stay."""
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionstart() -> None:
    """Start without an event loop.

    pytest-asyncio asks for the current loop before its first test, which makes one, and the next
    `asyncio.run` forgets it unclosed. Whichever test runs when it is collected then fails.
    """
    asyncio.set_event_loop(None)


class _TestModule(pytest.Module):
    """A module of tests, which is skipped if it imports a package of an extra that is absent."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        with skipping_what_lacks_an_extra():
            return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    """Collect the tests with any set of extras."""
    return _TestModule.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test if it or one of its fixtures needs a package that is not installed."""
    if inspect.iscoroutinefunction(getattr(item, "obj", None)):
        if not item.config.pluginmanager.has_plugin("asyncio"):
            extra = "langchain-image-variation[test]"
            pytest.skip(f"pytest-asyncio is not loaded; run: pip install '{extra}'")
    with skipping_what_lacks_an_extra():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test that needs a package that is not installed."""
    with skipping_what_lacks_an_extra():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority in place of all that there are, here and in the processes of the tests.

    No test talks to a server that those vouch for, and each of httpx's clients reads them anew,
    which takes ten times as long as a request.
    """
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("authority") / "one.pem"
    path.write_text(certifi.contents().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


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
        skip_without_imports(source, *arguments)
        pytester.makepyfile(test_it=source)
        strict = ("-p", "image_variation", "-W", "error", *_LOADED, "--strict-markers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pytest.PytestAssertRewriteWarning)
            return pytester.runpytest_inprocess(*strict, "-p", "no:cacheprovider", *arguments)

    return run
