"""The pytest plugin `image_variation`: its options, marker and fixtures.

Loading the plugin imports only pytest and the standard library. Each fixture imports what it needs
when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_image_variation import marker, options
from pytest_image_variation.item_session import (
    check_scenarios,
    import_for,
    open_live_session,
    play,
    refuse_second_session,
    session_of,
)
from pytest_image_variation.kit_reporter import KitReporter, prepare_rules
from pytest_image_variation.lazy_loopback import LazyLoopback, bypass_proxy

if TYPE_CHECKING:
    from langchain_image_variation import (
        AsyncImageVariationClient,
        ImageVariationClient,
        ImageVariationTool,
    )
    from pytest_image_variation.live_session import LiveSession
    from pytest_image_variation.loopback_session import LoopbackSession
    from pytest_image_variation.replay import Replay

__all__: list[str] = []

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
            marker.ignore_sdk_warning(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that passed although its scenarios were not met."""
    yield from check_scenarios(item)


@pytest.hookimpl(optionalhook=True)
def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:
    """Register our matchers with pytest-recording."""
    from pytest_image_variation.vcr_settings import multipart, multipart_pixels

    vcr.register_matcher("multipart", multipart)
    vcr.register_matcher("multipart_pixels", multipart_pixels)


# Servers and cassettes...


@pytest.fixture(scope="session")
def image_variation_loopback() -> Iterator[LazyLoopback]:
    """The server behind all tests. Its `view()` gives a fixture of any scope its own base URL.

    A view does not fail tests by itself: check `view.expectations.problems()`.
    """
    module = import_for("loopback", "image_variation_server", "pytest,server")
    server = LazyLoopback(module.Loopback)
    with pytest.MonkeyPatch.context() as patch:
        # Until the session ends, because several views may be in use at once.
        bypass_proxy(patch)
        yield server
    server.close()


@pytest.fixture
def image_variation_server(
    request: pytest.FixtureRequest,
) -> Iterator[LoopbackSession | LiveSession]:
    """A validating server on 127.0.0.1, for this test only.

    It responds as the vendor's server did. It has `base_url`, `api_key`, `journal`,
    `scenario(name)`, `fail_next(name)` and `delay(seconds)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from open_live_session(request)
        return
    loopback = request.getfixturevalue("image_variation_loopback")
    with pytest.MonkeyPatch.context() as patch, loopback.view() as view:
        bypass_proxy(patch)
        yield from play(request, view)


@pytest.fixture
def image_variation_cassette(request: pytest.FixtureRequest) -> Iterator[Replay | LiveSession]:
    """The recorded scenarios, replayed to every HTTP client of the process without a socket.

    It has `base_url`, `api_key`, `journal` and `scenario(name)`.
    """
    if request.config.getoption("--image-variation-url"):
        yield from open_live_session(request)
        return
    if "image_variation_server" in request.fixturenames:
        refuse_second_session()
    with import_for("replay", "image_variation_cassette", "pytest").replay_cassettes() as replay:
        yield from play(request, replay)


@pytest.fixture(autouse=True)
def _image_variation_marker(request: pytest.FixtureRequest) -> None:
    """Play the scenarios that the marker names."""
    if request.node.get_closest_marker("image_variation") is not None:
        names, _ = marker.settings(request.node)
        if names:
            session_of(request)


@pytest.fixture
def image_variation_env(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> LoopbackSession | Replay | LiveSession:
    """Sets `OPENAI_BASE_URL` and `OPENAI_API_KEY` to the test's cassettes or server."""
    session: LoopbackSession | Replay | LiveSession = session_of(request)
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
    """An `ImageVariationTool` for the test's cassettes or server. `root_dir` has a `square.png`."""
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


def _client_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    session = session_of(request)
    return {
        "base_url": session.base_url,
        "api_key": session.api_key,
        "organization": "",
        "project": "",
        "model": request.config.getoption("--image-variation-model"),
    }
