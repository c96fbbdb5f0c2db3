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
from pytest_image_variation.replay import BASE_URL, replaying
from pytest_image_variation.scenarios import SCENARIOS, Scenario
from pytest_image_variation.vcr_settings import cassette_dir
from tests.calling import KINDS, Caller
from tests.plugin.asking import check, key_header, picture
from tests.plugin.clients import CLIENTS, URL, Send

# The vendor's SDK marks the call as deprecated; aiohttp of today warns of what its next will do.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


def play(send: Send, scenario: Scenario, base_url: str) -> None:
    """Ask what a scenario asks, fetch what it gives out, and check it all."""
    for answer in scenario.answers:
        got = send(
            f"{base_url}/images/variations",
            scenario.fields,
            picture(scenario),
            key_header(scenario),
        )
        for url in check(scenario, answer, got):
            file = send(url, {}, None, {})
            if scenario.name == "url_expired":
                assert file.status_code == 403
                assert file.content.startswith(b"<?xml")
            else:
                assert file.status_code == 200
                assert file.content.startswith(b"\x89PNG")


def playable(client: str) -> list[Scenario]:
    """Return the scenarios that a client can ask for: the SDK always sends a picture."""
    return [s for s in SCENARIOS.values() if s.sample is not None or "openai" not in client]


@pytest.mark.parametrize("client", CLIENTS)
def test_vcrpy_alone_replays_each_cassette(client: str) -> None:
    """In any client, without any code of ours: the files are all that is needed."""
    with CLIENTS[client]() as send:
        for scenario in playable(client):
            path = str(cassette_dir() / f"{scenario.name}.yaml")
            with vcr.use_cassette(path, record_mode="none", match_on=["method", "path"]) as played:
                play(send, scenario, URL)
            assert played.all_played, scenario.name


@pytest.mark.parametrize("client", CLIENTS)
def test_the_replay_plays_each_scenario(client: str) -> None:
    """To clients that were made before, and only to requests that fit it.

    That there are more pictures, or of other sizes, is the same to every client.
    """
    with CLIENTS[client]() as send:
        for scenario in playable(client):
            if client != "httpx" and re.search("_(n3|n10|512|256)", scenario.name):
                continue
            with replaying() as replay:
                replay.scenario(scenario.name)
                play(send, scenario, replay.base_url)
                assert replay.expectations.problems() == []
                assert replay.journal[0].scenario == scenario.name
                refused = send(
                    f"{replay.base_url}/images/variations",
                    {"n": "7"},
                    picture(SCENARIOS["success_user"]),
                    {},
                )
                assert refused.status_code == 400
                assert refused.json()["error"]["code"] == "unexpected_request"
                assert len(replay.expectations.problems()) == 1


def texts() -> list[Any]:
    """Return the text of each cassette."""
    return [pytest.param(p.read_bytes(), id=p.stem) for p in sorted(cassette_dir().glob("*.yaml"))]


@pytest.mark.parametrize("text", texts())
def test_a_cassette_is_plain_small_and_says_what_it_is(
    text: bytes, request: pytest.FixtureRequest
) -> None:
    """ASCII, uncompressed, no header that does not matter, and where it is from."""
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


def test_there_is_a_cassette_for_each_scenario() -> None:
    """And none besides."""
    assert {path.stem for path in cassette_dir().iterdir()} == SCENARIOS.keys()


def test_recording_again_changes_only_what_is_wrong(tmp_path: Path) -> None:
    """A cassette that says something else is written anew, one of no scenario goes, others stay."""
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
    ("argument", "missing", "told"),
    [
        ("--help", "", "usage: python -m pytest_image_variation.record_cassettes [-h] [FOLDER]"),
        ("--hepl", "", "unrecognized arguments: --hepl"),
        ("folder", "uvicorn", "pip install 'langchain-image-variation[pytest,server]'"),
    ],
)
def test_the_command_that_records(tmp_path: Path, argument: str, missing: str, told: str) -> None:
    """Help and mistakes write nothing, and a missing extra is named without a traceback."""
    code = (
        f"import runpy, sys; sys.argv = ['record', {argument!r}]; sys.modules[{missing!r}] = None\n"
        "runpy.run_module('pytest_image_variation.record_cassettes', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installed_package_is_not_written_over(tmp_path: Path) -> None:
    """Whoever means other cassettes than those of a checkout names a folder."""
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


def test_cassettes_are_the_same_however_their_pictures_are_compressed() -> None:
    """Another zlib is no change; another colour is."""
    text = (cassette_dir() / "success_b64_n1_256.yaml").read_text()
    again = recompressed(text)
    assert again != text
    assert record_cassettes.have_equal_meaning(text, again)
    assert not record_cassettes.have_equal_meaning(text, text.replace("1767225600", "1767225601"))


def recompressed(text: str) -> str:
    """Return a cassette with its answer's picture compressed less."""
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
def test_our_own_clients_are_played_to(kind: str) -> None:
    """Sync, and async on asyncio and trio; what is given as url is read from the cassette too."""
    with replaying() as replay:
        replay.scenario("rate_limit")
        replay.scenario("success_url_n3_256")
        replay.scenario("url_expired")
        caller = Caller(kind)
        answer = caller(base_url=replay.base_url, fields={"n": 3})
        assert [SquarePNG(image.read()).side for image in answer.data] == [256] * 3
        expired = caller(base_url=replay.base_url, fields={"size": "1024x1024"})
        with pytest.raises(ExpiredURLError):
            expired.data[0].read()
        assert replay.expectations.problems() == []


def test_threads_share_a_replay() -> None:
    """Each request gets one answer, however many come at once."""
    with CLIENTS["httpx2"]() as send, replaying() as replay:
        replay.scenario("server_error", times=10)
        replay.scenario("success_url_n1", times=10)

        def ask(_: int) -> int:
            png = picture(SCENARIOS["success_url_n1"])
            return send(f"{URL}/images/variations", {"n": "1"}, png, {}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(ask, range(20))) == [200] * 10 + [500] * 10
        assert replay.expectations.problems() == []
        assert len(replay.journal) == 20


def test_a_request_before_any_scenario() -> None:
    """There is nothing to play then, and nothing goes out."""
    with CLIENTS["httpx"]() as send, replaying() as replay:
        got = send(f"{BASE_URL}/images/variations", {"n": "1"}, b"x", {})
        assert got.status_code == 400
        assert "has not named a scenario" in replay.expectations.problems()[0]


def test_a_picture_that_was_not_given_out() -> None:
    """Reading another address than those of the scenarios is unexpected too."""
    with CLIENTS["requests"]() as send, replaying() as replay:
        replay.scenario("success_url_n1")
        assert send("https://elsewhere.example/x.png", {}, None, {}).status_code == 400
        assert "POST …/images/variations" in replay.expectations.problems()[0]
        assert "use image_variation_server" in replay.expectations.problems()[0]


def test_no_warning_of_vcrpy_or_the_clients() -> None:
    """A suite that makes warnings errors can replay."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with CLIENTS["aiohttp"]() as send, replaying() as replay:
            replay.scenario("success_b64_n1")
            play(send, SCENARIOS["success_b64_n1"], replay.base_url)
