"""Which `Host` names a server without a key accepts, however the app is served.

A web page whose name was made to resolve to this machine (DNS rebinding) sends that name as `Host`.
A server that is not installed is skipped: gunicorn with uvicorn-worker, hypercorn, granian.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.access import Access
from pytest_image_variation.samples import square_png
from tests.server.ports import free_port
from tests.server.serving import serving
from tests.server.upstreams import FakeVendor

ROOT = Path(__file__).parents[2]
OURS = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "app.localhost:8000",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
    "[::FFFF:127.0.0.1]:8000",
]
"""The names of a server that listens on loopback."""
STRANGE = [
    "evil.example",
    "EVIL.example.:8000",
    "localhost.evil.example",
    "evillocalhost",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost, evil.example",
    "evil.example localhost",
    "localhost:80:80",
    "localhost/evil.example",
    "[::1",
    "::1",
    "[localhost]",
    "[127.0.0.1]",
    "*",
    "",
    ":8000",
]
"""Other names and invalid hosts. No browser sends the latter."""
ELSEWHERE = ["203.0.113.5", "203.0.113.5:8000", "[2001:db8::5]", "[fe80::1%eth0]:8000"]
"""IP addresses that are not loopback."""
PATHS = [
    *("/", "/v1/models", "/v1/models/instant", "/metrics", "/openapi.json", "/healthz"),
    "/sample.jpg",
]
OTHER_PATHS = [
    *("/files/x.png", "/files/x.png?se=1&sig=2", "/progress/x", "/v1/models/unknown", "/unknown"),
    *("/v1/images/variations", "/v1/images/variations/", "//", "/%2e%2e/", "*"),
]
"""Paths that get an error under the server's own names too."""

Send = Callable[[bytes], str]


def _can_bind(host: str) -> bool:
    try:
        free_port(host)
    except OSError:
        return False
    return True


def _network_address() -> str | None:
    """Return an address of this machine that is not loopback, or None. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.5", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith(("127.", "0.")) else address


def _connect(address: Any) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if not isinstance(address, str) and ":" in address[0]:
        family = socket.AF_INET6
    client = socket.socket(family)
    client.settimeout(30)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


def _sender(address: Any) -> Send:
    """Return a function that sends the bytes of a request and returns the answer."""

    def send(request: bytes) -> str:
        parts: list[bytes] = []
        with _connect(address) as client:
            client.sendall(request)
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode("latin-1")

    return send


def get(send: Send, host: str, path: str = "/v1/models", *headers: str) -> int:
    """Return the status of a request with this `Host` and any further headers."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close", "", ""]
    return status(send("\r\n".join(lines).encode("latin-1")))


def status(answer: str) -> int:
    """Return the status of an answer."""
    return int(answer.split(" ", 2)[1])


@contextmanager
def running(
    command: list[str], store: Path, address: Any, hosts: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server during the block, which begins when the server listens.

    If it ends early or does not listen within a minute, its output is shown.
    """
    environment = {**os.environ, "STORE": str(store), "HOSTS": hosts}
    environment.pop("IMAGE_VARIATION_API_KEY", None)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            for _ in range(600):
                try:
                    _connect(address).close()
                    break
                except OSError:
                    if process.poll() is not None:
                        break
                    time.sleep(0.1)
            else:
                process.kill()
                process.wait()
            if process.poll() is not None:
                log.seek(0)
                pytest.fail(f"{command[0]} does not listen: {log.read().decode()}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def serve(host: str, port: int) -> list[str]:
    """Our own command."""
    options = ["--host", host, "--port", str(port)]
    return ["langchain_image_variation", "serve", "--engine", "instant", *options]


def uvicorn(host: str, port: int) -> list[str]:
    """Uvicorn's command, with the installed parser."""
    return ["uvicorn", "tests.server.hosted:app", "--host", host, "--port", str(port)]


def gunicorn(host: str, port: int) -> list[str]:
    """Gunicorn with workers that run uvicorn."""
    worker = ["-k", "uvicorn_worker.UvicornWorker", "-b", f"{host}:{port}"]
    return ["gunicorn", "tests.server.hosted:app", *worker]


def hypercorn(host: str, port: int) -> list[str]:
    """Hypercorn, which speaks HTTP/2 too."""
    return ["hypercorn", "tests.server.hosted:app", "-b", f"{host}:{port}"]


def granian(host: str, port: int) -> list[str]:
    """Granian, whose HTTP is written in Rust."""
    options = ["--interface", "asgi", "--host", host, "--port", str(port)]
    return ["granian", *options, "tests.server.hosted:app"]


SERVERS = {
    "serve": (serve, ()),
    "uvicorn": (uvicorn, ("uvicorn",)),
    "gunicorn": (gunicorn, ("gunicorn", "uvicorn_worker")),
    "hypercorn": (hypercorn, ("hypercorn",)),
    "granian": (granian, ("granian",)),
}
EACH_SERVER = [
    pytest.param(name, marks=pytest.mark.slow if name != "serve" else ()) for name in SERVERS
]


def _command(name: str, host: str, port: int) -> list[str]:
    make, modules = SERVERS[name]
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return make(host, port)


@pytest.fixture(scope="module", params=EACH_SERVER)
def send(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Send]:
    """A function that sends a request to an app without a key, for each server."""
    address = ("127.0.0.1", free_port("127.0.0.1"))
    command = _command(request.param, *address)
    with running(command, tmp_path_factory.mktemp("store"), address):
        yield _sender(address)


def test_every_server_accepts_loopback_names(send: Send) -> None:
    """Loopback names are accepted in any case, with any port, and with a final dot."""
    assert [host for host in OURS if get(send, host) != 200] == []


def test_every_server_refuses_other_names(send: Send) -> None:
    """Other names are refused, and so are invalid ones, if need be by the server itself."""
    statuses = {host: get(send, host) for host in STRANGE + ELSEWHERE}
    assert {host: code for host, code in statuses.items() if code not in (400, 403)} == {}
    assert statuses["evil.example"] == statuses["203.0.113.5"] == 403
    assert [path for path in PATHS if get(send, "evil.example", path) != 403] == []
    assert [path for path in PATHS if get(send, "localhost", path) != 200] == []


def test_every_server_refuses_forms_for_other_names(send: Send) -> None:
    """A form that a page under another name sends to its own origin is refused."""
    form = httpx.Request(
        "POST",
        "http://localhost/v1/images/variations",
        files={"image": ("a.png", square_png(8))},
        data={"size": "256x256", "response_format": "b64_json"},
    )
    body = form.read()
    for host, code in (("localhost", 200), ("evil.example", 403)):
        head = [
            "POST /v1/images/variations HTTP/1.1",
            f"Host: {host}",
            f"Origin: http://{host}",
            f"Content-Type: {form.headers['content-type']}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        answer = send("\r\n".join([*head, "", ""]).encode() + body)
        assert status(answer) == code
        assert ("b64_json" in answer) == (code == 200)


def test_only_a_single_host_header_counts(send: Send) -> None:
    """Two `Host` headers or none are refused, and a proxy's header does not count."""
    assert get(send, "evil.example", "/v1/models", "X-Forwarded-Host: localhost") == 403
    assert get(send, "evil.example", "/v1/models", "Forwarded: host=localhost") == 403
    assert get(send, "localhost", "/v1/models", "X-Forwarded-Host: evil.example") == 200
    for first, second in (("localhost", "evil.example"), ("evil.example", "localhost")):
        assert get(send, first, "/v1/models", f"Host: {second}") in (400, 403)
    assert status(send(b"GET /v1/models HTTP/1.0\r\n\r\n")) in (400, 403)
    assert status(send(b"GET /v1/models HTTP/1.0\r\nHost: evil.example\r\n\r\n")) == 403
    assert status(send(b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")) == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "TRACE", "odd"])
def test_another_name_learns_nothing(send: Send, method: str) -> None:
    """Under another name, every path and method gets the same 403, whether it exists or not."""
    answers = {}
    for path in PATHS + OTHER_PATHS:
        lines = [f"{method} {path} HTTP/1.1", "Host: evil.example", "Connection: close", "", ""]
        head, _, body = send("\r\n".join(lines).encode()).partition("\r\n\r\n")
        names = sorted(line.partition(":")[0].lower() for line in head.splitlines()[1:])
        answers[path] = status(head), names, body
    # A server may refuse some targets and methods itself.
    seen = {str(answer) for path, answer in answers.items() if answer[0] not in (400, 501)}
    # httptools refuses an unknown method for every path, before the app sees it.
    assert len(seen) == 1 or (method == "odd" and not seen), answers
    assert {answer[0] for answer in answers.values()} <= {400, 403, 501}


def test_an_absolute_target_does_not_bypass_the_check(send: Send) -> None:
    """A foreign host is refused in an absolute target too."""
    assert get(send, "evil.example", "http://evil.example/v1/models") in (400, 403, 404)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hypercorn", "granian"])
def test_the_authority_of_http_2_is_checked(name: str, tmp_path: Path) -> None:
    """The authority of an HTTP/2 request is checked like the `Host` header."""
    address = ("127.0.0.1", free_port("127.0.0.1"))
    command = _command(name, *address)
    pytest.importorskip("h2")
    with (
        running(command, tmp_path, address),
        httpx.Client(http1=False, http2=True) as client,
    ):
        url = f"http://127.0.0.1:{address[1]}/v1/models"
        answer = client.get(url)
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        assert client.get(url, headers={"host": "evil.example"}).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_listening_everywhere_allows_addresses(name: str, tmp_path: Path) -> None:
    """Listening everywhere allows addresses, which cannot be rebound, but no other name."""
    port = free_port("0.0.0.0")
    command = _command(name, "0.0.0.0", port)
    if name == "serve":
        command += ["--allowed-host", "img.example", "--allowed-host", "2001:db8::5"]
    network = _network_address()
    environment_hosts = "img.example 2001:db8::5"
    with running(command, tmp_path, ("127.0.0.1", port), hosts=environment_hosts):
        for local in ("127.0.0.1", network or "127.0.0.1"):
            send = _sender((local, port))
            hosts = ["img.example", "IMG.example.:443", "[2001:db8::5]:8000", "localhost"]
            assert [host for host in hosts if get(send, host) != 200] == []
            statuses = {host: get(send, host) for host in [*STRANGE, "a.img.example", "example"]}
            assert {host: code for host, code in statuses.items() if code not in (400, 403)} == {}
        if network is not None:
            send = _sender((network, port))
            hosts = [network, f"{network}:{port}", *ELSEWHERE]
            assert [host for host in hosts if get(send, host) != 200] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "ours", "strange"),
    [
        (["--host", "127.0.0.2"], ["127.0.0.2:8000", "localhost"], ["203.0.113.5"]),
        (["--host", "localhost"], ["localhost", "127.0.0.1"], ["203.0.113.5"]),
        (
            ["--public-url", "https://img.example:8443/images"],
            ["img.example", "img.example:8443", "localhost", "127.0.0.1"],
            ["a.img.example", "203.0.113.5"],
        ),
        (["--host", "0.0.0.0"], ["0.0.0.0:8000", "localhost", "203.0.113.5"], ["my-machine"]),
        (["--host", "::1"], ["[::1]:8000", "localhost"], ["[2001:db8::5]"]),
        (["--host", "::"], ["[::]:8000", "localhost", "[2001:db8::5]"], ["my-machine"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_serve_accepts_its_own_names(
    tmp_path: Path, arguments: list[str], ours: list[str], strange: list[str]
) -> None:
    """`serve` accepts the host that it listens on and that of its public URL."""
    host = arguments[1] if arguments[0] == "--host" else "127.0.0.1"
    if not _can_bind(host):
        pytest.skip(f"this machine has no address {host}")
    local = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(host, host)
    address = (local, free_port(host))
    with running([*serve(host, address[1]), *arguments], tmp_path, address):
        send = _sender(address)
        assert [name for name in ours if get(send, name) != 200] == []
        assert [name for name in [*strange, *STRANGE] if get(send, name) not in (400, 403)] == []
        answer = send(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert "got 'evil.example'" in answer
        assert "--api-key" in answer
        assert "--allowed-host NAME" in answer


@pytest.mark.slow
def test_a_unix_socket_accepts_no_addresses(tmp_path: Path) -> None:
    """A Unix socket accepts only loopback names and the allowed names."""
    path = str(tmp_path / "s")
    command = ["uvicorn", "tests.server.hosted:app", "--uds", path]
    with running(command, tmp_path / "store", path, hosts="img.example"):
        send = _sender(path)
        for host in ("localhost", "127.0.0.1", "img.example"):
            assert get(send, host) == 200
        for host in ("evil.example", "203.0.113.5", ""):
            assert get(send, host) in (400, 403)


@pytest.mark.slow
def test_with_a_key_any_name_is_allowed(tmp_path: Path) -> None:
    """With a key, any name is allowed, since a web page cannot know the key."""
    address = ("127.0.0.1", free_port("127.0.0.1"))
    with running([*serve(*address), "--api-key", "sk-1"], tmp_path, address):
        send = _sender(address)
        assert get(send, "evil.example", "/v1/models", "Authorization: Bearer sk-1") == 200
        assert get(send, "evil.example", "/v1/models") == 401
        assert get(send, "evil.example", "/healthz") == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvicorn", "gunicorn", "hypercorn", "granian"])
def test_every_server_forwards(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server forwards targets and bodies unchanged, but not for other names and sites."""
    address = ("127.0.0.1", free_port("127.0.0.1"))
    command, vendor = _command(name, *address), FakeVendor()
    with serving(vendor.app) as upstream:
        monkeypatch.setenv("UPSTREAM", f"{upstream}/base/v1")
        with running(command, tmp_path, address):
            url, send = f"http://{address[0]}:{address[1]}/v1", _sender(address)
            answer = httpx.post(f"{url}/a%2Fb?x=%20&y[]=1", content=b"hello")
            assert answer.json()["target"] == "/base/v1/a%2Fb?x=%20&y[]=1"
            pieces = (bytes(65_536) for _ in range(32))
            assert httpx.post(f"{url}/files", content=pieces).json()["bytes"] == 2**21
            assert httpx.head(f"{url}/threads").status_code == 200
            vendor.requests.clear()
            assert get(send, "evil.example", "/v1/threads") == 403
            assert get(send, "localhost", "/v1/threads", "Sec-Fetch-Site: cross-site") == 403
            assert get(send, "localhost", "/v1/%2e%2e/threads") in (400, 404)
            assert get(send, "localhost", "/v1//threads") in (400, 404)
    assert vendor.requests == []


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("img.example", "hosts must be a list of names, such as ['images.example.org'], got 'img"),
        (7, "hosts must be a list"),
        (
            ["*"],
            "the pattern '*'. List each host by its full name, or set an API key, which allows",
        ),
        (["*.img.example"], "the pattern"),
        ([".img.example"], "the pattern"),
        (["http://img.example"], "contains 'http://img.example', which is not a host. Pass a name"),
        (["img.example:8000"], "without a scheme, port or path"),
        (["[::1]:8000"], "without a scheme, port or path"),
        (["img.example/"], "which is not a host"),
        (["bücher.example"], "which is not a host"),
        ([""], "which is not a host"),
        ([b"img.example"], "contains a value of type bytes, which is not a host"),
        ([None], "which is not a host"),
    ],
)
def test_invalid_hosts_are_refused(tmp_path: Path, hosts: Any, message: str) -> None:
    """`create_app` refuses invalid hosts, including patterns."""
    with pytest.raises(InvalidRequestError) as caught:
        create_app("instant", hosts=hosts, store_dir=tmp_path)
    assert message in caught.value.message
    assert caught.value.param == "hosts"


@pytest.mark.parametrize("host", ["img.example.", "IMG.example", "::1", "[::1]", "10.0.0.1", "a_b"])
def test_hosts_may_be_names_and_addresses(host: str) -> None:
    """Hosts may be names and addresses, and IPv6 addresses may have brackets."""
    Access(None, None, [host])


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://",
        "https://:8000",
        "https://bad[.example",
        "https://*.img.example",
        "https://img example",
        "https://img.example:port",
        "https://bob:hunter2@img.example",
        "https://img.example?token=hunter2",
        "https://img.example?",
        "https://img.example#hunter2",
    ],
)
def test_a_public_url_without_a_host_is_refused(url: str) -> None:
    """A public URL needs a host and nothing but a path after it, as the error says."""
    with pytest.raises(InvalidRequestError, match="public_url must be a URL") as error_info:
        Access(None, url)
    assert "hunter2" not in str(error_info.value)


async def test_a_public_url_may_be_international(tmp_path: Path) -> None:
    """A public URL may be international, and browsers send its name in the ASCII form."""
    app = create_app("instant", public_url="https://bücher.example", store_dir=tmp_path)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://bücher.example"
    ) as client:
        assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        ("https://img.example:443/x", "https://img.example"),
        ("http://img.example:80", "http://img.example"),
        ("https://IMG.Example/x", "https://img.example"),
        ("https://img.example:8443", "https://img.example:8443"),
        ("http://[2001:DB8::5]/", "http://[2001:db8::5]"),
    ],
)
async def test_the_page_works_behind_a_proxy(tmp_path: Path, public_url: str, origin: str) -> None:
    """The page works behind a proxy, even if the proxy changes the `Host` header."""
    app = create_app("instant", public_url=public_url, store_dir=tmp_path)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        files = {"image": square_png()}
        for sent_origin, status in ((origin, 200), ("https://evil.example", 403)):
            answer = await client.post(
                "/v1/images/variations", files=files, headers={"Origin": sent_origin}
            )
            assert answer.status_code == status
