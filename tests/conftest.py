import asyncio
import gc
import inspect
import signal
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest

from langchain_image_variation.exceptions import install_command
from tests.chromium import open_chromium
from tests.extras import skip_if_extra_is_missing, skip_without_imports

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Run = Callable[..., pytest.RunResult]

_load_profile: Callable[[str], None] | None = None
_start_hypothesis: Callable[[], None] | None = None

with suppress(ImportError):
    from hypothesis import given, settings, strategies

    # A deadline would make tests depend on the speed of the machine.
    settings.register_profile("all", settings(), deadline=None, max_examples=100)
    settings.register_profile("plain", settings(), deadline=None, max_examples=20)
    _load_profile = settings.load_profile

    @settings(max_examples=1, database=None, deadline=None)
    @given(strategies.none())
    def _start_hypothesis(_: None) -> None:
        """Let Hypothesis register its random number generators."""


_PRELOADED_MODULES = (
    "anyio._backends._asyncio",
    "langchain_image_variation.agents.tool",
    "numpy",
    "pytest_image_variation.assertions",
    "pytest_image_variation.conformance.rule_lists",
    "pytest_image_variation.conformance.report",
    "pytest_image_variation.live_session",
    "pytest_image_variation.loopback",
    "pytest_image_variation.replay",
)

_IGNORE_LOADED_PLUGINS = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
"""pytest warns about plugins that the outer run has loaded already."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--all`."""
    parser.addoption("--all", action="store_true", help="Run the slow tests too.")


def _parameters_of(item: pytest.Item) -> str:
    return item.name.partition("[")[2].removesuffix("]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests, unless you select them with an option, or name their file or id."""
    for item in items:
        plain = item.get_closest_marker("mostly_slow")
        if plain is not None and _parameters_of(item) not in plain.args:
            item.add_marker("slow")
    if _selects_slow_tests(config):
        return
    paths = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        is_selected = item.path in paths or item.get_closest_marker("slow") is None
        (selected if is_selected else deselected).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = selected


def _selects_slow_tests(config: pytest.Config) -> bool:
    return bool(config.option.all or config.option.markexpr)


def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis try fewer examples in plain runs, and collect garbage less often.

    Most objects are modules and tests, which stay.
    """
    if _load_profile is not None:
        _load_profile("all" if _selects_slow_tests(config) else "plain")
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave modules and tests out of later garbage collections, of which some tests need many."""
    if _start_hypothesis is not None:
        # It asks the garbage collector about them, which does not know frozen objects.
        _start_hypothesis()
    gc.freeze()


def pytest_sessionstart() -> None:
    """Start without an event loop, and with signals that are not ignored.

    pytest-asyncio creates a loop before its first test, and the next `asyncio.run` drops it without
    closing it. The test that runs when it is garbage-collected would fail.

    Some shells start background jobs with SIGINT ignored, and `nohup` ignores SIGHUP. The programs
    that tests interrupt would inherit that, and wait forever.
    """
    asyncio.set_event_loop(None)
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


class _TestModule(pytest.Module):
    """A test module that is skipped if it imports a package that is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        with skip_if_extra_is_missing():
            return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    """Collect tests whatever extras are installed."""
    return _TestModule.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test if it or one of its fixtures needs a package that is not installed."""
    if inspect.iscoroutinefunction(getattr(item, "obj", None)):
        if not item.config.pluginmanager.has_plugin("asyncio"):
            command = install_command("langchain-image-variation[test]")
            pytest.skip(f"pytest-asyncio is not loaded; run: {command}")
    with skip_if_extra_is_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test that needs a package that is not installed."""
    with skip_if_extra_is_missing():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def one_certificate_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust a single certificate authority, here and in the processes of tests.

    No test uses a server with a public certificate. Each httpx client loads all authorities, which
    takes ten times as long as a request.
    """
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("authority") / "one.pem"
    path.write_text(certifi.contents().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The installed Chromium."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def preloaded() -> None:
    """Import the modules that inner runs of `pytester` import.

    `pytester` removes new modules from `sys.modules` afterwards, and some of them cannot be
    imported twice.
    """
    for name in _PRELOADED_MODULES:
        import_module(name)


@pytest.fixture
def run(preloaded: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a suite strictly, with our plugin and only the other plugins in its arguments."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "IMAGE_VARIATION_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(source: str, *arguments: str) -> pytest.RunResult:
        skip_without_imports(source, *arguments)
        pytester.makepyfile(test_it=source)
        strict = ("-p", "image_variation", "--strict-markers", "-W", "error")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pytest.PytestAssertRewriteWarning)
            return pytester.runpytest_inprocess(
                *strict, *_IGNORE_LOADED_PLUGINS, "-p", "no:cacheprovider", *arguments
            )

    return run
