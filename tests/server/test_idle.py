"""Clients that do not go on, and too many of them: against the server as a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.server.test_process import POSIX, connect, post, request

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
say = lambda address: print(address, flush=True)
run_app(app, host="127.0.0.1", port=0, ready=say, idle_timeout=float(sys.argv[2]))
"""


@contextmanager
def impatient(
    store: Path, *files: str, patience: float = 1
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server that waits some seconds for each client, perhaps with a limit on open files."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(store), str(patience), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_a_client_that_does_not_go_on_is_left(tmp_path: Path) -> None:
    """Whether it sends nothing, half a head or half a second one, or does not read."""
    with impatient(tmp_path) as (_, address), ExitStack() as stack:
        silent, half, second, deaf = (stack.enter_context(connect(address)) for _ in range(4))
        half.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        large = request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
        deaf.sendall(large)
        whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        second.sendall(whole + whole[:10])
        alive = stack.enter_context(connect(address))
        for _ in range(15):
            alive.sendall(whole)
            answer = b""
            while not answer.endswith(b"}"):
                answer += alive.recv(65536)
            time.sleep(0.1)
        # Whatever was on its way can be read, and then there is an end.
        for client in (silent, half, second, deaf):
            client.settimeout(5)
            with suppress(ConnectionResetError):
                while client.recv(65536):
                    pass


def test_a_client_that_reads_slowly_has_its_answer(tmp_path: Path) -> None:
    """Some of it now and then is enough; of a picture's file too."""
    # Longer than a busy machine may keep this test from reading.
    patience = 5
    with impatient(tmp_path, patience=patience) as (_, address), ExitStack() as stack:
        large = request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
        url = post(address).json()["data"][0]["url"].removeprefix(address)
        file = f"GET {url} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        received: dict[socket.socket, bytearray] = {}
        for sent in (large, file):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
            client.sendall(sent.replace(b"host: ", b"connection: close\r\nhost: "))
            received[client] = bytearray()
        for _ in range(7):
            time.sleep(patience / 6)
            for client in received:
                received[client] += client.recv(200_000)
        for client in received:
            while piece := client.recv(1_000_000):
                received[client] += piece
    for answer in received.values():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head
        assert len(body) > 3_000_000


@POSIX
def test_more_connections_than_files(tmp_path: Path) -> None:
    """Those that are too many are refused, none is waited for, and the log stays small."""
    with impatient(tmp_path, "150") as (running, address), ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(55)]
        refused = post(address)
        assert refused.status_code == 503
        assert "too many connections" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        clients += [stack.enter_context(connect(address)) for _ in range(300)]
        for client in clients:
            client.settimeout(10)
            with suppress(ConnectionResetError):
                assert client.recv(10) == b""
        assert post(address).status_code == 200
        running.terminate()
        assert running.stderr is not None
        assert running.stderr.read() == ""
