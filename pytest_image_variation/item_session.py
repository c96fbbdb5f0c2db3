"""The session of a test: it plays the scenarios of the marker, and checks that they were met."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_image_variation import marker
from pytest_image_variation.marker import fail

if TYPE_CHECKING:
    from pytest_image_variation.live_session import LiveSession

__all__ = [
    "check_scenarios",
    "import_for",
    "open_live_session",
    "play",
    "refuse_second_session",
    "session_of",
]

_SESSION = pytest.StashKey[Any]()
_PASSED = pytest.StashKey[bool]()
_REPORTED = pytest.StashKey[list[str] | None]()


def import_for(module: str, fixture: str, extras: str) -> Any:
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


def session_of(request: pytest.FixtureRequest) -> Any:
    """Return the session that a test names, or the one that its marker implies."""
    names, _ = marker.settings(request.node)
    has_server = "image_variation_server" in request.fixturenames
    has_cassette = bool(names) or "image_variation_cassette" in request.fixturenames
    return request.getfixturevalue(
        "image_variation_cassette" if has_cassette and not has_server else "image_variation_server"
    )


def play(request: pytest.FixtureRequest, session: Any) -> Iterator[Any]:
    """Expect the scenarios of the test's marker, and check them when the test ends."""
    item = request.node
    if _SESSION in item.stash:
        refuse_second_session()
    names, _ = marker.settings(item)
    for name in names:
        error = _expect(session, name)
        if error:
            fail(error)
    item.stash[_SESSION] = session
    if request.config.pluginmanager.has_plugin("warnings"):
        # A test may request the fixture while it runs: ignore the warning now and in later phases.
        warnings.filterwarnings("ignore", "deprecated$", DeprecationWarning)
        marker.ignore_sdk_warning(item)
    yield session
    # Requests may still come after the test, from another fixture's teardown or from a thread.
    reported = item.stash.get(_REPORTED, None)
    late_problems = [] if reported is None else [p for p in _problems(item) if p not in reported]
    # Reset, in case the test runs again.
    del item.stash[_SESSION]
    item.stash[_REPORTED] = None
    if late_problems:
        fail("\n".join(late_problems))


def refuse_second_session() -> NoReturn:
    """Fail a test that uses both the server and the cassettes."""
    fail(
        "A test can use image_variation_server or image_variation_cassette, but not both. If a "
        "test has the marker and calls request.getfixturevalue('image_variation_server'), add "
        "image_variation_server to its arguments."
    )


def check_scenarios(item: pytest.Item) -> Iterator[None]:
    """Run a test, and fail it if it passed although its scenarios were not met."""
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


def _expect(session: Any, name: str) -> str:
    """Expect a scenario. Return what is wrong with its name, or an empty string."""
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


def open_live_session(request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    """Play the scenarios on the server of `--image-variation-url`, and record them if asked to."""
    live_session = import_for("live_session", "--image-variation-url", "pytest")
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
        yield from play(request, session)


def _cassette_path(folder: str, test: str) -> Path:
    """Return the path of a test's recording: unique, and valid on every file system."""
    module, _, test_name = test.partition("::")
    function, bracket, parameters = test_name.partition("[")
    name = function.replace("::", ".") + bracket + parameters
    safe = "".join(c if c.isalnum() or c in "._-[]" else "_" for c in name)
    if safe != name:
        safe += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(folder, *Path(module).with_suffix("").parts, f"{safe}.yaml")
