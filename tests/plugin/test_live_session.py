"""Tests against a live server, played here by another loopback server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from vcr.request import Request

from pytest_image_variation.live_session import LiveSession
from pytest_image_variation.loopback import Loopback
from pytest_image_variation.loopback_session import LoopbackSession
from tests.conftest import Run

TESTS = """
import asyncio, os
import aiohttp, httpx, openai, pytest, requests

@pytest.mark.image_variation("success_b64_n2_256")
def test_sdk(image_variation_env, square_png, assert_images_response):
    with openai.OpenAI() as client:
        answer = client.images.create_variation(
            image=square_png, n=2, size="256x256", response_format="b64_json", user="jane")
    assert_images_response(answer, n=2, size="256x256", response_format="b64_json")

@pytest.mark.image_variation("success_url_n1_256")
def test_client(image_variation_cassette, image_variation_client, square_png):
    answer = image_variation_client.images.create_variation(image=square_png, size="256x256")
    assert answer.data[0].read()[:4] == b"\\x89PNG"
    assert [e.method for e in image_variation_cassette.journal] == ["POST", "GET"]

@pytest.mark.image_variation("not_square")
def test_refused(image_variation_env, non_square_png):
    url = os.environ["OPENAI_BASE_URL"] + "/images/variations"
    answer = requests.post(url, files={"image": ("a.png", non_square_png)})
    assert answer.status_code == 400

@pytest.mark.image_variation("success_b64_n1")
def test_aiohttp(image_variation_env, square_png):
    async def ask():
        form = aiohttp.FormData({"response_format": "b64_json"})
        form.add_field("image", square_png, filename="a.png")
        url = os.environ["OPENAI_BASE_URL"] + "/images/variations"
        async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
            return await answer.json()
    assert len(asyncio.run(ask())["data"]) == 1

def test_plain(image_variation_server, square_png):
    answer = httpx.post(image_variation_server.base_url + "/images/variations",
                        files={"image": ("a.png", square_png)})
    assert answer.status_code == 200
"""

STRICT = """
import httpx, pytest

@pytest.mark.image_variation("success_b64_n2")
def test_unused(image_variation_env):
    pass

@pytest.mark.image_variation("success_b64_n2")
def test_unexpected(image_variation_env, square_png):
    httpx.post(image_variation_env.base_url + "/images/variations",
               files={"image": ("a.png", square_png)})

@pytest.mark.image_variation("rate_limit")
def test_fault(image_variation_env):
    raise AssertionError

def test_fail_next(image_variation_server):
    image_variation_server.fail_next("cut_body")

def test_delay(image_variation_server):
    image_variation_server.delay(1)
"""


@pytest.fixture
def live() -> Iterator[LoopbackSession]:
    """A server that plays the live one."""
    with Loopback() as server, server.view() as view:
        yield view


def post_count(live: LoopbackSession) -> int:
    """Return how many variation requests the server received."""
    return [exchange.method for exchange in live.journal].count("POST")


def test_same_tests_pass_on_a_live_server(run: Run, live: LoopbackSession) -> None:
    """The same tests pass on our cassettes, on our server, and on a live server."""
    run(TESTS).assert_outcomes(passed=5)
    assert post_count(live) == 0
    result = run(TESTS, f"--image-variation-url={live.base_url}")
    result.assert_outcomes(passed=5)
    assert post_count(live) == 5


def test_records_a_live_server(run: Run, live: LoopbackSession, pytester: pytest.Pytester) -> None:
    """Each test gets a redacted cassette that vcrpy can play, and a second run replaces it."""
    options = (f"--image-variation-url={live.base_url}", "--image-variation-record=cassettes")
    for _ in range(2):
        result = run(TESTS, *options, "--image-variation-api-key=sk-secret-123456789")
        result.assert_outcomes(passed=5)
    folder = pytester.path / "cassettes" / "test_it"
    names = ["aiohttp", "client", "plain", "refused", "sdk"]
    assert sorted(path.name for path in folder.iterdir()) == [f"test_{n}.yaml" for n in names]
    text = "".join(path.read_text() for path in folder.iterdir())
    assert not any(secret in text for secret in ("sk-secret", "jane", "req_"))
    methods = [i["request"]["method"] for i in interactions(folder / "test_client.yaml")]
    assert methods == ["POST", "GET"]
    body = interactions(folder / "test_aiohttp.yaml")[0]["request"]["body"]
    assert b'name="response_format"' in body


def test_only_passing_tests_are_recorded(
    run: Run, live: LoopbackSession, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test has its own recording, which a later failure of the test does not replace."""
    source = """
        import httpx, os, pytest

        @pytest.mark.parametrize("case", ["a/b", "a_b", "a::b", "a b"])
        def test_it(image_variation_env, case):
            url = image_variation_env.base_url + "/models"
            assert httpx.get(url, params={"n": os.environ["N"]}).status_code == 200
            assert os.environ["N"] == "1"
        """
    options = (f"--image-variation-url={live.base_url}", "--image-variation-record=tapes")
    monkeypatch.setenv("N", "1")
    run(source, *options).assert_outcomes(passed=4)
    before = {path: path.read_text() for path in (pytester.path / "tapes" / "test_it").iterdir()}
    assert len(before) == 4
    assert "test_it[a_b].yaml" in {path.name for path in before}
    monkeypatch.setenv("N", "2")
    run(source, *options).assert_outcomes(failed=4)
    assert {path: path.read_text() for path in before} == before


def test_pytest_recording_plays_a_recording(
    run: Run, live: LoopbackSession, pytester: pytest.Pytester
) -> None:
    """pytest-recording plays a recorded file with the settings from the README."""
    pytest.importorskip("pytest_recording")
    pytester.makeconftest(
        """
        import pytest
        from pathlib import Path
        from pytest_image_variation.vcr_settings import vcr_settings

        @pytest.fixture(scope="module")
        def vcr_config():
            return vcr_settings("pixels")

        @pytest.fixture(scope="module")
        def vcr_cassette_dir(request):
            return str(Path("tapes", request.node.nodeid).with_suffix(""))
        """
    )
    source = f"""
        import httpx, pytest

        @pytest.mark.vcr
        def test_it(square_png, %s):
            url = {live.base_url!r} + "/images/variations"
            image = ("a.png", square_png)
            answer = httpx.post(url, data={{"user": "me"}}, files={{"image": image}})
            (entry,) = answer.json()["data"]
            assert httpx.get(entry["url"]).content[1:4] == b"PNG"
        """
    options = (f"--image-variation-url={live.base_url}", "--image-variation-record=tapes")
    plain = source.replace("@pytest.mark.vcr", "")
    run(plain % "image_variation_env", *options).assert_outcomes(passed=1)
    first_count = post_count(live)
    run(source % "", "-p", "pytest_recording.plugin").assert_outcomes(passed=1)
    assert post_count(live) == first_count


def interactions(path: Path) -> list[dict[str, Any]]:
    """Return the interactions of a cassette."""
    content: list[dict[str, Any]] = yaml.safe_load(path.read_text())["interactions"]
    return content


def test_faults_and_delays_skip_on_a_live_server(run: Run, live: LoopbackSession) -> None:
    """On a live server, faults and delays skip their tests, and expectations are checked."""
    result = run(STRICT, f"--image-variation-url={live.base_url}", "-rs")
    result.assert_outcomes(failed=2, skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "*The scenario 'success_b64_n2' expects 1 request, and got none. *",
            "*The closest is 'success_b64_n2': n: expected '2', got '1'; *",
            "*A live server cannot produce the fault 'rate_limit' on demand. *",
            "*A live server cannot produce a delay on demand. *",
        ]
    )


def test_key_comes_from_the_environment(run: Run, live: LoopbackSession) -> None:
    """The key can come from a variable, which does not appear in a list of processes."""
    source = """
        import pytest

        @pytest.fixture(autouse=True)
        def key(monkeypatch):
            monkeypatch.setenv("IMAGE_VARIATION_API_KEY", "sk-of-mine")

        def test_it(image_variation_env):
            assert image_variation_env.api_key == "sk-of-mine"
        """
    run(source, f"--image-variation-url={live.base_url}").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--image-variation-record=x",),
            "*--image-variation-record needs --image-variation-url.*",
        ),
        (("--image-variation-url=example.com/v1",), "*must be an http or https URL, such as *"),
        (("--image-variation-url=http://",), "*must be an http or https URL, such as *"),
    ],
)
def test_invalid_options_end_the_run(run: Run, options: tuple[str, ...], message: str) -> None:
    """An invalid option ends the run at once, with a message."""
    result = run("", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_journal_headers_are_text() -> None:
    """Headers that a client sent as bytes or as a list become text."""
    live = LiveSession("http://127.0.0.1/v1", "none")
    headers = {"X-Bytes": b"one", "X-List": ["two"]}
    live.add_exchange(Request("POST", "http://127.0.0.1/v1/images/variations", b"", headers), 200)
    assert dict(live.journal[0].headers) == {"x-bytes": "one", "x-list": "two"}
