"""The plugin together with other plugins, and the cost of loading it."""

import importlib.util
import json
import subprocess
import sys
from importlib import metadata

import pytest

from langchain_image_variation.exceptions import install_command
from tests.conftest import Run
from tests.extras import skip_without

ONE = """
import httpx, pytest

@pytest.mark.image_variation("endpoint_removed")
def test_it():
    assert httpx.post("https://x.example/v1/images/variations").status_code == 404
"""

NEIGHBORS = {
    "pytest_recording.plugin": "pytest-recording",
    "pytest_vcr": "pytest-vcr",
    "pytest_httpx": "pytest-httpx",
    "respx.plugin": "respx",
    "pytest_socket": "pytest-socket",
    "cassetter.pytest_plugin": "cassetter",
    "pytest_asyncio.plugin": "pytest-asyncio",
    "anyio.pytest_plugin": "anyio",
    "xdist.plugin": "pytest-xdist",
    "aimock_pytest.plugin": "aimock-pytest",
    "openai_responses.plugin": "openai-responses",
    "pytest_randomly": "pytest-randomly",
}


def test_plugin_imports_only_pytest() -> None:
    """Loading the plugin imports no HTTP library, no vcrpy and no Pillow."""
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import pytest_image_variation.plugin, json\n"
        "print(json.dumps(sorted(set(sys.modules) - before - {'json'})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded_modules = json.loads(done.stdout)
    names = ("item_session", "kit_reporter", "lazy_loopback", "marker", "options", "plugin")
    ours = {f"pytest_image_variation.{name}" for name in names}
    others = {
        name.partition(".")[0] for name in set(loaded_modules) - ours - {"pytest_image_variation"}
    }
    assert others <= set(sys.stdlib_module_names)
    assert len(loaded_modules) < 15


def test_plugin_has_the_name_of_its_entry_point() -> None:
    """`-p no:image_variation` takes the name of the entry point."""
    (entry,) = [e for e in metadata.entry_points(group="pytest11") if e.name == "image_variation"]
    assert entry.value == "pytest_image_variation.plugin"


@pytest.mark.slow
def test_plugin_is_loaded_and_can_be_disabled(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pytest loads the plugin without an option, and does not know its marker if it is disabled."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    pytester.makepyfile(ONE)
    others = {entry.name for entry in metadata.entry_points(group="pytest11")} - {"image_variation"}
    other_plugins_off = [word for name in sorted(others) for word in ("-p", f"no:{name}")]
    enabled = pytester.runpytest_subprocess(*other_plugins_off, "--strict-markers", timeout=60)
    enabled.assert_outcomes(passed=1)
    disable_option = ("-p", "no:image_variation")
    result = pytester.runpytest_subprocess(
        *other_plugins_off, *disable_option, "--strict-markers", timeout=60
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'image_variation' not found in `markers`*"])


@pytest.mark.parametrize("module", NEIGHBORS)
def test_other_plugins_do_not_interfere(run: Run, module: str) -> None:
    """With each of the other plugins, pytest starts and the cassettes are replayed."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{NEIGHBORS[module]} is not installed")
    scope = ("-o", "asyncio_default_fixture_loop_scope=function") if "asyncio" in module else ()
    result = run(ONE, "-p", module, "-W", "default", *scope)
    result.assert_outcomes(passed=1)


def test_fixture_names_have_our_prefix() -> None:
    """All fixtures except the samples have a prefix, so they do not collide with others."""
    from pytest_image_variation import plugin

    fixtures = {name for name, value in vars(plugin).items() if hasattr(value, "_fixture_function")}
    samples = {"square_png", "non_square_png", "oversized_png", "truncated_png", "corrupt_png"}
    others = {name for name in fixtures if not name.strip("_").startswith("image_variation_")}
    assert others == {*samples, "jpeg", "assert_images_response"}
    assert len(fixtures) > len(others) + 5


def test_pytest_recording_plays_our_cassettes(run: Run) -> None:
    """The marker of pytest-recording can play our cassettes with our matchers."""
    pytest.importorskip("pytest_recording")
    result = run(
        """
        import httpx, pytest
        from pytest_image_variation.vcr_settings import cassette_dir

        @pytest.mark.vcr(str(cassette_dir() / "success_b64_n2.yaml"), match_on=["method", "path"])
        def test_ours():
            answer = httpx.post("https://x.example/v1/images/variations", data={"n": "2"})
            assert len(answer.json()["data"]) == 2
        """,
        *("-p", "pytest_recording.plugin"),
    )
    result.assert_outcomes(passed=1)


def test_pytest_recording_records_forms(run: Run) -> None:
    """pytest-recording records a form once, matches by it, and reports a different `n`."""
    pytest.importorskip("pytest_recording")
    source = """
        import httpx, os, pytest
        from pytest_image_variation.vcr_settings import vcr_settings

        @pytest.fixture(scope="session")
        def vcr_config():
            return {**vcr_settings("pixels"), "match_on": ["method", "multipart_pixels"]}

        @pytest.mark.vcr
        def test_it(image_variation_loopback, square_png):
            with image_variation_loopback.view() as view:
                answer = httpx.post(
                    view.base_url + "/images/variations",
                    data={"n": os.environ["N"]}, files={"image": ("a.png", square_png)})
                assert len(answer.json()["data"]) == 2
                assert len(view.journal) == int(os.environ["RECORDING"])
        """
    options = ("-p", "pytest_recording.plugin")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("N", "2")
        environment.setenv("RECORDING", "1")
        run(source, *options, "--record-mode=once").assert_outcomes(passed=1)
        environment.setenv("RECORDING", "0")
        run(source, *options, "--record-mode=none").assert_outcomes(passed=1)
        environment.setenv("N", "3")
        result = run(source, *options, "--record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*n: '3' != '2'*"])


def test_pytest_socket_allows_cassettes(run: Run) -> None:
    """With pytest-socket, cassettes work, and the server says how to allow its socket."""
    pytest.importorskip("pytest_socket")
    source = (
        ONE
        + """
def test_server(image_variation_server):
    assert httpx.get(image_variation_server.base_url + "/models").status_code == 200
"""
    )
    socket = ("-p", "pytest_socket")
    blocked = run(source, *socket, "--disable-socket")
    blocked.assert_outcomes(passed=1, errors=1)
    blocked.stdout.fnmatch_lines(
        ["*Pass --allow-hosts=127.0.0.1, or use image_variation_cassette*"]
    )
    run(source, *socket, "--allow-hosts=127.0.0.1").assert_outcomes(passed=2)
    allowed = source.replace("def test_s", "@pytest.mark.enable_socket\ndef test_s")
    mixed = source + allowed.replace("test_server", "test_that_may").replace("test_it", "test_2")
    run(mixed, *socket, "--disable-socket").assert_outcomes(passed=3, errors=1)


def test_pytest_socket_allows_async_clients(run: Run) -> None:
    """With pytest-socket, async clients need only Unix sockets for their event loop."""
    pytest.importorskip("pytest_socket")
    source = """
        import aiohttp, httpx2, pytest
        pytestmark = pytest.mark.asyncio
        URL = "https://x.example/v1/images/variations"

        @pytest.mark.image_variation("endpoint_removed")
        async def test_aiohttp():
            async with aiohttp.ClientSession() as session, session.post(URL) as answer:
                assert answer.status == 404

        @pytest.mark.image_variation("endpoint_removed")
        async def test_httpx2():
            async with httpx2.AsyncClient() as client:
                assert (await client.post(URL)).status_code == 404
        """
    result = run(
        source,
        *("-p", "pytest_socket", "--disable-socket", "--allow-unix-socket"),
        *("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"),
    )
    result.assert_outcomes(passed=2)


def test_plugin_works_without_the_warnings_plugin(run: Run) -> None:
    """The plugin works without pytest's warnings plugin, whose marker then does not exist."""
    result = run(ONE, "-p", "no:warnings")
    result.assert_outcomes(passed=1)


ASYNC = """
import pytest
pytestmark = pytest.mark.anyio

@pytest.mark.image_variation("success_url_n2")
async def test_cassette(image_variation_async_client, square_png):
    answer = await image_variation_async_client.images.create_variation(image=square_png, n=2)
    assert len(answer.data) == 2

async def test_server(image_variation_async_client, image_variation_server, square_png):
    image_variation_server.fail_next("server_error")
    answer = await image_variation_async_client.images.create_variation(image=square_png, n=3)
    assert len(answer.data) == 3

async def test_strict(image_variation_server):
    image_variation_server.scenario("success_url_n1")
"""


def test_anyio_tests_run_on_asyncio_and_trio(run: Run) -> None:
    """With anyio, each test runs on asyncio and trio, and its scenarios are checked."""
    skip_without("trio")
    result = run(ASYNC, "-p", "anyio.pytest_plugin")
    result.assert_outcomes(passed=4, failed=2)


def test_pytest_asyncio_works_in_strict_mode(run: Run) -> None:
    """The plugin works with pytest-asyncio, even in its strict mode."""
    skip_without("pytest_asyncio")
    source = ASYNC.replace("mark.anyio", "mark.asyncio")
    scope = ("-o", "asyncio_default_fixture_loop_scope=function")
    result = run(source, "-p", "pytest_asyncio.plugin", *scope)
    result.assert_outcomes(passed=2, failed=1)


@pytest.mark.slow
def test_each_xdist_worker_has_a_server(run: Run) -> None:
    """With xdist, each worker has its own server, and each test its own view."""
    pytest.importorskip("xdist")
    result = run(
        """
        import httpx, pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(image_variation_server, square_png, number):
            image_variation_server.fail_next("rate_limit", times=number + 1)
            url = image_variation_server.base_url + "/images/variations"
            for _ in range(number + 1):
                assert httpx.post(url).status_code == 429
            assert len(image_variation_server.journal) == number + 1
        """,
        *("-p", "xdist.plugin", "-n", "2", "-W", "default::pytest.PytestAssertRewriteWarning"),
    )
    result.assert_outcomes(passed=8)


@pytest.mark.mostly_slow("starlette-image_variation_env-[pytest,server]")
@pytest.mark.parametrize(
    ("missing", "fixture", "extra"),
    [
        ("uvicorn", "image_variation_server", "[pytest,server]"),
        ("starlette", "image_variation_env", "[pytest,server]"),
        ("prometheus_client", "image_variation_server", "[pytest,server]"),
        ("vcr", "image_variation_cassette", "[pytest]"),
    ],
)
def test_missing_extra_is_named(
    run: Run, pytester: pytest.Pytester, missing: str, fixture: str, extra: str
) -> None:
    """The failure for a missing extra shows the command that installs it."""
    pytester.makeconftest(
        f"""
        import sys

        for name in [n for n in sys.modules if n.partition(".")[0] in
                     ("pytest_image_variation", {missing!r}) and "plugin" not in n
                     or n.startswith("langchain_image_variation.server")]:
            del sys.modules[name]
        sys.modules[{missing!r}] = None
        """
    )
    result = run(f"def test_it({fixture}): pass")
    result.assert_outcomes(errors=1)
    command = install_command(f"langchain-image-variation{extra}")
    result.stdout.fnmatch_lines([f"*needs {missing}, *Run: {command.replace('[', '[[]')}"])
