"""Limits on what connections cost, with the server in a separate process."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from pytest_image_variation.samples import square_png
from tests.server.test_process import POSIX, connect, post, raw_request, serve

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
timeouts = {"idle_timeout": float(sys.argv[2]), "shutdown_timeout": 1}
run_app(app, host="127.0.0.1", port=0, ready=ready, **timeouts)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_slow_reader_gets_its_answer(tmp_path: Path) -> None:
    """A slow reader gets its whole answer, even if that is an image file."""
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_clients_that_do_not_read_share_an_answer(tmp_path: Path) -> None:
    """Repeated requests whose answers are not read do not each take memory."""
    request = raw_request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
    request = request.replace(b"host: ", b"idempotency-key: one\r\nhost: ")
    with run_server(tmp_path, idle_timeout=60) as (running, address), ExitStack() as stack:

        def memory_after_requests(count: int) -> float:
            for _ in range(count):
                client = stack.enter_context(connect(address))
                client.sendall(request)
                assert client.recv(12) == b"HTTP/1.1 200"
            status = Path(f"/proc/{running.pid}/status").read_text()
            (kilobytes,) = re.findall(r"VmRSS:\s*([0-9]+) kB", status)
            return int(kilobytes) / 1024

        before = memory_after_requests(2)
        # Each answer has 17 MB.
        assert memory_after_requests(10) - before < 60


@pytest.mark.slow
@POSIX
def test_clients_that_do_not_read_end_with_the_server(tmp_path: Path) -> None:
    """After a signal, clients that do not read an answer or a file are left, without an error."""
    with run_server(tmp_path, idle_timeout=60) as (running, address), ExitStack() as stack:
        large = raw_request(square_png(64), n="4", size="1024x1024", response_format="b64_json")
        url = post(address, size="1024x1024").json()["data"][0]["url"].removeprefix(address)
        for request in (large, f"GET {url} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
            client.sendall(request)
            assert client.recv(12) == b"HTTP/1.1 200"
        running.terminate()
        assert running.wait(60) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


@pytest.mark.slow
@POSIX
def test_surplus_connections_are_refused(tmp_path: Path) -> None:
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


KEY = "sk-right"
FORM = b"content-type: multipart/form-data; boundary=x\r\n"
GET = b"GET /openapi.json"
"""The start of a request that the app answers at once."""
CHUNKED = FORM + b"transfer-encoding: chunked\r\n"
WITH_KEY = b"authorization: Bearer sk-right\r\n"


def head_of(*headers: bytes, first: bytes = b"POST /v1/images/variations") -> bytes:
    """Return the head of a request, with these header lines."""
    return first + b" HTTP/1.1\r\nhost: localhost\r\n" + b"".join(headers) + b"\r\n"


def in_chunks(body: bytes, length: int) -> bytes:
    """Return a body in chunks of this length, with its end."""
    pieces = [body[start : start + length] for start in range(0, len(body), length)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a key. Its log must have no traceback and no warning."""
    store = tmp_path_factory.mktemp("store")
    with serve(store, "--engine=instant", f"--api-key={KEY}") as (running, address):
        yield address
        running.terminate()
        assert running.stderr is not None
        log = running.stderr.read()
    assert "Traceback" not in log
    assert "pgrade" not in log


def read_answer(client: socket.socket) -> bytes:
    """Read an answer up to the length in its head."""
    head, end, body = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        piece = client.recv(65536)
        assert piece, head
        body += piece
    return head + end + body


def read_rest(client: socket.socket) -> bytes:
    """Close the sending side, and return everything that the server still sends."""
    rest = b""
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            rest += piece
    return rest


def exchange(client: socket.socket, *pieces: bytes) -> bytes:
    """Send some bytes, and return everything that the server sends."""
    for piece in pieces:
        client.sendall(piece)
    return read_answer(client) + read_rest(client)


@pytest.mark.mostly_slow("head0-400")
@pytest.mark.parametrize(
    ("head", "early_status"),
    [
        (head_of(CHUNKED, WITH_KEY), b"400"),
        (head_of(CHUNKED), b"401"),
        (head_of(CHUNKED, first=GET), b"200"),
        (head_of(CHUNKED, first=b"POST /v1/unknown"), b"404"),
    ],
)
def test_a_body_in_tiny_chunks_is_refused(locked: str, head: bytes, early_status: bytes) -> None:
    """A body in one-byte chunks is not parsed to its end, and the client gets one answer."""
    chunks = b"1\r\n\n\r\n" * 400_000
    with connect(locked) as client:
        answer = exchange(client, head, chunks)
    assert answer.count(b"HTTP/1.1 ") == 1
    if b"chunks of fewer than 64 bytes" not in answer:
        # The app may answer before the connection has seen too many chunks.
        assert answer.split()[1] == early_status != b"400"
    assert httpx.get(f"{locked}/healthz").status_code == 200


def test_a_chunk_with_a_long_extension_is_tiny(locked: str) -> None:
    """Only the data of a chunk counts, not the bytes around it."""
    chunk = b"1;" + b"a" * 100 + b"\r\n\n\r\n"
    with connect(locked) as client:
        answer = exchange(client, head_of(CHUNKED, WITH_KEY), chunk * 5000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"chunks of fewer than 64 bytes" in answer


@pytest.mark.parametrize("length", [64, 8192])
def test_small_chunks_are_served(locked: str, length: int) -> None:
    """A body in chunks of 64 bytes is served, even if its first thousand chunks are tiny."""
    _, _, form = raw_request(square_png(400), n="2").partition(b"\r\n\r\n")
    body = in_chunks(form[:1000], 1).removesuffix(b"0\r\n\r\n") + in_chunks(form[1000:], length)
    with connect(locked) as client:
        for _ in range(2):
            client.sendall(head_of(CHUNKED, WITH_KEY) + body)
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until these bytes have been read."""
    received = b""
    while end not in received:
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def test_a_refusal_does_not_wait_for_the_body(locked: str) -> None:
    """A long body is refused before any of it is sent, and curl is not asked to send it."""
    lines = b"content-length: 4000000\r\nexpect: 100-continue\r\n"
    with connect(locked) as client:
        client.sendall(head_of(FORM, lines))
        answer = read_until(client, b"}\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_a_refusal_of_a_short_body_keeps_the_connection(locked: str) -> None:
    """After a request with a short body is refused, the connection can be used again."""
    request = raw_request(square_png(8))
    with connect(locked) as client:
        for _ in range(3):
            client.sendall(request)
            answer = read_until(client, b"}\n")
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" not in answer.lower()
        client.sendall(request.replace(b"host:", WITH_KEY + b"host:"))
        assert client.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (head_of(CHUNKED, WITH_KEY) + b"zz\r\n", b"400"),
        (head_of(CHUNKED) + b"1\r\n-\r\n" * 9 + b"zz\r\n", b"400"),
        (head_of(b"content-length: 9\r\ncontent-length: 8\r\n"), b"400"),
        (GET + b" HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, b"431"),
        (head_of(b"a:\r\n" * 98, first=GET), b"200"),
        (head_of(b"a:\r\n" * 100, first=GET), b"431"),
        (head_of(b"a:\r\n" * 15_000, first=GET), b"431"),
        (head_of(b"a: " + b"b" * 20_000 + b"\r\n", first=GET), b"431"),
        (head_of(b"upgrade: websocket\r\nconnection: upgrade\r\n", first=GET), b"200"),
        (head_of(b"upgrade: h2c\r\nconnection: upgrade\r\n", first=GET), b"200"),
        (GET + b" HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_odd_requests_are_served_or_refused(
    locked: str, request_bytes: bytes, status: bytes
) -> None:
    """Invalid HTTP gets an error in the usual shape, and odd but valid HTTP is served."""
    with connect(locked) as client:
        head, _, body = exchange(client, request_bytes).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert (list(json.loads(body)) == ["error"]) == (status != b"200")


def test_a_refusal_ends(locked: str) -> None:
    """A client that reads to the end of a refusal, and keeps its side open, does not wait."""
    with connect(locked) as client:
        client.settimeout(5)
        client.sendall(b"nonsense\r\n\r\n")
        assert read_answer(client).startswith(b"HTTP/1.1 400 ")
        assert client.recv(1) == b""
        # The server still reads, so that what is in flight does not reset the connection.
        client.sendall(b"more" * 10_000)


def test_invalid_http_does_not_stop_an_answer(locked: str) -> None:
    """Data after an early answer may be invalid. The answer is still sent."""
    with connect(locked) as client:
        client.sendall(head_of(CHUNKED))
        answer = read_until(client, b"}\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        client.sendall(b"zz\r\n")
        assert read_rest(client) == b""


def test_headers_of_a_pipelined_request_are_limited(locked: str) -> None:
    """The limit on headers also holds for a request that is sent with the one before it."""
    first = head_of(first=b"GET /healthz")
    with connect(locked) as client:
        client.sendall(first + head_of(b"a:\r\n" * 1000, first=b"GET /healthz"))
        answers = read_until(client, b"Send fewer.")
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"431"]
