"""The server in a separate process: started, interrupted and killed."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import cancellation
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import listen, run_app
from pytest_image_variation.samples import square_png
from tests.batch.distribution import declare
from tests.server.serving import serving

PNG = square_png(64)
POSIX = pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")


@contextmanager
def serve(store: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `image-variation serve` on a free port, and yield the process and its address."""
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--store-dir", str(store), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            first = running.stdout.readline()
            address = first.partition(" at ")[2].partition("/v1.")[0]
            assert address.startswith("http://127.0.0.1:"), running.stderr
            yield running, address
        finally:
            running.kill()


def post(address: str, **form: str) -> httpx.Response:
    """Request variations."""
    files = {"image": ("a.png", PNG, "image/png")}
    return httpx.post(f"{address}/v1/images/variations", data=form, files=files, timeout=60)


@pytest.mark.slow
def test_serve_prints_the_settings_of_a_client(tmp_path: Path) -> None:
    """`serve` prints a client's settings, and without a key says that anyone may use it."""
    with serve(tmp_path, "--engine", "instant") as (running, address):
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(4)]
        assert lines[0] == f"  OPENAI_BASE_URL={address}/v1\n"
        assert lines[1] == f"  OPENAI_API_BASE={address}/v1 (SDK 0.28 for Python)\n"
        assert lines[2].startswith("  OPENAI_API_KEY=")
        assert "anyone who can reach this address can use it" in lines[3]
        assert post(address).status_code == 200


def test_serve_prints_an_address_that_works(tmp_path: Path) -> None:
    """`serve` prints an address that every client can call, even if it listens on 0.0.0.0."""
    with serve(tmp_path, "--engine", "instant", "--host", "0.0.0.0") as (running, address):
        assert running.stdout is not None
        assert running.stdout.readline() == f"  OPENAI_BASE_URL={address}/v1\n"
        lines = [running.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("On other machines, use this machine's address")


@pytest.mark.slow
def test_a_rebound_name_is_refused(tmp_path: Path) -> None:
    """A web page under a rebound name is refused, since it could read every answer."""
    with serve(tmp_path, "--engine", "instant") as (_, address):
        url, files = f"{address}/v1/images/variations", {"image": ("a.png", PNG)}
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "[::2]"):
            assert httpx.post(url, files=files, headers={"host": host}).status_code == 403
        for host in ("localhost", "LocalHost:8000", "[::1]:8000", "[::1]", "127.0.0.1"):
            assert httpx.post(url, files=files, headers={"host": host}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(("proxies", "scheme"), [(None, "http"), ("127.0.0.1", "https")])
def test_only_known_proxies_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: str | None, scheme: str
) -> None:
    """A proxy's statement about a client counts only if the operator has listed the proxy."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if proxies is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    with serve(tmp_path, "--engine", "instant", "--max-pixels=4096") as (_, address):
        answer = httpx.post(
            f"{address}/v1/images/variations",
            files={"image": ("a.png", PNG)},
            headers={"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"},
            timeout=60,
        )
    assert answer.json()["data"][0]["url"].startswith(f"{scheme}://127.0.0.1:")


@pytest.mark.slow
def test_serve_logs_each_request(tmp_path: Path) -> None:
    """`serve` logs each request to standard error, as JSON if requested."""
    arguments = ("--engine", "instant", "--json-log", "--api-key", "sk-1")
    with serve(tmp_path, *arguments) as (running, address):
        assert post(address).status_code == 401
        assert running.stderr is not None
        line = json.loads(running.stderr.readline())
        with connect(address) as client:
            client.sendall(b"no request\r\n\r\n")
            assert client.recv(20).startswith(b"HTTP/1.1 400 ")
        warning = json.loads(running.stderr.readline())
    assert (line["path"], line["status"]) == ("/v1/images/variations", 401)
    assert warning["level"] == "warning"


PATIENT = """
import os, time
from pathlib import Path
from langchain_image_variation.engines.instant import InstantEngine

class Engine(InstantEngine):
    def create_variation(self, request):
        while not Path(os.environ["ENGINE_MAY_FINISH"]).exists():
            time.sleep(0.01)
        return super().create_variation(request)
"""
"""An engine that finishes when a file exists."""


@pytest.fixture
def finish_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Declare the engine `patient`, and return the path of the file that it waits for."""
    points = "[langchain_image_variation.engines]\npatient = patient_of_tests:Engine\n"
    declare(tmp_path, "patient", points, PATIENT, monkeypatch)
    path = tmp_path / "may-finish"
    monkeypatch.setenv("ENGINE_MAY_FINISH", str(path))
    return path


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_drains_the_server(
    tmp_path: Path, number: int, code: int, finish_file: Path
) -> None:
    """Calls in progress are finished, new ones are refused, and SIGTERM ends it with 0."""
    arguments = ("--engine", "patient", "--workers", "1")
    with (
        serve(tmp_path / "store", *arguments) as (running, address),
        ThreadPoolExecutor(1) as pool,
    ):
        response = pool.submit(post, address, n="2", response_format="b64_json")
        try:
            wait_for_metric(address, "running 1.0")
            running.send_signal(number)
            while (health := httpx.get(f"{address}/healthz")).status_code == 200:
                time.sleep(0.02)
            assert health.json() == {"status": "draining"}
            assert post(address).status_code == 503
        finally:
            finish_file.touch()
        assert len(response.result().json()["data"]) == 2
        assert running.wait(60) == code


@pytest.mark.slow
@POSIX
def test_a_kill_loses_no_url(tmp_path: Path) -> None:
    """After kill -9 under load and a restart, each URL that was sent gives its whole image."""
    urls: list[str] = []

    def ask(address: str) -> None:
        while True:
            try:
                answer = post(address, n="4", size="256x256")
                urls.extend(entry["url"] for entry in answer.json()["data"])
            except httpx.TransportError:
                return

    with serve(tmp_path, "--strength", "0.3", "--queue", "50") as (running, address):
        threads = [threading.Thread(target=ask, args=(address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(urls) < 20:
            time.sleep(0.05)
        running.kill()
        for thread in threads:
            thread.join(60)
    with serve(tmp_path, "--engine", "instant") as (_, new_address):
        for url in urls:
            image = httpx.get(url.replace(address, new_address))
            assert image.status_code == 200
            assert SquarePNG(image.content).side == 256


def raw_request(image: bytes, **form: str) -> bytes:
    """Return the bytes of a request."""
    parts = [f'"{name}"\r\n\r\n{value}'.encode() for name, value in form.items()]
    parts.append(b'"image"; filename="a"\r\n\r\n' + image)
    head = b"--x\r\nContent-Disposition: form-data; name="
    body = b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n"
    return (
        b"POST /v1/images/variations HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: multipart/form-data; boundary=x\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def connect(address: str) -> socket.socket:
    """Return a new connection."""
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=60)


def wait_for_metric(address: str, line: str) -> None:
    """Wait until the server's metrics have this line."""
    deadline = time.monotonic() + 60
    while line not in httpx.get(f"{address}/metrics").text:
        if time.monotonic() > deadline:
            pytest.fail(f"the metrics never had {line!r}")
        time.sleep(0.02)


def test_a_disconnect_cancels_the_call(tmp_path: Path) -> None:
    """After a disconnect, the engine can stop, and the slot is free again."""
    start_event, stop_event = threading.Event(), threading.Event()

    class Patient(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            """Work until the call is cancelled."""
            is_cancelled = cancellation()
            start_event.set()
            for _ in range(1000):
                if is_cancelled():
                    stop_event.set()
                    break
                time.sleep(0.03)
            return super().create_variation(request)

    app = create_app(Patient(), workers=1, queue=0, store_dir=tmp_path)
    with serving(app) as address:
        with connect(address) as client:
            client.sendall(raw_request(PNG))
            assert start_event.wait(60)
            refused = post(address)
            assert refused.status_code == 429
            assert refused.headers["retry-after"].isdecimal()
        assert stop_event.wait(60)
        wait_for_metric(address, "running 0.0")


@pytest.mark.slow
@POSIX
@pytest.mark.usefixtures("finish_file")
def test_a_disconnect_frees_the_queue_place(tmp_path: Path) -> None:
    """A disconnect frees the place in the queue immediately, while another call goes on."""
    arguments = ("--engine", "patient", "--workers", "1", "--queue", "1")
    with serve(tmp_path / "store", *arguments) as (_, address):
        with connect(address) as first:
            first.sendall(raw_request(PNG))
            wait_for_metric(address, "running 1.0")
            with connect(address) as second:
                second.sendall(raw_request(PNG))
                wait_for_metric(address, "waiting 1.0")
            wait_for_metric(address, "waiting 0.0")


class LongBody(io.RawIOBase):
    """A form with an image of zeros, which is cut off at a length."""

    def __init__(self, length: int) -> None:
        self.start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        self.length = length

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        count = min(len(buffer), self.length)
        buffer[:count] = self.start[:count].ljust(count, b"\0")
        self.start = self.start[count:]
        self.length -= count
        return count


@pytest.mark.parametrize("path", ["/v1/images/variations", "/v1/images/edits"])
def test_an_early_answer_is_not_lost(tmp_path: Path, path: str) -> None:
    """Curl, and clients that send everything before they read, get an early answer too."""
    with serving(create_app("instant", store_dir=tmp_path)) as address:
        status = {413} if path.endswith("variations") else {404}
        headers = {"content-type": "multipart/form-data; boundary=x"}
        url = address + path
        for length in (9_000_000, None):
            length_header = {"content-length": str(length)} if length else {}
            request = urllib.request.Request(url, LongBody(9_000_000), {**headers, **length_header})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=30)
            assert {caught.value.code} == status
            assert json.load(caught.value)["error"]["message"]
        for close in ({}, {"connection": "close"}):
            answer = requests.post(url, LongBody(9_000_000), headers={**headers, **close})
            assert {answer.status_code} == status
        if curl := shutil.which("curl"):
            command = [curl, "-s", "-w", "%{http_code}", "-o", os.devnull, "-F", "image=@-", url]
            done = subprocess.run(command, input=bytes(9_000_000), capture_output=True, timeout=30)
            assert (done.returncode, {int(done.stdout)}) == (0, status)


def test_an_endless_body_is_cut_off(tmp_path: Path) -> None:
    """After the answer, a part of an endless body is dropped, and the connection is closed."""
    with (
        serving(create_app("instant", store_dir=tmp_path)) as address,
        connect(address) as client,
    ):
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n%b\r\n" % bytes(0x100000)
        with pytest.raises(OSError):
            for _ in range(200):
                client.sendall(chunk)


@pytest.mark.slow
def test_a_slow_upload_times_out(tmp_path: Path) -> None:
    """A slow upload gets a 408, and the connection is closed although the client goes on."""
    with (
        serving(create_app("instant", upload_timeout=0.3, store_dir=tmp_path)) as address,
        connect(address) as client,
    ):
        head, _, body = raw_request(PNG).partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n" + body[:10])
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b"did not arrive within 0.3 seconds" in answer


ENDLESS = """
import sys, time
from langchain_image_variation.engines.context import cancellation
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app

class Endless(InstantEngine):
    def create_variation(self, request):
        cancelled = cancellation()
        while not cancelled():
            time.sleep(0.01)
        return super().create_variation(request)

def say(address):
    print(address, flush=True)

app = create_app(Endless(), store_dir=sys.argv[1])
try:
    run_app(app, host="127.0.0.1", port=0, ready=say, shutdown_timeout=3600)
except KeyboardInterrupt:
    sys.exit(130)
"""
"""A server that may take an hour to shut down, with an engine that only ends when cancelled."""


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_server_at_once(tmp_path: Path, number: int, code: int) -> None:
    """A second signal ends the server despite answers in progress, without a traceback."""
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            assert running.stdout is not None
            address = running.stdout.readline().strip()
            with connect(address) as asking, connect(address) as sending, connect(address) as idle:
                asking.sendall(raw_request(PNG))
                sending.sendall(raw_request(PNG)[:300])
                wait_for_metric(address, "running 1.0")
                running.send_signal(number)
                while httpx.get(f"{address}/healthz").status_code == 200:
                    time.sleep(0.02)
                running.send_signal(number)
                assert running.wait(60) == code
                assert running.stderr is not None
                assert "Traceback" not in running.stderr.read()
                for client in (asking, sending, idle):
                    assert client.recv(65536) == b""
        finally:
            running.kill()


@pytest.mark.slow
@POSIX
def test_an_idle_client_barely_delays_a_shutdown(tmp_path: Path) -> None:
    """After a signal, an idle client has a limited time, which here is one second."""
    script = (
        "import sys; from langchain_image_variation.server import create_app\n"
        "from langchain_image_variation.server.run import run_app\n"
        "app = create_app('instant', store_dir=sys.argv[1])\n"
        "say = lambda address: print(address, flush=True)\n"
        "run_app(app, host='127.0.0.1', port=0, ready=say, shutdown_timeout=1)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        with connect(address) as client:
            client.sendall(raw_request(PNG)[:300])
            assert httpx.get(f"{address}/healthz").status_code == 200
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Slow uploads and many large ones at once take no more memory than the queue allows."""
    noise = [Image.effect_noise((1140, 1140), 90) for _ in range(3)]
    buffer = io.BytesIO()
    Image.merge("RGB", noise).save(buffer, "PNG", compress_level=1)
    large = raw_request(buffer.getvalue())
    with serve(tmp_path, "--strength", "1", "--workers", "1", "--queue", "1") as (
        running,
        address,
    ):

        def memory(what: str) -> float:
            status = Path(f"/proc/{running.pid}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith(what))
            return int(line.split()[1]) / 1024

        with contextlib.ExitStack() as stack:
            before = memory("VmRSS")
            for _ in range(200):
                slow = stack.enter_context(connect(address))
                slow.sendall(large[:1000])
            assert httpx.get(f"{address}/healthz").status_code == 200
            assert memory("VmHWM") - before < 50
            # From here on, the memory includes the work of the engine.
            assert post(address, size="512x512").status_code == 200
            before = memory("VmHWM")
            busy = [stack.enter_context(connect(address)) for _ in range(2)]
            for client in busy:
                client.sendall(raw_request(PNG, n="10", size="512x512"))
            wait_for_metric(address, "waiting 1.0")
            with ThreadPoolExecutor(120) as threads:
                clients = [stack.enter_context(connect(address)) for _ in range(120)]
                list(threads.map(lambda client: client.sendall(large), clients))
                answers = list(threads.map(lambda client: client.recv(20), clients))
            peak = memory("VmHWM")
    assert {answer[9:12] for answer in answers} == {b"429"}
    assert peak - before < 120


@pytest.mark.slow
def test_an_aborted_upload_is_logged(tmp_path: Path) -> None:
    """An aborted upload is logged with the status 499, not as a failure of the server."""
    with serve(tmp_path, "--engine", "instant", "--json-log") as (running, address):
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.sendall(raw_request(PNG)[:-1])
            time.sleep(0.2)
        assert running.stderr is not None
        assert json.loads(running.stderr.readline())["status"] == 499


@pytest.mark.slow
def test_a_port_in_use_is_an_input_error(tmp_path: Path) -> None:
    """A port that is in use is an input error in one line, which names the way out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", "langchain_image_variation", "serve", "--port", port]
        done = subprocess.run(
            [*command, "--store-dir", str(tmp_path)], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == (
        f"image-variation: Cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Stop the program that uses it, or choose another --port.\n"
    )


class StartedError(Exception):
    """The server started to listen."""


@pytest.mark.parametrize(
    ("url", "host", "loops"),
    [
        ("http://127.0.0.1:PORT/v1", "127.0.0.1", True),
        ("http://localhost:PORT/v1", "127.0.0.1", True),
        ("http://127.0.0.1:PORT/v1", "0.0.0.0", True),
        ("http://127.0.0.1:1/v1", "127.0.0.1", False),
        ("http://127.0.0.2:PORT/v1", "127.0.0.1", False),
        ("http://203.0.113.1:PORT/v1", "0.0.0.0", False),
    ],
)
@pytest.mark.parametrize("engine", ["variations", "gpt-image"])
def test_an_engine_must_not_call_its_own_server(
    tmp_path: Path, engine: str, url: str, host: str, loops: bool
) -> None:
    """The server refuses to start, because the engine would wait for itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = url.replace("PORT", str(port))
    app = create_app(load_engine(engine, base_url=url, api_key="sk-1"), store_dir=tmp_path)

    def ready(address: str) -> None:
        raise StartedError

    with pytest.raises(InvalidRequestError if loops else StartedError) as caught:
        run_app(app, host=host, port=port, ready=ready)
    if loops:
        assert f"a port other than {port}" in str(caught.value)


def test_an_empty_host_is_refused() -> None:
    """An empty host is refused, and an IPv6 address may have brackets."""
    with pytest.raises(InvalidRequestError, match=r"0\.0\.0\.0"):
        listen("", 0)
    if socket.has_ipv6:
        try:
            listen("[::1]", 0).close()
        except InvalidRequestError as error:
            # This machine has no IPv6.
            assert "no such address" not in str(error)


@pytest.mark.parametrize(
    ("host", "port", "next_step"),
    [
        ("203.0.113.1", 0, "--host 127.0.0.1"),
        ("nowhere.invalid", 0, "--host 127.0.0.1"),
        ("127.0.0.1", 65_536, "port must be from 0 to 65535, got 65536"),
        ("127.0.0.1", -1, "port must be from 0 to 65535, got -1"),
    ],
)
def test_an_address_that_cannot_be_used_has_a_next_step(
    host: str, port: int, next_step: str
) -> None:
    """The error for a host or a port that the server cannot use says what to pass instead."""
    with pytest.raises(InvalidRequestError, match=re.escape(next_step)):
        listen(host, port)


@pytest.mark.slow
def test_the_default_engine_works(tmp_path: Path) -> None:
    """The default engine works in a server that runs in a separate process."""
    with serve(tmp_path) as (_, address):
        answer = post(address, n="2", size="256x256", response_format="b64_json").json()
    images = {entry["b64_json"] for entry in answer["data"]}
    assert len(images) == 2
    for base64_png in images:
        assert SquarePNG(base64.b64decode(base64_png)).side == 256


def test_a_response_body_is_not_delayed() -> None:
    """The body of a response does not wait until the client has acknowledged the headers."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
