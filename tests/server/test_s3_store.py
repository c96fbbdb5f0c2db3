"""Server processes that share a store in S3, which moto serves on loopback."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.exceptions import ServiceUnavailableError
from langchain_image_variation.server.store.url_store import URLStore
from pytest_image_variation.samples import square_png
from tests.s3 import S3_MARKS, bucket, serving_s3
from tests.server.serving import server_process
from tests.server.test_process import POSIX
from tests.server.test_url_store import KEY, add, on_server, post

pytestmark = S3_MARKS
URL = "s3://bucket/some/store"

requests: list[str] = []
"""The method and key of each request to S3."""

SERVER = """
import sys, time
from pathlib import Path
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app

calls, may_finish = Path(sys.argv[1], "calls"), Path(sys.argv[1], "may-finish")

class Engine(LocalEngine):
    def create_variation(self, request):
        with calls.open("a") as file:
            file.write("call\\n")
        while not may_finish.exists():
            time.sleep(0.01)
        return super().create_variation(request)

def print_address(address):
    print(address, flush=True)

app = create_app(Engine(), store_url=sys.argv[2], signing_key=sys.argv[3])
run_app(app, host="127.0.0.1", port=0, ready=print_address)
"""
"""A server whose engine logs its calls, and finishes once a file exists."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve S3 on loopback."""
    with serving_s3(requests) as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Create an empty bucket, and configure fsspec so that every process finds it."""
    with bucket(endpoint, monkeypatch) as files:
        yield files


@contextmanager
def two_servers(folder: Path) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Run two servers on one store, and yield their processes and addresses."""
    command = (sys.executable, "-c", SERVER, str(folder), URL, KEY)
    with ExitStack() as stack:
        yield [stack.enter_context(server_process(*command)) for _ in range(2)]


@POSIX
def test_a_killed_server_loses_no_url(s3: Any, tmp_path: Path) -> None:
    """After a server is killed, the other serves its URLs, and gives its answers again."""
    (tmp_path / "may-finish").touch()
    with two_servers(tmp_path) as ((killed, first), (_, second)):
        answers = [post(first, f"k{number}", n="3") for number in range(3)]
        urls = [entry["url"] for answer in answers for entry in answer.json()["data"]]
        contents = [httpx.get(url).content for url in urls]
        killed.kill()
        assert [httpx.get(on_server(second, url)).content for url in urls] == contents
        for number, answer in enumerate(answers):
            assert post(second, f"k{number}", n="3").content == answer.content
    assert len((tmp_path / "calls").read_text().split()) == 3


def test_servers_that_answer_at_once_give_one_answer(s3: Any, tmp_path: Path) -> None:
    """Requests with one key at two servers at the same time get the answer of one of them."""
    with two_servers(tmp_path) as servers, ThreadPoolExecutor(6) as pool:
        addresses = [address for _, address in servers]
        posts = [pool.submit(post, addresses[index % 2], "k1") for index in range(6)]
        while not (calls := tmp_path / "calls").exists() or len(calls.read_text().split()) < 2:
            time.sleep(0.01)
        (tmp_path / "may-finish").touch()
        answers = [each.result() for each in posts]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        for address in addresses:
            for entry in answers[0].json()["data"]:
                assert httpx.get(on_server(address, entry["url"])).status_code == 200
    assert len(calls.read_text().split()) == 2


def test_requests_to_s3_are_few(s3: Any) -> None:
    """An image takes one request to write and one to read. The rest is removed in one request."""
    store = URLStore(URL, {}, signing_key=KEY, ttl=60, max_bytes=10**9)
    requests.clear()
    images = [add(store, square_png(side)) for side in range(1, 41)]
    for image in images:
        store.open(*image).file.close()
    assert Counter(each.split()[0] for each in requests) == Counter({"PUT": 40, "GET": 40})
    requests.clear()
    small_store = URLStore(URL, {}, signing_key=KEY, ttl=60, max_bytes=1000)
    methods = Counter(request.split()[0] for request in requests)
    assert methods["PUT"] == methods["POST"] == 1
    assert methods.total() <= 4
    assert len(s3.ls(URL, refresh=True)) < 30
    assert small_store.has_room()


@POSIX
def test_forked_processes_share_the_store(s3: Any, tmp_path: Path) -> None:
    """An app that gunicorn loads before it forks its workers works in each of them."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    log = tmp_path / "log"
    module = "langchain_image_variation.server:create_app"
    call = f"{module}('instant', store_url='{URL}', signing_key='{KEY}')"
    options = ["--preload", "--workers", "2", "-k", "uvicorn_worker.UvicornWorker"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", call, *options, "-b", "127.0.0.1:0"],
            stderr=file,
            cwd=Path(__file__).parents[2],
        )
    try:
        deadline = time.monotonic() + 60
        while not (match := re.search(r"Listening at: (http://\S+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        urls = []
        for _ in range(10):
            answer = post(match[1])
            assert answer.status_code == 200, answer.text
            urls += [entry["url"] for entry in answer.json()["data"]]
        for url in urls:
            assert httpx.get(url).status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_an_unusable_bucket_is_a_clear_error(s3: Any) -> None:
    """A bucket that does not exist is not created, and the error contains no key."""
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--port", "0"]
    done = subprocess.run(
        [*command, "--engine", "instant", "--store-url", "s3://typo/store"],
        env={**os.environ, "IMAGE_VARIATION_SIGNING_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"image-variation: The s3 storage cannot be used by the server; check --store-url.*\n",
        done.stderr,
    )
    assert KEY not in done.stderr
    assert not s3.exists("typo")


def test_s3_that_fails_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """While S3 cannot be reached, storing and reading an image give a 503 with a time to wait."""
    # Retries of the S3 client would take a minute.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serving_s3([]) as address, bucket(address, monkeypatch):
        store = URLStore(URL, {}, signing_key=KEY, ttl=60, max_bytes=10**9)
        image = add(store, square_png(1))
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    for call in (lambda: store.open(*image), lambda: add(store, square_png(2))):
        with pytest.raises(ServiceUnavailableError, match="again in 30s"):
            call()
    assert not store.has_room()
