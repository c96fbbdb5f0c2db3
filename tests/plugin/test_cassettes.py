import base64
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import vcr
import yaml
from PIL import Image

from langchain_image_variation.exceptions import ExpiredURLError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation import record_cassettes
from pytest_image_variation.replay import BASE_URL, replay_cassettes
from pytest_image_variation.scenarios import SCENARIOS, Scenario
from pytest_image_variation.vcr_settings import cassette_dir
from tests.calling import KINDS, Caller
from tests.plugin.clients import CLIENTS, URL, Send
from tests.plugin.scenario_requests import check, key_header, scenario_image

# The vendor's SDK marks the call as deprecated, and aiohttp warns about changes to come.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


def play(send: Send, scenario: Scenario, base_url: str) -> None:
    """Send a scenario's requests, download the returned URLs, and check every response."""
    for answer in scenario.answers:
        reply = send(
            f"{base_url}/images/variations",
            scenario.fields,
            scenario_image(scenario),
            key_header(scenario),
        )
        for url in check(scenario, answer, reply):
            file = send(url, {}, None, {})
            if scenario.name == "url_expired":
                assert file.status_code == 403
                assert file.content.startswith(b"<?xml")
            else:
                assert file.status_code == 200
                assert file.content.startswith(b"\x89PNG")


def playable(client: str) -> list[Scenario]:
    """Return the scenarios that a client can send. The SDK always sends an image."""
    return [s for s in SCENARIOS.values() if s.sample is not None or "openai" not in client]


@pytest.mark.mostly_slow("httpx", "requests", "openai")
@pytest.mark.parametrize("client", CLIENTS)
def test_vcrpy_alone_replays_each_cassette(client: str) -> None:
    """Each cassette works with vcrpy and every client, without our code."""
    with CLIENTS[client]() as send:
        for scenario in playable(client):
            path = str(cassette_dir() / f"{scenario.name}.yaml")
            with vcr.use_cassette(
                path, record_mode="none", match_on=["method", "path"]
            ) as cassette:
                play(send, scenario, URL)
            assert cassette.all_played, scenario.name


@pytest.mark.parametrize("client", CLIENTS)
def test_replay_plays_each_scenario(client: str) -> None:
    """Clients that exist already get each scenario, for matching requests only.

    The number and the size of images make no difference between clients.
    """
    with CLIENTS[client]() as send:
        for scenario in playable(client):
            if client != "httpx" and re.search("_(n3|n10|512|256)", scenario.name):
                continue
            with replay_cassettes() as replay:
                replay.scenario(scenario.name)
                play(send, scenario, replay.base_url)
                assert replay.expectations.problems() == []
                assert replay.journal[0].scenario == scenario.name
                refusal = send(
                    f"{replay.base_url}/images/variations",
                    {"n": "7"},
                    scenario_image(SCENARIOS["success_user"]),
                    {},
                )
                assert refusal.status_code == 400
                assert refusal.json()["error"]["code"] == "unexpected_request"
                assert len(replay.expectations.problems()) == 1


def texts() -> list[Any]:
    """Return the content of each cassette."""
    return [pytest.param(p.read_bytes(), id=p.stem) for p in sorted(cassette_dir().glob("*.yaml"))]


@pytest.mark.parametrize("text", texts())
def test_cassettes_are_plain_and_small(text: bytes, request: pytest.FixtureRequest) -> None:
    """Cassettes are uncompressed ASCII, name their origin, and have no irrelevant headers."""
    assert text.isascii()
    assert len(text) < 16_000
    content = yaml.safe_load(text)
    assert content["scenario"] == request.node.callspec.id
    assert "server of langchain-image-variation" in content["origin"]
    assert content.keys() == {"scenario", "origin", "interactions", "version"}
    for interaction in content["interactions"]:
        assert set(interaction["request"]["headers"]) <= {"Content-Type"}
        names = {name.lower() for name in interaction["response"]["headers"]}
        assert not names & {"content-encoding", "content-length", "transfer-encoding", "date"}
    assert not re.search(rb"127\.0\.0\.1|localhost|sk-", text)


def test_each_scenario_has_one_cassette() -> None:
    """Each scenario has one cassette, and there are no others."""
    assert {path.stem for path in cassette_dir().iterdir()} == SCENARIOS.keys()


def test_recording_rewrites_only_changed_cassettes(tmp_path: Path) -> None:
    """A changed cassette is rewritten, an obsolete one removed, and other files stay."""
    shutil.copytree(cassette_dir(), tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    wrong = tmp_path / "n_11.yaml"
    wrong.write_text(wrong.read_text().replace("got 11", "got 12"))
    (tmp_path / "gone.yaml").write_text(wrong.read_text().replace(": n_11", ": gone", 1))
    foreign = tmp_path / "of_another.yaml"
    before[foreign] = b"scenario: of_another\n"
    foreign.write_bytes(before[foreign])
    assert record_cassettes.record(tmp_path) == ["n_11", "gone"]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "hidden_package", "output"),
    [
        ("--help", "", "usage: python -m pytest_image_variation.record_cassettes [-h] [FOLDER]"),
        ("--hepl", "", "unrecognized arguments: --hepl"),
        ("folder", "uvicorn", "Recording cassettes needs two extras. Run: "),
    ],
)
def test_record_command_explains_mistakes(
    tmp_path: Path, argument: str, hidden_package: str, output: str
) -> None:
    """Help and mistakes write no file, and a missing extra is reported without a traceback."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['record', {argument!r}]; sys.modules[{hidden_package!r}] = None\n"
        "runpy.run_module('pytest_image_variation.record_cassettes', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert output in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_record_command_protects_installed_package(tmp_path: Path) -> None:
    """Outside a checkout, the command requires a folder."""
    package = tmp_path / "pytest_image_variation"
    root = Path(record_cassettes.__file__).parent
    shutil.copytree(root, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(cassette_dir(), package / "cassettes", dirs_exist_ok=True)
    written = {path: path.stat().st_mtime_ns for path in (package / "cassettes").iterdir()}
    command = [sys.executable, "-m", "pytest_image_variation.record_cassettes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pass a FOLDER: the cassettes of an installed package are not changed." in done.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_image_compression_is_not_a_change() -> None:
    """Another zlib does not change a cassette, but another color does."""
    text = (cassette_dir() / "success_b64_n1_256.yaml").read_text()
    again = recompress(text)
    assert again != text
    assert record_cassettes.have_equal_meaning(text, again)
    assert not record_cassettes.have_equal_meaning(text, text.replace("1767225600", "1767225601"))


def recompress(text: str) -> str:
    """Return a cassette whose image is compressed less."""
    content = yaml.safe_load(text)
    body = content["interactions"][0]["response"]["body"]
    answer = json.loads(body["string"])
    entry = answer["data"][0]
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))) as image:
        image.save(buffer, "PNG", bits=1, compress_level=1)
    entry["b64_json"] = base64.b64encode(buffer.getvalue()).decode()
    body["string"] = json.dumps(answer, indent=2) + "\n"
    return str(yaml.safe_dump(content))


@pytest.mark.parametrize("kind", KINDS)
def test_replay_works_with_our_clients(kind: str) -> None:
    """The sync client and the async one on asyncio and trio get responses and files."""
    with replay_cassettes() as replay:
        replay.scenario("rate_limit")
        replay.scenario("success_url_n3_256")
        replay.scenario("url_expired")
        caller = Caller(kind)
        answer = caller(base_url=replay.base_url, fields={"n": 3})
        assert [SquarePNG(image.read()).side for image in answer.data] == [256] * 3
        response = caller(base_url=replay.base_url, fields={"size": "1024x1024"})
        with pytest.raises(ExpiredURLError):
            response.data[0].read()
        assert replay.expectations.problems() == []


def test_threads_share_a_replay() -> None:
    """Each of many concurrent requests gets one answer."""
    with CLIENTS["httpx2"]() as send, replay_cassettes() as replay:
        replay.scenario("server_error", times=10)
        replay.scenario("success_url_n1", times=10)

        def ask(_: int) -> int:
            png = scenario_image(SCENARIOS["success_url_n1"])
            return send(f"{URL}/images/variations", {"n": "1"}, png, {}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(ask, range(20))) == [200] * 10 + [500] * 10
        assert replay.expectations.problems() == []
        assert len(replay.journal) == 20


def test_request_before_any_scenario_gets_a_400() -> None:
    """A request before any scenario gets a 400, and nothing reaches the network."""
    with CLIENTS["httpx"]() as send, replay_cassettes() as replay:
        reply = send(f"{BASE_URL}/images/variations", {"n": "1"}, b"x", {})
        assert reply.status_code == 400
        assert "has not named a scenario" in replay.expectations.problems()[0]


def test_download_of_an_unknown_url_is_unexpected() -> None:
    """Downloading a URL that no scenario returned is unexpected."""
    with CLIENTS["requests"]() as send, replay_cassettes() as replay:
        replay.scenario("success_url_n1")
        assert send("https://elsewhere.example/x.png", {}, None, {}).status_code == 400
        assert "POST …/images/variations" in replay.expectations.problems()[0]
        assert "use image_variation_server" in replay.expectations.problems()[0]


def test_replay_raises_no_warnings() -> None:
    """A suite that turns warnings into errors can replay cassettes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with CLIENTS["aiohttp"]() as send, replay_cassettes() as replay:
            replay.scenario("success_b64_n1")
            play(send, SCENARIOS["success_b64_n1"], replay.base_url)
