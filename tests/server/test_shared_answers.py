"""Several server processes on one store: one `Idempotency-Key`, one answer."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.server.serving import server_process, serving

SERVER = """
import os, sys, time
from pathlib import Path
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app

folder = Path(sys.argv[1])

class Engine(LocalEngine):
    def create_variation(self, request):
        with (folder / "calls").open("a") as calls:
            calls.write(f"{os.getpid()}\\n")
        while not (folder / "may-finish").exists():
            time.sleep(0.01)
        return super().create_variation(request)

def print_address(address):
    print(address, flush=True)

app = create_app(Engine(), store_dir=folder / "store", api_key=os.environ.get("KEY"))
run_app(app, host="127.0.0.1", port=0, ready=print_address)
"""
"""A server whose engine logs its calls, and finishes once a file exists."""


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Run two servers on one store, and yield their addresses."""
    command = (sys.executable, "-c", SERVER, str(folder))
    with server_process(*command) as (_, first), server_process(*command) as (_, second):
        yield first, second


def post(address: str, key: str = "k1", **form: str) -> httpx.Response:
    """Request a variation with an `Idempotency-Key`."""
    return httpx.post(
        f"{address}/v1/images/variations",
        files={"image": ("a.png", square_png(8))},
        data={"size": "256x256", **form},
        headers={"idempotency-key": key},
        timeout=60,
    )


def calls(folder: Path) -> list[str]:
    """Return the process of each call of the engine."""
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def wait_for_call(folder: Path) -> None:
    """Wait until the engine is called."""
    deadline = time.monotonic() + 60
    while not calls(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_two_processes_give_one_answer(tmp_path: Path, response_format: str) -> None:
    """Requests with one key at two servers at the same time get one answer, which stays."""
    form = {"response_format": response_format}
    with two_servers(tmp_path) as addresses, ThreadPoolExecutor(6) as pool:
        posts = [pool.submit(post, addresses[index % 2], **form) for index in range(6)]
        wait_for_call(tmp_path)
        (tmp_path / "may-finish").touch()
        answers = [done.result() for done in posts]
        assert {answer.status_code for answer in answers} == {200}
        for address in addresses:
            assert post(address, n="2", **form).status_code == 409
            assert post(address, key="k2", **form).content != answers[0].content
    with two_servers(tmp_path) as (address, _):
        answers.append(post(address, **form))
        if response_format == "url":
            path = answers[0].json()["data"][0]["url"].partition("/files/")[2]
            assert httpx.get(f"{address}/files/{path}").status_code == 200
    assert len({answer.content for answer in answers}) == 1
    assert len(calls(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="other systems have no SIGKILL")
def test_a_killed_process_does_not_block_its_key(tmp_path: Path) -> None:
    """If the process that makes an answer is killed, a process that waits for it makes it."""
    command = (sys.executable, "-c", SERVER, str(tmp_path))
    with (
        server_process(*command) as (killed, first),
        server_process(*command) as (living, second),
        ThreadPoolExecutor(2) as pool,
    ):
        lost = pool.submit(post, first)
        wait_for_call(tmp_path)
        answer = pool.submit(post, second)
        while "image_variation_waiting 1.0" not in httpx.get(f"{second}/metrics").text:
            time.sleep(0.01)
        (tmp_path / "may-finish").touch()
        killed.kill()
        assert answer.result().status_code == 200
        with pytest.raises(httpx.HTTPError):
            lost.result()
        assert str(living.pid) in calls(tmp_path)
        assert post(second).content == answer.result().content


@pytest.mark.slow
def test_a_client_that_left_blocks_no_other_process(tmp_path: Path) -> None:
    """If a client leaves, another process may make the answer, and no empty record stays."""
    with two_servers(tmp_path) as (first, second), ThreadPoolExecutor(1) as pool:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{first}/v1/images/variations",
                files={"image": ("a.png", square_png(8))},
                headers={"idempotency-key": "k1"},
                timeout=0.5,
            )
        answer = pool.submit(post, second, n="2")
        while len(calls(tmp_path)) < 2:
            time.sleep(0.01)
        (tmp_path / "may-finish").touch()
        assert answer.result().status_code == 200
    records = list((tmp_path / "store").glob("*.answer"))
    assert [bool(record.stat().st_size) for record in records] == [True]


def test_clients_share_no_answers(tmp_path: Path) -> None:
    """Without a checked key, clients with other addresses or other keys get other answers."""
    with serving(create_app("local", store_dir=tmp_path)) as address:
        answers = set()
        for client, key in (("127.0.0.1", "a"), ("127.0.0.2", "a"), ("127.0.0.1", "b")):
            try:
                transport = httpx.HTTPTransport(local_address=client)
                with httpx.Client(transport=transport) as http:
                    response = http.post(
                        f"{address}/v1/images/variations",
                        files={"image": ("a.png", square_png(8))},
                        data={"size": "256x256"},
                        headers={"idempotency-key": "k1", "authorization": f"Bearer {key}"},
                    )
            except httpx.ConnectError:
                pytest.skip("this system has one loopback address")
            assert response.status_code == 200
            answers.add(response.content)
    assert len(answers) == 3


@pytest.mark.slow
def test_engines_share_no_answers(tmp_path: Path) -> None:
    """Servers with different engines may share a store, but not the answers."""
    bodies = []
    for engine in ("local", "instant", "instant"):
        with serving(create_app(engine, store_dir=tmp_path)) as address:
            bodies.append(post(address, response_format="b64_json").json()["data"])
    assert bodies[0] != bodies[1] == bodies[2]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut off", "changed", "empty"])
def test_a_damaged_record_is_not_used(tmp_path: Path, damage: str) -> None:
    """A record that was not written to its end, or was changed, gives a new answer."""
    with serving(create_app("local", store_dir=tmp_path)) as address:
        first = post(address).content
    (record,) = tmp_path.glob("*.answer")
    content = record.read_bytes()
    damaged = {
        "cut off": content[:-9],
        "changed": content.replace(b"/files/", b"/evil/"),
        "empty": b"",
    }
    record.write_bytes(damaged[damage])
    os.utime(record, (time.time() + 3600, time.time() + 3600))
    with serving(create_app("local", store_dir=tmp_path)) as address:
        second = post(address).content
        assert second != first
    with serving(create_app("local", store_dir=tmp_path)) as address:
        assert post(address).content == second


def test_an_expired_record_is_not_used(tmp_path: Path) -> None:
    """An answer whose URLs have expired is made again."""
    with serving(create_app("local", store_dir=tmp_path)) as address:
        first = post(address).content
    (record,) = tmp_path.glob("*.answer")
    assert time.time() < record.stat().st_mtime < time.time() + 3601
    os.utime(record, (100, 100))
    with serving(create_app("local", store_dir=tmp_path)) as address:
        assert post(address).content != first


def test_without_a_record_one_process_remembers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If an answer cannot be recorded, the process that made it still gives it again."""
    with serving(create_app("local", store_dir=tmp_path)) as address:
        post(address)
        (record,) = tmp_path.glob("*.answer")
        record.unlink()
        record.mkdir()
    with serving(create_app("local", store_dir=tmp_path)) as address:
        assert post(address).content == post(address).content
    assert "cannot be shared with other processes" in caplog.text
    assert record.is_dir()


def test_an_answer_longer_than_the_store_removes_no_images(tmp_path: Path) -> None:
    """An answer that exceeds the limit of the store leaves its images alone, and is remembered."""
    with serving(create_app("instant", store_dir=tmp_path, store_max_bytes=1500)) as address:
        url = post(address, "k1").json()["data"][0]["url"]
        form = {"n": "10", "response_format": "b64_json"}
        long = post(address, "k2", **form)
        assert len(long.content) > 1500
        assert post(address, "k2", **form).content == long.content
        assert httpx.get(url).status_code == 200
