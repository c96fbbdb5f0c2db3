"""The pytest plugin `image_variation`: options, the marker, and the fixtures.

Loading it imports pytest and nothing else that is not in the standard library; a fixture imports
what it needs when it is used.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_image_variation import marker, options
from pytest_image_variation.marker import stop

if TYPE_CHECKING:
    from langchain_image_variation import (
        AsyncImageVariationClient,
        ImageVariationClient,
        ImageVariationTool,
    )
    from pytest_image_variation.live_session import LiveSession
    from pytest_image_variation.loopback import Loopback, View
    from pytest_image_variation.replay import Replay

__all__: list[str] = []

_PLAYED = pytest.StashKey[Any]()
_PASSED = pytest.StashKey[bool]()
_TOLD = pytest.StashKey[list[str] | None]()
_EITHER = (
    "A test has either image_variation_server or image_variation_cassette; one that asks for a "
    "fixture by its name as it runs, and has a marker, names image_variation_server in its "
    "signature too."
)
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
# The whole text of the SDK's warning is "deprecated".
_QUIET = pytest.mark.filterwarnings("ignore:deprecated$:DeprecationWarning")
_FIXTURES = "image_variation_"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker and check the options."""
    for line in marker.LINES:
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(_Outcomes(config), "image_variation_outcomes")
    options.check(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Apply the lists of the kit; let the vendor's SDK call in tests what it says is deprecated."""
    rules = [
        item
        for item in items
        if any(item.get_closest_marker(level) for level in marker.LEVELS)
        and "rule" in getattr(getattr(item, "callspec", None), "params", ())
    ]
    if rules:
        _about_rules(config, rules)
    if not config.pluginmanager.has_plugin("warnings"):
        return
    for item in items:
        names = getattr(item, "fixturenames", ())
        if any(item.get_closest_marker(name) for name in ("image_variation", "vcr")) or any(
            name.startswith(_FIXTURES) for name in names
        ):
            item.add_marker(_QUIET, append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that passed, but whose scenarios were not met."""
    item.stash[_PASSED] = False
    try:
        yield
    except BaseException:
        # Its own reason comes first; that a request was refused may be why. What it did not come
        # to use says nothing.
        if _PLAYED in item.stash and (problems := _problems(item, unused=False)):
            item.add_report_section("call", "image variations", "\n".join(problems))
        raise
    if _PLAYED in item.stash:
        problems = item.stash[_TOLD] = _problems(item)
        if problems:
            stop("\n".join(problems))
    item.stash[_PASSED] = True


@pytest.hookimpl(optionalhook=True)
def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:
    """Give pytest-recording's cassettes our matchers."""
    from pytest_image_variation.vcr_settings import multipart, multipart_pixels

    vcr.register_matcher("multipart", multipart)
    vcr.register_matcher("multipart_pixels", multipart_pixels)


def _about_rules(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say in each report which rule it is about, and mark the tests that a list names."""
    from pytest_image_variation.conformance import report, rule_lists

    for item in items:
        rule = item.callspec.params["rule"]  # type: ignore[attr-defined]  # of parametrized tests
        item.user_properties.append((report.RULE, report.as_property(rule)))
    rule_lists.apply_lists(
        items,
        config.getoption("--image-variation-skips"),
        config.getoption("--image-variation-xfails"),
    )


class _Outcomes:
    """What came of the rules of the conformance kit, in this process or in those of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally: Any = None
        self._unwritten = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test of a rule."""
        rule = dict(report.user_properties).get("image_variation_rule")
        if rule is not None:
            self._told().add(report, rule)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report of what was run."""
        option = self._config.getoption
        path = option("--image-variation-report")
        if not path or option("--collect-only") or hasattr(self._config, "workerinput"):
            return
        try:
            self._told().write(Path(path), option("--image-variation-url"), exitstatus)
        except OSError:
            self._unwritten = True
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell how many rules of each level are kept."""
        if self._tally is not None:
            terminalreporter.section("conformance of image variations")
            for line in self._tally.lines():
                terminalreporter.write_line(line)
        if self._unwritten:
            terminalreporter.write_line(
                "The report of --image-variation-report could not be written."
            )

    def _told(self) -> Any:
        if self._tally is None:
            from pytest_image_variation.conformance.report import Tally

            self._tally = Tally()
        return self._tally


# What a test plays...


@pytest.fixture(scope="session")
def image_variation_loopback() -> Iterator[_Lazy]:
    """The server of all tests; its `view()` gives an address to a fixture of any scope.

    A view fails no test by itself: `view.expectations.problems()` tells what was not met.
    """
    server = _Lazy(_imported("loopback", "image_variation_server", "pytest,server").Loopback)
    with pytest.MonkeyPatch.context() as patch:
        # To the end of the session, since views are used at the same time.
        _without_proxy(patch)
        yield server
    server.close()


class _Lazy:
    """Starts the server with the first view, so that only a test that may not, fails for it."""

    def __init__(self, start: Callable[[], Loopback]) -> None:
        self._start = start
        self._server: Loopback | None = None

    def view(self) -> AbstractContextManager[View]:
        """Give an address of its own to one test, while the block runs."""
        if self._server is None:
            self._server = self._started()
        if self._server is None:
            stop(
                "image_variation_server needs a socket, and pytest-socket blocks them; pass "
                "--allow-hosts=127.0.0.1, or use image_variation_cassette, which needs none."
            )
        return self._server.view()

    def _started(self) -> Loopback | None:
        try:
            with warnings.catch_warnings():
                # pytest-socket's error warns when it is made.
                warnings.simplefilter("ignore", UserWarning)
                return self._start()
        except RuntimeError as error:
            if "Socket" not in type(error).__name__:
                raise
        return None

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()


@pytest.fixture
def image_variation_server(request: pytest.FixtureRequest) -> Iterator[View | LiveSession]:
    """A validating server on 127.0.0.1, of this test alone.

    It answers as the vendor's did, and has `base_url`, `api_key`, `journal`, `scenario(name)`,
    `fail_next(name)` and `delay(seconds)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from _live(request)
        return
    loopback = request.getfixturevalue("image_variation_loopback")
    with pytest.MonkeyPatch.context() as patch, loopback.view() as view:
        _without_proxy(patch)
        yield from _played(request, view)


@pytest.fixture
def image_variation_cassette(request: pytest.FixtureRequest) -> Iterator[Replay | LiveSession]:
    """The recorded scenarios, played to every HTTP client of the process without a socket.

    It has `base_url`, `api_key`, `journal` and `scenario(name)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from _live(request)
        return
    if "image_variation_server" in request.fixturenames:
        stop(_EITHER)
    with _imported("replay", "image_variation_cassette", "pytest").replaying() as replay:
        yield from _played(request, replay)


@pytest.fixture(autouse=True)
def _image_variation_marked(request: pytest.FixtureRequest) -> None:
    """Play the scenarios that a marker names."""
    if request.node.get_closest_marker("image_variation") is not None:
        names, _ = marker.settings(request.node)
        if names:
            _door(request)


@pytest.fixture
def image_variation_env(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> View | Replay | LiveSession:
    """`OPENAI_BASE_URL` and `OPENAI_API_KEY` name what the test plays: cassettes or the server."""
    door: View | Replay | LiveSession = _door(request)
    monkeypatch.setenv("OPENAI_BASE_URL", door.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", door.api_key)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    return door


# What asks...


@pytest.fixture
def image_variation_client(request: pytest.FixtureRequest) -> Iterator[ImageVariationClient]:
    """An `ImageVariationClient` of what the test plays."""
    from langchain_image_variation import ImageVariationClient

    with ImageVariationClient(**_client_settings(request)) as client:
        yield client


@pytest.fixture
def image_variation_async_client(
    request: pytest.FixtureRequest,
) -> Iterator[AsyncImageVariationClient]:
    """An `AsyncImageVariationClient` of what the test plays, for asyncio and trio."""
    import httpx

    from langchain_image_variation import AsyncImageVariationClient

    settings = _client_settings(request)
    # With no connection kept there is nothing to close, once the test's event loop is gone.
    limits = httpx.Limits(max_keepalive_connections=0)
    http_client = httpx.AsyncClient(limits=limits)
    yield AsyncImageVariationClient(**settings, http_client=http_client)


@pytest.fixture
def image_variation_tool(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ImageVariationTool]:
    """An `ImageVariationTool` over what the test plays, in a folder that has `square.png`."""
    from langchain_image_variation import ImageVariationClient, ImageVariationTool

    # The fixture square_png may be the suite's own.
    (tmp_path / "square.png").write_bytes(_sample("square_png"))
    with ImageVariationClient(**_client_settings(request), normalize=True) as client:
        yield ImageVariationTool(root_dir=tmp_path, engine=client)


@pytest.fixture(scope="session")
def assert_images_response() -> Callable[..., None]:
    """`assert_images_response(response, n=…, size=…, response_format=…)`, from `assertions`."""
    from pytest_image_variation import assertions

    return assertions.assert_images_response


# Samples...


@pytest.fixture(scope="session")
def square_png() -> bytes:
    """A legal picture: a square PNG of 64 pixels."""
    return _sample("square_png")


@pytest.fixture(scope="session")
def non_square_png() -> bytes:
    """A PNG of 96x64 pixels."""
    return _sample("non_square_png")


@pytest.fixture(scope="session")
def oversized_png() -> bytes:
    """A square PNG of more than 4 MB."""
    return _sample("oversized_png")


@pytest.fixture(scope="session")
def truncated_png() -> bytes:
    """The first half of a square PNG."""
    return _sample("truncated_png")


@pytest.fixture(scope="session")
def corrupt_png() -> bytes:
    """A square PNG whose pixels cannot be inflated."""
    return _sample("corrupt_png")


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A JPEG of 96x64 pixels."""
    return _sample("jpeg")


def _sample(name: str) -> bytes:
    from pytest_image_variation import samples

    made: bytes = getattr(samples, name)()
    return made


# Behind the fixtures...


def _imported(module: str, fixture: str, extras: str) -> Any:
    """Import what a fixture needs, or name the extras that bring what is missing."""
    try:
        return import_module(f"pytest_image_variation.{module}")
    except ImportError as error:
        # The server's own error names what it misses in a message.
        missing = (error.name or getattr(error.__context__, "name", None) or "").partition(".")[0]
        if missing in ("", "pytest_image_variation"):
            raise
    stop(
        f"{fixture} needs {missing}, which is not installed: "
        f"pip install 'langchain-image-variation[{extras}]'"
    )


def _door(request: pytest.FixtureRequest) -> Any:
    """Return what a test plays: what it names itself, or the cassettes of its marker."""
    names, _ = marker.settings(request.node)
    wants_server = "image_variation_server" in request.fixturenames
    wants_cassette = bool(names) or "image_variation_cassette" in request.fixturenames
    return request.getfixturevalue(
        "image_variation_cassette"
        if wants_cassette and not wants_server
        else "image_variation_server"
    )


def _played(request: pytest.FixtureRequest, door: Any) -> Iterator[Any]:
    """Ask for the scenarios of the test's marker, and check them when the test is over."""
    item = request.node
    if _PLAYED in item.stash:
        stop(_EITHER)
    names, _ = marker.settings(item)
    for name in names:
        mistake = _mistake(door, name)
        if mistake:
            stop(mistake)
    item.stash[_PLAYED] = door
    if request.config.pluginmanager.has_plugin("warnings"):
        # For a fixture that was asked for as the test runs: now, and in the phases to come.
        warnings.filterwarnings("ignore", "deprecated$", DeprecationWarning)
        item.add_marker(_QUIET, append=False)
    yield door
    # What came after the test, from another fixture that was torn down or from a thread.
    told = item.stash.get(_TOLD, None)
    late = [] if told is None else [p for p in _problems(item) if p not in told]
    # A test that is run again begins anew.
    del item.stash[_PLAYED]
    item.stash[_TOLD] = None
    if late:
        stop("\n".join(late))


def _without_proxy(patch: pytest.MonkeyPatch) -> None:
    """Let clients reach 127.0.0.1 directly where the environment names a proxy."""
    if not any(os.environ.get(name) for name in _PROXIES):
        return
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if others.strip() != "*" and "127.0.0.1" not in others.split(","):
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, f"{others},127.0.0.1".lstrip(","))


def _mistake(door: Any, name: str) -> str:
    """Ask for a scenario, and return what is wrong with its name."""
    try:
        door.scenario(name)
    except ValueError as error:
        return str(error)
    return ""


def _problems(item: pytest.Item, *, unused: bool = True) -> list[str]:
    _, allowed = marker.settings(item)
    problems: list[str] = item.stash[_PLAYED].expectations.problems(
        unused=unused and not allowed["allow_unused"], unexpected=not allowed["allow_unexpected"]
    )
    return problems


def _live(request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    live = _imported("live_session", "--image-variation-url", "pytest")
    config = request.config
    key = config.getoption("--image-variation-api-key") or os.environ.get("IMAGE_VARIATION_API_KEY")
    door = live.LiveSession(config.getoption("--image-variation-url").rstrip("/"), key or "none")
    folder = config.getoption("--image-variation-record")
    path = None
    if folder is not None:
        path = _cassette(folder, request.node.nodeid)
    # A test that fails leaves what was recorded before.
    with live.recording(door, path, keep=lambda: request.node.stash.get(_PASSED, False)):
        yield from _played(request, door)


def _cassette(folder: str, test: str) -> Path:
    """Return where a test's recording is written: a file of its own, under a name for any disk."""
    module, _, name = test.partition("::")
    function, bracket, case = name.partition("[")
    named = function.replace("::", ".") + bracket + case
    safe = "".join(c if c.isalnum() or c in "._-[]" else "_" for c in named)
    if safe != named:
        safe += f"-{hashlib.sha256(named.encode()).hexdigest()[:8]}"
    return Path(folder, *Path(module).with_suffix("").parts, f"{safe}.yaml")


def _client_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    door = _door(request)
    return {
        "base_url": door.base_url,
        "api_key": door.api_key,
        "organization": "",
        "project": "",
        "model": request.config.getoption("--image-variation-model"),
    }
