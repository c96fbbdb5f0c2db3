"""An upstream that resets, stalls, trickles or sends too much, and clients that leave."""

import gc
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from starlette.testclient import TestClient

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import listen, run_app
from pytest_image_variation.samples import square_png
from tests.server.serving import server_process, serving
from tests.server.upstreams import FakeVendor, forwarding, raw_upstream

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"9\r\ndata: 1\n\n\r\n"
UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\nthe start"
)
MEGABYTE = 1024 * 1024


def connect(address: str) -> socket.socket:
    """Connect to a server."""
    host, _, port = address.rpartition("/")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def reset(connection: socket.socket) -> None:
    """Close a connection so that the peer gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error in an answer that has this status and our request ID."""
    assert answer.status_code == status
    assert answer.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def answer_head(status: str, *headers: str) -> bytes:
    """Return an answer of this status without a body, and with further headers."""
    lines = [f"HTTP/1.1 {status}", "content-length: 0", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reset, "closed the connection before it answered"),
        (lambda _: None, "closed the connection before it answered"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nx: "), "closed the connection before"),
        (lambda c: c.sendall(b"SSH-2.0-x\r\n\r\n"), "answer is not valid HTTP. Check the scheme"),
        (lambda c: c.sendall(b"\x15\x03\x01\x00\x02\x02\x0a"), "not valid HTTP"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000), "not valid HTTP"),
        (lambda c: c.sendall(answer_head("200 OK", "content-length: 1")), "not valid HTTP"),
        (lambda c: c.sendall(answer_head("101 Switching Protocols")), "not valid HTTP"),
        (lambda c: c.sendall(answer_head("600 Odd")), "not valid HTTP"),
        (lambda c: c.sendall(answer_head("999 Odd")), "not valid HTTP"),
    ],
    ids=[
        *("reset", "closed", "half a head", "SSH", "TLS", "endless head", "two lengths"),
        *("101", "600", "999"),
    ],
)
def test_a_lost_request_gets_a_502(
    tmp_path: Path, answer: Callable[[socket.socket], None], reason: str
) -> None:
    """An upstream that does not answer in HTTP gives an error, and is called only once."""
    calls = []

    def count(connection: socket.socket) -> None:
        calls.append(1)
        answer(connection)

    with raw_upstream(count) as upstream, forwarding(tmp_path, upstream) as address:
        error = error_of(httpx.post(f"{address}/v1/chat/completions", json={}), 502)
    assert error["code"] == "connection_failed"
    assert reason in error["message"]
    assert len(calls) == 1


@pytest.mark.parametrize(
    "upstream", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1", "https://127.0.0.1:9"]
)
def test_an_unreachable_upstream_gives_a_502(tmp_path: Path, upstream: str) -> None:
    """If nothing listens, or there is no such host, the error says so and names no host."""
    with forwarding(tmp_path, upstream) as address:
        error = error_of(httpx.get(f"{address}/v1/chat"), 502)
    assert error["message"] == "The upstream cannot be reached."


def test_an_upstream_without_tls_gives_a_502(tmp_path: Path) -> None:
    """If the upstream does not speak TLS, the error says so."""
    with (
        serving(FakeVendor().app) as upstream,
        forwarding(tmp_path, upstream.replace("http:", "https:")) as address,
    ):
        error = error_of(httpx.get(f"{address}/v1/chat"), 502)
    assert error["message"].startswith("The upstream does not speak TLS")


def test_a_silent_upstream_gives_a_504(tmp_path: Path) -> None:
    """If the upstream does not answer within its time, the client gets a 504."""
    with (
        raw_upstream(Watched(b"")) as upstream,
        forwarding(tmp_path, upstream, upstream_timeout=0.2) as address,
    ):
        error = error_of(httpx.post(f"{address}/v1/chat/completions", json={}), 504)
    assert error["code"] == "timeout"
    assert "silent for 0.2 seconds" in error["message"]


def stall_in_the_middle(connection: socket.socket) -> None:
    """Send one chunk, and wait until the connection is closed."""
    connection.sendall(HEAD + CHUNK)
    while connection.recv(65536):
        pass


def reset_in_the_middle(connection: socket.socket) -> None:
    """Send one chunk, and reset the connection once it has had time to arrive."""
    connection.sendall(HEAD + CHUNK)
    time.sleep(0.1)
    reset(connection)


def close_in_the_middle(connection: socket.socket) -> None:
    """Send one chunk, and close the connection."""
    connection.sendall(HEAD + CHUNK)


def send_no_chunk(connection: socket.socket) -> None:
    """Send one chunk, and once it has had time to arrive, something else."""
    connection.sendall(HEAD + CHUNK)
    time.sleep(0.1)
    connection.sendall(b"no chunk\r\n")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (stall_in_the_middle, "The upstream was silent for 0.5 seconds"),
        (reset_in_the_middle, "The upstream closed the connection in the middle of its answer."),
        (close_in_the_middle, "The upstream closed the connection in the middle of its answer."),
        (send_no_chunk, "The upstream's answer is not valid HTTP."),
    ],
)
def test_half_an_answer_is_not_ended(
    tmp_path: Path,
    fault: Callable[[socket.socket], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If an answer breaks off, the client gets what has arrived, and can tell that more is lost."""
    caplog.set_level(logging.WARNING)
    with (
        raw_upstream(fault) as upstream,
        forwarding(tmp_path, upstream, upstream_timeout=0.5) as address,
        httpx.stream("POST", f"{address}/v1/chat/completions", json={}) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: 1\n\n"
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    assert reason in caplog.text


def test_a_trickling_answer_arrives(tmp_path: Path) -> None:
    """An answer of single bytes arrives whole, even if it takes longer than a pause may."""

    def trickle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + CHUNK * 10 + b"0\r\n\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.005)

    with (
        raw_upstream(trickle) as upstream,
        forwarding(tmp_path, upstream, upstream_timeout=0.7) as address,
    ):
        assert httpx.get(f"{address}/v1/chat").content == b"data: 1\n\n" * 10


def test_an_early_refusal_of_an_upload_arrives(tmp_path: Path) -> None:
    """If the upstream refuses an upload before it has read it, its answer arrives."""

    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with raw_upstream(refuse) as upstream, forwarding(tmp_path, upstream) as address:
        answer = httpx.post(f"{address}/v1/files", content=bytes(4 * MEGABYTE))
    assert answer.status_code == 413


class Watched:
    """An upstream that sends `start` and then waits until its connection is closed."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        self.was_called = threading.Event()
        self.was_closed = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        """Serve one connection."""
        connection.sendall(self._start)
        self.was_called.set()
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass
        self.was_closed.set()


@pytest.mark.parametrize("start", [b"", HEAD, HEAD + CHUNK], ids=["no answer", "head", "chunk"])
def test_a_client_that_leaves_ends_the_call(tmp_path: Path, start: bytes) -> None:
    """If the client disconnects, the upstream's connection is closed, whatever was sent."""
    watched = Watched(start)
    with raw_upstream(watched) as upstream, forwarding(tmp_path, upstream) as address:
        with connect(address) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 2\r\n\r\n{}"
            )
            assert watched.was_called.wait(20)
            assert not watched.was_closed.wait(0.3)
        assert watched.was_closed.wait(20)


def test_a_client_that_leaves_an_upload_ends_the_call(tmp_path: Path) -> None:
    """If the client disconnects in the middle of its upload, so does the server."""
    watched = Watched(b"")
    with raw_upstream(watched) as upstream, forwarding(tmp_path, upstream) as address:
        with connect(address) as client:
            client.sendall(UPLOAD)
            assert watched.was_called.wait(20)
        assert watched.was_closed.wait(20)


def test_a_client_that_pauses_gets_a_408(tmp_path: Path) -> None:
    """If the client pauses in the middle of its upload for too long, it gets a 408."""
    watched = Watched(b"")
    with (
        raw_upstream(watched) as upstream,
        forwarding(tmp_path, upstream, upload_timeout=0.2) as address,
    ):
        with connect(address) as client:
            client.sendall(UPLOAD)
            answer = client.recv(65536)
            while b"}\n" not in answer and not answer.endswith(b"}"):
                answer += client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"paused for more than 0.2 seconds" in answer
        assert watched.was_closed.wait(20)


def count_until_blocked(connection: socket.socket) -> int:
    """Send up to 64 MB, and return how many bytes were taken before the peer stopped reading."""
    connection.settimeout(1)
    sent = 0
    try:
        while sent < 64 * MEGABYTE:
            sent += connection.send(bytes(65536))
    except TimeoutError:
        pass
    return sent


def test_answers_are_not_kept_in_memory(tmp_path: Path) -> None:
    """If the client does not read, the server stops reading from the upstream."""
    counts: list[int] = []
    is_done = threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
        counts.append(count_until_blocked(connection))
        is_done.set()

    with raw_upstream(flood) as upstream, forwarding(tmp_path, upstream) as address:
        with httpx.stream("GET", f"{address}/v1/files/file-1/content"):
            assert is_done.wait(30)
    # The buffers of four sockets.
    assert counts[0] < 48 * MEGABYTE


def test_uploads_are_not_kept_in_memory(tmp_path: Path) -> None:
    """If the upstream does not read, the server stops reading from the client."""
    is_done = threading.Event()

    def ignore(_: socket.socket) -> None:
        is_done.wait(30)

    with raw_upstream(ignore) as upstream, forwarding(tmp_path, upstream) as address:
        with connect(address) as client:
            client.sendall(UPLOAD)
            assert count_until_blocked(client) < 48 * MEGABYTE
        is_done.set()


def test_a_large_answer_arrives_whole(tmp_path: Path) -> None:
    """An answer of 32 MB arrives whole, with its length or in chunks."""
    for head, start, end in (
        (b"content-length: 33554432", b"", b""),
        (b"transfer-encoding: chunked", b"100000\r\n", b"\r\n"),
    ):

        def answer(
            connection: socket.socket, head: bytes = head, start: bytes = start, end: bytes = end
        ) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
            for number in range(32):
                connection.sendall(start + bytes([number]) * MEGABYTE + end)
            connection.sendall(b"0\r\n\r\n" if start else b"")

        with raw_upstream(answer) as upstream, forwarding(tmp_path, upstream) as address:
            content = httpx.get(f"{address}/v1/files/file-1/content").content
        assert content == b"".join(bytes([number]) * MEGABYTE for number in range(32))


BLOCKED = """
import sys, threading
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app

class Blocked(InstantEngine):
    def create_variation(self, request):
        print("blocked", flush=True)
        sys.stdin.readline()
        return super().create_variation(request)

upstream, store = sys.argv[1:]
app = create_app(Blocked(), workers=1, upstream=upstream, store_dir=store)
run_app(app, host="127.0.0.1", port=0, ready=lambda address: print(address, flush=True))
"""


@pytest.mark.slow
def test_a_busy_engine_does_not_delay_the_upstream(tmp_path: Path) -> None:
    """While all threads of engines are busy, the upstream's name is still resolved."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi")

    with raw_upstream(answer) as upstream:
        url = upstream.replace("127.0.0.1", "localhost")
        command = [sys.executable, "-c", BLOCKED, url, str(tmp_path)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdin is not None
                address = process.stdout.readline().strip()
                answers = []

                def vary() -> None:
                    files = {"image": ("a.png", square_png(8))}
                    url = f"{address}/v1/images/variations"
                    answers.append(httpx.post(url, files=files, timeout=60))

                thread = threading.Thread(target=vary)
                thread.start()
                assert process.stdout.readline() == "blocked\n"
                assert httpx.get(f"{address}/v1/chat", timeout=30).text == "hi"
                process.stdin.write("\n")
                process.stdin.flush()
                thread.join(30)
                assert answers[0].status_code == 200
            finally:
                process.kill()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_a_draining_server_finishes_answers(tmp_path: Path) -> None:
    """After SIGTERM, answers in progress are finished and further requests get a 503."""
    may_end = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD + CHUNK)
        assert may_end.wait(30)
        connection.sendall(CHUNK + b"0\r\n\r\n")

    serve = [sys.executable, "-m", "langchain_image_variation", "serve", "--engine", "instant"]
    options = ["--port", "0", "--store-dir", str(tmp_path)]
    with (
        raw_upstream(answer) as upstream,
        server_process(*serve, *options, "--upstream", upstream) as (process, line),
    ):
        address = line.partition(" at ")[2].partition("/v1.")[0]
        with httpx.stream("POST", f"{address}/v1/chat/completions", json={}) as received:
            pieces = received.iter_raw()
            assert next(pieces) == b"data: 1\n\n"
            with httpx.Client() as client:
                process.send_signal(signal.SIGTERM)
                while client.get(f"{address}/healthz").status_code != 503:
                    time.sleep(0.01)
                assert client.get(f"{address}/v1/chat").status_code == 503
            may_end.set()
            assert list(pieces) == [b"data: 1\n\n"]
        assert process.wait(30) == 0


def test_the_server_is_not_its_own_upstream(tmp_path: Path) -> None:
    """A server whose upstream is its own address does not start."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    app = create_app("instant", upstream=f"http://localhost:{port}/v1", store_dir=tmp_path)
    with pytest.raises(InvalidRequestError, match="The upstream is this server itself") as caught:
        run_app(app, host="127.0.0.1", port=port, ready=lambda _: None)
    assert caught.value.param == "upstream"


OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"


def test_the_certificate_of_the_upstream_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a trusted certificate, nothing is sent. `SSL_CERT_FILE` names whom to trust."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    heads: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK)

    with raw_upstream(answer, heads=heads, tls=tls) as upstream:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with forwarding(tmp_path, upstream) as address:
            error = error_of(httpx.get(f"{address}/v1/chat"), 502)
        assert "a certificate whose issuer is not trusted" in error["message"]
        assert heads == []
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with forwarding(tmp_path, upstream) as address:
            assert httpx.get(f"{address}/v1/chat", trust_env=False).text == "hi"
    assert len(heads) == 1


def test_the_environments_proxy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream is called through the proxy of the environment, as hosted engines are."""
    heads: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK)

    with raw_upstream(answer, heads=heads) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "")
        with forwarding(tmp_path, "http://api.example/base/v1") as address:
            received = httpx.get(f"{address}/v1/chat?a=b", trust_env=False)
    assert received.text == "hi"
    assert heads[0].startswith(b"GET http://api.example/base/v1/chat?a=b HTTP/1.1\r\n")
    assert b"\r\nhost: api.example\r\n" in heads[0].lower()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_event_loop_may_take_over(tmp_path: Path, host: str) -> None:
    """An app goes on once its event loop has ended, as in a test client without a lifespan."""
    with serving(FakeVendor().app) as upstream:
        app = create_app(
            "instant", upstream=upstream.replace("127.0.0.1", host), store_dir=tmp_path
        )
        # Nothing can close the connections of a loop that has ended.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            # Without `with`, each request runs in a new loop.
            client = TestClient(app, base_url="http://localhost")
            for _ in range(3):
                assert client.get("/v1/chat").status_code == 200
            del app, client
            gc.collect()


def test_connections_are_kept(tmp_path: Path) -> None:
    """Requests one after the other use one connection with the upstream."""
    ports = set()

    def answer(connection: socket.socket) -> None:
        ports.add(connection.getpeername())
        while True:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65536)):
                    return
                head += data

    with raw_upstream(answer) as upstream, forwarding(tmp_path, upstream) as address:
        for _ in range(5):
            assert httpx.get(f"{address}/v1/chat").text == "hi"
    assert len(ports) == 1
