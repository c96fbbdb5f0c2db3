"""Idle clients, and too many connections, with the server in a separate process."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.server.test_process import POSIX, connect, post, raw_request

pytestmark = pytest.mark.slow
SCRIPT = """
import io, os, sys
from PIL import Image
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)
buffer = io.BytesIO()
Image.frombytes("RGB", (1024, 1024), os.urandom(3 << 20)).save(buffer, "PNG", compress_level=1)
class Noise:
    models = ("dall-e-2",)
    def create_variation(self, request):
        pngs = [buffer.getvalue()] * request.n
        return ImagesResponse.from_pngs(pngs, response_format=request.response_format)
app = create_app(Noise(), store_dir=sys.argv[1])
ready = lambda address: print(address, flush=True)
run_app(app, host="127.0.0.1", port=0, ready=ready, idle_timeout=float(sys.argv[2]))
"""


@contextmanager
def run_server(
    store: Path, *files: str, idle_timeout: float = 1
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server with an idle timeout, and with a limit on open files if one is given."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(store), str(idle_timeout), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_an_idle_client_is_disconnected(tmp_path: Path) -> None:
    """A client that sends nothing, stops in a request or does not read is disconnected."""
    with run_server(tmp_path) as (_, address), ExitStack() as stack:
        silent, half, second, unread = (stack.enter_context(connect(address)) for _ in range(4))
        half.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        large = raw_request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
        unread.sendall(large)
        whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        second.sendall(whole + whole[:10])
        active = stack.enter_context(connect(address))
        for _ in range(15):
            active.sendall(whole)
            answer = b""
            while not answer.endswith(b"}"):
                answer += active.recv(65536)
            time.sleep(0.1)
        # Data in flight can still be read. Then the connection ends.
        for client in (silent, half, second, unread):
            client.settimeout(5)
            with suppress(ConnectionResetError):
                while client.recv(65536):
                    pass


def test_a_slow_reader_gets_its_answer(tmp_path: Path) -> None:
    """A slow reader gets its whole answer, even if it reads an image file."""
    # Longer than a busy machine may keep this test from reading.
    idle_timeout = 5
    with run_server(tmp_path, idle_timeout=idle_timeout) as (_, address), ExitStack() as stack:
        large = raw_request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
        url = post(address).json()["data"][0]["url"].removeprefix(address)
        file = f"GET {url} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        answers: dict[socket.socket, bytearray] = {}
        for request in (large, file):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
            client.sendall(request.replace(b"host: ", b"connection: close\r\nhost: "))
            answers[client] = bytearray()
        for _ in range(7):
            time.sleep(idle_timeout / 6)
            for client in answers:
                answers[client] += client.recv(200_000)
        for client in answers:
            while piece := client.recv(1_000_000):
                answers[client] += piece
    for answer in answers.values():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head
        assert len(body) > 3_000_000


@POSIX
def test_more_connections_than_files(tmp_path: Path) -> None:
    """Surplus connections are refused at once, and the log stays empty."""
    with run_server(tmp_path, "150") as (running, address), ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(55)]
        refusal = post(address)
        assert refusal.status_code == 503
        assert "too many connections" in refusal.json()["error"]["message"]
        assert refusal.headers["retry-after"] == "1"
        clients += [stack.enter_context(connect(address)) for _ in range(300)]
        for client in clients:
            client.settimeout(10)
            with suppress(ConnectionResetError):
                assert client.recv(10) == b""
        assert post(address).status_code == 200
        running.terminate()
        assert running.stderr is not None
        assert running.stderr.read() == ""
