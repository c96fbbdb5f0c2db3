"""Several processes of one app: `uvicorn --workers`, and gunicorn if it is installed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.server.ports import free_port
from tests.server.test_process import POSIX, post
from tests.server.test_url_store import post as post_with_key

pytestmark = [pytest.mark.slow, POSIX]
ROOT = Path(__file__).parents[2]
COMMANDS = {
    "uvicorn": ["uvicorn", "--workers", "2", "--host", "127.0.0.1", "--port"],
    "gunicorn": ["gunicorn", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:"],
}


class Workers(NamedTuple):
    """A running server with two worker processes."""

    address: str
    process: "subprocess.Popen[bytes]"
    """The process that started the workers."""
    folder: Path

    def finish(self) -> None:
        """Let the engine's calls finish."""
        (self.folder / "finish").touch()

    def calls(self) -> list[str]:
        """Return the process of each call of the engine."""
        path = self.folder / "calls"
        return path.read_text().split() if path.exists() else []

    def get_from_each(self, url: str) -> dict[str, httpx.Response]:
        """Request a URL until both processes have answered, and return an answer of each."""
        answers: dict[str, httpx.Response] = {}

        def both_answered() -> bool:
            answer = httpx.get(url)
            answers[answer.headers["x-process"]] = answer
            return len(answers) == 2

        wait_until(both_answered)
        return answers


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=COMMANDS)
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """Run the app in two processes."""
    for module in ("gunicorn", "uvicorn_worker") if request.param == "gunicorn" else ():
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    port = free_port("127.0.0.1")
    *command, last = COMMANDS[request.param]
    address = [f"{last}{port}"] if last.endswith(":") else [last, str(port)]
    settings = {"STORE": str(tmp_path / "store"), "FINISH": str(tmp_path / "finish")}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command, *address, "tests.server.workers:app"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        running = Workers(f"http://127.0.0.1:{port}", process, tmp_path)

        def is_listening() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return httpx.get(f"{running.address}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(is_listening)
            yield running
        finally:
            running.finish()
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def test_each_worker_serves_every_url(workers: Workers) -> None:
    """A URL that one process gave out is answered by the other, with the same content."""
    workers.finish()
    answer = post(workers.address, n="2", size="256x256")
    for entry in answer.json()["data"]:
        answers = workers.get_from_each(entry["url"])
        assert {each.status_code for each in answers.values()} == {200}
        assert len({each.content for each in answers.values()}) == 1
        assert answer.headers["x-process"] in answers


def test_workers_make_one_answer(workers: Workers) -> None:
    """Requests with one key get one answer from both processes, and one call of the engine."""
    answers: list[httpx.Response] = []

    def both_answered() -> bool:
        answers.extend(pool.map(lambda _: post_with_key(workers.address, "k1"), range(4)))
        return len({answer.headers["x-process"] for answer in answers}) == 2

    with ThreadPoolExecutor(4) as pool:
        workers.finish()
        wait_until(both_answered)
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert len(workers.calls()) == 1


def test_each_worker_has_its_own_queue(workers: Workers) -> None:
    """Each process makes one call at a time here. Any more requests get a 429."""
    with ThreadPoolExecutor(32) as pool:
        posts: list[Future[httpx.Response]] = []

        def both_work() -> bool:
            posts.append(pool.submit(post, workers.address, size="256x256"))
            return len(set(workers.calls())) == 2

        wait_until(both_work)
        refused = post(workers.address)
        assert refused.status_code == 429
        assert refused.headers["retry-after"].isdecimal()
        workers.finish()
        statuses = [each.result().status_code for each in posts]
    assert statuses.count(200) >= 2
    assert set(statuses) <= {200, 429}


def test_sigterm_loses_no_answer(workers: Workers) -> None:
    """After SIGTERM, all processes finish their requests and end."""
    with ThreadPoolExecutor(32) as pool:
        posts: list[Future[httpx.Response]] = []

        def both_work() -> bool:
            posts.append(pool.submit(post, workers.address, response_format="b64_json"))
            return len(set(workers.calls())) == 2

        wait_until(both_work)
        wait_until(lambda: sum(not each.done() for each in posts) == 2)
        workers.process.terminate()
        time.sleep(0.5)
        assert workers.process.poll() is None
        workers.finish()
        statuses = [each.result().status_code for each in posts]
        assert statuses.count(200) == 2
        assert set(statuses) == {200, 429} or statuses == [200, 200]
        assert workers.process.wait(60) == 0
