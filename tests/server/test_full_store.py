"""The server with its store on a disk that other programs fill."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from pytest_image_variation.samples import square_png
from tests.server.serving import server_process

SERVER = """
import sys
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app

class Engine(LocalEngine):
    def create_variation(self, request):
        print("call", flush=True)
        return super().create_variation(request)

def print_address(address):
    print(address, flush=True)

app = create_app(Engine(), store_dir=sys.argv[1])
run_app(app, host="127.0.0.1", port=0, ready=print_address)
"""
"""A server that prints its address, and then a line for each call of the engine."""

MOUNT = 'mount -t tmpfs -o size=12m none "$0" && exec "$@"'
"""Mounts a disk of 12 MB that only this process sees. Needs no root, but user namespaces."""

LIMIT = """
import resource
hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard_limit))
"""
"""Makes each write of a file of more than 20 kB fail."""


def post(address: str, side: int = 8, key: str = "", **form: str) -> httpx.Response:
    """Request variations of an image of this side, with an `Idempotency-Key`."""
    files = {"image": ("a.png", square_png(side))}
    url = f"{address}/v1/images/variations"
    data, headers = {"size": "256x256", **form}, {"idempotency-key": key}
    return httpx.post(url, files=files, data=data, headers=headers, timeout=60)


def urls(response: httpx.Response) -> list[str]:
    """Return the URLs in a response."""
    assert response.status_code == 200
    return [entry["url"] for entry in response.json()["data"]]


def count_calls(process: subprocess.Popen[str]) -> int:
    """End a server, and return how often its engine was called."""
    process.kill()
    assert process.stdout is not None
    return process.stdout.read().count("call")


@pytest.mark.slow
def test_a_full_disk_costs_no_engine_call(tmp_path: Path) -> None:
    """On a full disk, the oldest images make room. If that is not enough, nothing is computed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(disk)]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let a user mount a disk")
    with server_process(*unshare, sys.executable, "-c", SERVER, str(disk / "store")) as (
        process,
        address,
    ):
        disk = Path(f"/proc/{process.pid}/root{disk}")
        filler = disk / "filler"
        filler.write_bytes(bytes(10 * 1024 * 1024))
        answers = [urls(post(address, side, n="4")) for side in range(1, 9)]
        for url in answers[-1]:
            assert httpx.get(url).status_code == 200
        assert httpx.get(answers[0][0]).status_code == 404
        for _ in range(5):
            refused = post(address, n="10", size="1024x1024")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "30"
        assert httpx.get(f"{address}/healthz").status_code == 503
        rest = disk / "rest"
        with contextlib.suppress(OSError):
            rest.write_bytes(bytes(12 * 1024 * 1024))
        in_base64 = [post(address, key="k1", response_format="b64_json") for _ in range(2)]
        assert in_base64[0].status_code == 200
        assert in_base64[0].content == in_base64[1].content
        for url in answers[-1]:
            assert httpx.get(url).status_code == 200
        filler.unlink()
        rest.unlink()
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.get(urls(post(address))[0]).status_code == 200
        assert count_calls(process) == len(answers) + 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no prlimit")
def test_failing_writes_cost_one_engine_call(tmp_path: Path) -> None:
    """While the system refuses writes, only the first call of the engine is wasted."""
    import resource

    with server_process(sys.executable, "-c", LIMIT + SERVER, str(tmp_path)) as (process, address):
        for _ in range(5):
            assert post(address).status_code == 503
        assert httpx.get(f"{address}/healthz").status_code == 503
        assert post(address, response_format="b64_json").status_code == 200
        assert not list(tmp_path.glob("*.png"))
        _, hard_limit = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard_limit, hard_limit))
        deadline = time.monotonic() + 60
        while httpx.get(f"{address}/healthz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(urls(post(address))[0]).status_code == 200
        assert count_calls(process) == 3
