"""The pytest plugin `image_variation`: its options, marker and fixtures.

Loading the plugin imports only pytest and the standard library. Each fixture imports what it needs
when it is used.
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
from pytest_image_variation.kit_reporter import KitReporter, prepare_rules
from pytest_image_variation.marker import fail

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

_SESSION = pytest.StashKey[Any]()
_PASSED = pytest.StashKey[bool]()
_REPORTED = pytest.StashKey[list[str] | None]()
_ONE_SESSION_ONLY = (
    "A test can use image_variation_server or image_variation_cassette, but not both. If a test "
    "has the marker and calls request.getfixturevalue('image_variation_server'), add "
    "image_variation_server to its arguments."
)
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
# The SDK warns that create_variation is deprecated; the whole text is "deprecated".
_IGNORE_SDK_WARNING = pytest.mark.filterwarnings("ignore:deprecated$:DeprecationWarning")
_FIXTURES = "image_variation_"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker and check the options."""
    for line in marker.LINES:
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(KitReporter(config), "image_variation_outcomes")
    options.check(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Apply the kit's lists, and ignore the SDK's deprecation in tests that use a fixture."""
    rules = [
        item
        for item in items
        if any(item.get_closest_marker(level) for level in marker.LEVELS)
        and "rule" in getattr(getattr(item, "callspec", None), "params", ())
    ]
    if rules:
        prepare_rules(config, rules)
    if not config.pluginmanager.has_plugin("warnings"):
        return
    for item in items:
        names = getattr(item, "fixturenames", ())
        if any(item.get_closest_marker(name) for name in ("image_variation", "vcr")) or any(
            name.startswith(_FIXTURES) for name in names
        ):
            item.add_marker(_IGNORE_SDK_WARNING, append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that passed although its scenarios were not met."""
    item.stash[_PASSED] = False
    try:
        yield
    except BaseException:
        # The test's own failure comes first, but an unexpected request may be its cause. Unused
        # scenarios are not, since the test did not run to its end.
        if _SESSION in item.stash and (problems := _problems(item, unused=False)):
            item.add_report_section("call", "image variations", "\n".join(problems))
        raise
    if _SESSION in item.stash:
        problems = item.stash[_REPORTED] = _problems(item)
        if problems:
            fail("\n".join(problems))
    item.stash[_PASSED] = True


@pytest.hookimpl(optionalhook=True)
def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:
    """Register our matchers with pytest-recording."""
    from pytest_image_variation.vcr_settings import multipart, multipart_pixels

    vcr.register_matcher("multipart", multipart)
    vcr.register_matcher("multipart_pixels", multipart_pixels)


# Servers and cassettes...


@pytest.fixture(scope="session")
def image_variation_loopback() -> Iterator[_LazyLoopback]:
    """The server behind all tests. Its `view()` gives a fixture of any scope its own base URL.

    A view does not fail tests by itself: check `view.expectations.problems()`.
    """
    server = _LazyLoopback(
        _import_for("loopback", "image_variation_server", "pytest,server").Loopback
    )
    with pytest.MonkeyPatch.context() as patch:
        # Until the session ends, because several views may be in use at once.
        _bypass_proxy(patch)
        yield server
    server.close()


class _LazyLoopback:
    """Starts the server with the first view, so that a blocked socket fails only its own test."""

    def __init__(self, start: Callable[[], Loopback]) -> None:
        self._start = start
        self._server: Loopback | None = None

    def view(self) -> AbstractContextManager[View]:
        """Give one test its own base URL while the block runs."""
        if self._server is None:
            self._server = self._try_start()
        if self._server is None:
            fail(
                "image_variation_server needs a socket, but pytest-socket blocks sockets. Pass "
                "--allow-hosts=127.0.0.1, or use image_variation_cassette, which needs none."
            )
        return self._server.view()

    def _try_start(self) -> Loopback | None:
        try:
            with warnings.catch_warnings():
                # pytest-socket warns when it creates its error.
                warnings.simplefilter("ignore", UserWarning)
                return self._start()
        except RuntimeError as error:
            if "Socket" not in type(error).__name__:
                raise
        return None

    def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.close()


@pytest.fixture
def image_variation_server(request: pytest.FixtureRequest) -> Iterator[View | LiveSession]:
    """A validating server on 127.0.0.1, for this test only.

    It responds as the vendor's server did. It has `base_url`, `api_key`, `journal`,
    `scenario(name)`, `fail_next(name)` and `delay(seconds)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from _live_session(request)
        return
    loopback = request.getfixturevalue("image_variation_loopback")
    with pytest.MonkeyPatch.context() as patch, loopback.view() as view:
        _bypass_proxy(patch)
        yield from _play(request, view)


@pytest.fixture
def image_variation_cassette(request: pytest.FixtureRequest) -> Iterator[Replay | LiveSession]:
    """The recorded scenarios, replayed to every HTTP client of the process without a socket.

    It has `base_url`, `api_key`, `journal` and `scenario(name)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from _live_session(request)
        return
    if "image_variation_server" in request.fixturenames:
        fail(_ONE_SESSION_ONLY)
    with _import_for("replay", "image_variation_cassette", "pytest").replay_cassettes() as replay:
        yield from _play(request, replay)


@pytest.fixture(autouse=True)
def _image_variation_marker(request: pytest.FixtureRequest) -> None:
    """Play the scenarios that the marker names."""
    if request.node.get_closest_marker("image_variation") is not None:
        names, _ = marker.settings(request.node)
        if names:
            _session_of(request)


@pytest.fixture
def image_variation_env(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> View | Replay | LiveSession:
    """Sets `OPENAI_BASE_URL` and `OPENAI_API_KEY` to the test's cassettes or server."""
    session: View | Replay | LiveSession = _session_of(request)
    monkeypatch.setenv("OPENAI_BASE_URL", session.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", session.api_key)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    return session


# Clients...


@pytest.fixture
def image_variation_client(request: pytest.FixtureRequest) -> Iterator[ImageVariationClient]:
    """An `ImageVariationClient` for the test's cassettes or server."""
    from langchain_image_variation import ImageVariationClient

    with ImageVariationClient(**_client_settings(request)) as client:
        yield client


@pytest.fixture
def image_variation_async_client(
    request: pytest.FixtureRequest,
) -> Iterator[AsyncImageVariationClient]:
    """An `AsyncImageVariationClient` for the test's cassettes or server, on asyncio or trio."""
    import httpx

    from langchain_image_variation import AsyncImageVariationClient
    from langchain_image_variation.hosted.session import new_async_client

    settings = _client_settings(request)
    # Keep no connections: nothing could close them after the test's event loop is gone.
    base_url = httpx.URL(settings["base_url"])
    http_client = new_async_client(base_url, max_keepalive_connections=0)
    yield AsyncImageVariationClient(**settings, http_client=http_client)


@pytest.fixture
def image_variation_tool(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ImageVariationTool]:
    """An `ImageVariationTool` for the same; its folder contains `square.png`."""
    from langchain_image_variation import ImageVariationClient, ImageVariationTool

    # Not the fixture square_png, which the suite may override.
    (tmp_path / "square.png").write_bytes(_sample("square_png"))
    with ImageVariationClient(**_client_settings(request), normalize=True) as client:
        yield ImageVariationTool(root_dir=tmp_path, engine=client)


@pytest.fixture(scope="session")
def assert_images_response() -> Callable[..., None]:
    """`assert_images_response(response, n=…, size=…, response_format=…)` checks a response."""
    from pytest_image_variation import assertions

    return assertions.assert_images_response


# Samples...


@pytest.fixture(scope="session")
def square_png() -> bytes:
    """A valid image: a square PNG of 64x64 pixels."""
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
    """A square PNG whose pixels cannot be decompressed."""
    return _sample("corrupt_png")


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A JPEG of 96x64 pixels."""
    return _sample("jpeg")


def _sample(name: str) -> bytes:
    from pytest_image_variation import samples

    data: bytes = getattr(samples, name)()
    return data


# Implementation...


def _import_for(module: str, fixture: str, extras: str) -> Any:
    """Import a module for a fixture, or fail the test with the extras to install."""
    try:
        return import_module(f"pytest_image_variation.{module}")
    except ImportError as error:
        # Our own MissingExtraError has no `name`, but the error that it wraps does.
        missing = (error.name or getattr(error.__context__, "name", None) or "").partition(".")[0]
        if missing in ("", "pytest_image_variation"):
            raise
    from langchain_image_variation.exceptions import install_command

    command = install_command(f"langchain-image-variation[{extras}]")
    fail(f"{fixture} needs {missing}, which is not installed. Run: {command}")


def _session_of(request: pytest.FixtureRequest) -> Any:
    """Return the session that a test names, or the one that its marker implies."""
    names, _ = marker.settings(request.node)
    has_server = "image_variation_server" in request.fixturenames
    has_cassette = bool(names) or "image_variation_cassette" in request.fixturenames
    return request.getfixturevalue(
        "image_variation_cassette" if has_cassette and not has_server else "image_variation_server"
    )


def _play(request: pytest.FixtureRequest, session: Any) -> Iterator[Any]:
    """Expect the scenarios of the test's marker, and check them when the test ends."""
    item = request.node
    if _SESSION in item.stash:
        fail(_ONE_SESSION_ONLY)
    names, _ = marker.settings(item)
    for name in names:
        error = _expect(session, name)
        if error:
            fail(error)
    item.stash[_SESSION] = session
    if request.config.pluginmanager.has_plugin("warnings"):
        # A test may request the fixture while it runs: ignore the warning now and in later phases.
        warnings.filterwarnings("ignore", "deprecated$", DeprecationWarning)
        item.add_marker(_IGNORE_SDK_WARNING, append=False)
    yield session
    # Requests may still come after the test, from another fixture's teardown or from a thread.
    reported = item.stash.get(_REPORTED, None)
    late_problems = [] if reported is None else [p for p in _problems(item) if p not in reported]
    # Reset, in case the test runs again.
    del item.stash[_SESSION]
    item.stash[_REPORTED] = None
    if late_problems:
        fail("\n".join(late_problems))


def _bypass_proxy(patch: pytest.MonkeyPatch) -> None:
    """Let clients reach 127.0.0.1 directly if the environment names a proxy."""
    if not any(os.environ.get(name) for name in _PROXIES):
        return
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if others.strip() != "*" and "127.0.0.1" not in others.split(","):
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, f"{others},127.0.0.1".lstrip(","))


def _expect(session: Any, name: str) -> str:
    """Expect a scenario, and return the error in its name, or an empty string."""
    try:
        session.scenario(name)
    except ValueError as error:
        return str(error)
    return ""


def _problems(item: pytest.Item, *, unused: bool = True) -> list[str]:
    _, allowed = marker.settings(item)
    problems: list[str] = item.stash[_SESSION].expectations.problems(
        unused=unused and not allowed["allow_unused"], unexpected=not allowed["allow_unexpected"]
    )
    return problems


def _live_session(request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    live_session = _import_for("live_session", "--image-variation-url", "pytest")
    config = request.config
    key = config.getoption("--image-variation-api-key") or os.environ.get("IMAGE_VARIATION_API_KEY")
    session = live_session.LiveSession(
        config.getoption("--image-variation-url").rstrip("/"), key or "none"
    )
    folder = config.getoption("--image-variation-record")
    path = None
    if folder is not None:
        path = _cassette_path(folder, request.node.nodeid)
    # A test that fails does not replace an earlier recording.
    with live_session.record(session, path, keep=lambda: request.node.stash.get(_PASSED, False)):
        yield from _play(request, session)


def _cassette_path(folder: str, test: str) -> Path:
    """Return the path of a test's recording: unique, and valid on every file system."""
    module, _, test_name = test.partition("::")
    function, bracket, parameters = test_name.partition("[")
    name = function.replace("::", ".") + bracket + parameters
    safe = "".join(c if c.isalnum() or c in "._-[]" else "_" for c in name)
    if safe != name:
        safe += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(folder, *Path(module).with_suffix("").parts, f"{safe}.yaml")


def _client_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    session = _session_of(request)
    return {
        "base_url": session.base_url,
        "api_key": session.api_key,
        "organization": "",
        "project": "",
        "model": request.config.getoption("--image-variation-model"),
    }
