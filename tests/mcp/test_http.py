import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.exceptions import InvalidRequestError
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import KEY, FakeReplicate
from tests.mcp.serving import TOOL, PatientEngine, serve, text
from tests.mcp.stdio import COMMAND, install_engine, wait_until_sigterm_is_ignored

from mcp import Client  # isort: skip  # not before the module that skips without it
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from langchain_image_variation.mcp.http import Gate, transport_security

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-a-test"
CAT = {"image": "cat.png", "size": "256x256"}


@contextmanager
def running(
    root: Path,
    *arguments: str,
    token: str | None = TOKEN,
    launcher: Sequence[str] = (),
    env: Mapping[str, str] = os.environ,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command on a free port, and yield the process and its URL."""
    env = {**env, **({} if token is None else {"IMAGE_VARIATION_MCP_TOKEN": token})}
    with subprocess.Popen(
        [*launcher, *COMMAND, "--root-dir", str(root), "--http", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        addresses = (re.search(r"http://127\.0\.0\.1:\d+/mcp", line) for line in lines)
        address = next(address for address in addresses if address)
        try:
            yield process, address[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a server with the engine `instant`."""
    root = tmp_path_factory.mktemp("root")
    (root / "cat.png").write_bytes(square_png(16))
    with running(root, "--engine", "instant") as (_, url):
        yield url


@asynccontextmanager
async def connect(url: str, mode: Any = "auto") -> AsyncIterator[Client]:
    """Yield a client of a server."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_clients_call_the_tool(url: str, mode: str) -> None:
    """The SDK's client calls the tool over HTTP, in both versions, and sees the progress."""
    reports: list[float] = []

    async def keep(progress: float, total: float | None, message: str | None) -> None:
        reports.append(progress)

    async with connect(url, mode) as client:
        answer = await client.call_tool(TOOL, {**CAT, "n": 2}, progress_callback=keep)
        image = answer.structured_content["images"][0]
        assert (await client.read_resource(image["uri"])).contents
    assert reports == [1, 2]


async def test_two_clients_get_their_own_answers(url: str) -> None:
    """Each client gets the answers to its own calls."""
    async with connect(url) as one, connect(url, "legacy") as other:
        calls = [(client, n) for n in range(1, 6) for client in (one, other)]
        answers = await asyncio.gather(
            *(client.call_tool(TOOL, {**CAT, "n": n}) for client, n in calls)
        )
    sizes = [len(answer.structured_content["images"]) for answer in answers]
    assert sizes == [n for _, n in calls]


WRONG_TOKENS = [None, "", TOKEN, "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "ü"]


@pytest.mark.parametrize("header", WRONG_TOKENS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_request_without_the_token_is_refused(url: str, method: str, header: str | None) -> None:
    """Any request without exactly the token gets a 401, which does not contain it."""
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    response = httpx.request(method, url, headers=headers, content=b"{}")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in response.text


def post(url: str, header: dict[str, str]) -> httpx.Response:
    """Return the answer to the first request of a client that sends another header."""
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **header,
    }
    client = {"protocolVersion": "2025-11-25", "capabilities": {}}
    client["clientInfo"] = {"name": "test", "version": "1"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    return httpx.post(url, headers=headers, json=request)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8001"}, 421),
        ({"Host": "localhost:x.evil.example"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://localhost:9@evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
def test_requests_of_web_pages_are_refused(url: str, header: dict[str, str], status: int) -> None:
    """Even with the token, another host, another origin or another content type is refused."""
    assert post(url, header).status_code == status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_origin_of_the_server_is_accepted(url: str, host: str) -> None:
    """Some clients send the server's own address as `Origin`, which no web page has."""
    origin = url.removesuffix("/mcp").replace("127.0.0.1", host)
    response = post(url, {"Origin": origin})
    assert response.status_code == 200
    assert '"name":"image-variation"' in response.text


def test_a_body_has_a_limit(url: str) -> None:
    """A body of more than 4 MiB is refused, and the server goes on."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    body = json.dumps({"image": "A" * 5_000_000}).encode()
    assert httpx.post(url, headers=headers, content=body).status_code == 413
    assert httpx.post(url, headers=headers, content=b"{").status_code == 400


@pytest.mark.parametrize(
    ("port", "hosts"),
    [
        (80, {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"}),
        (8001, {"127.0.0.1:8001", "localhost:8001"}),
    ],
)
def test_the_address_names_the_port(port: int, hosts: set[str]) -> None:
    """Clients of port 80 may leave the port out, as they do by default."""
    security = transport_security(port)
    assert {*security.allowed_hosts} == hosts
    assert {*security.allowed_origins} == {f"http://{host}" for host in hosts}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit on open files")
def test_half_requests_do_not_stop_the_server(root: Path) -> None:
    """Clients that send half of a head are disconnected, and others are served again."""
    launcher = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh"]
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with (
        running(root, "--engine", "instant", launcher=launcher) as (process, url),
        ExitStack() as stack,
    ):
        parts = httpx.URL(url)
        for _ in range(150):
            client = stack.enter_context(socket.create_connection((parts.host, parts.port), 60))
            with contextlib.suppress(ConnectionError):
                client.sendall(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        # Before they are disconnected, others are refused.
        statuses = set()
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                statuses.add(httpx.post(url, headers=headers, content=b"{").status_code)
            if 400 in statuses:
                break
            time.sleep(0.1)
        assert 400 in statuses and statuses <= {400, 503}
        process.kill()
        assert process.stderr is not None
        assert "Too many open files" not in process.stderr.read()


def test_sigterm_does_not_wait_for_half_a_body(root: Path) -> None:
    """A client that never sends the rest of its request does not keep the server from ending."""
    with running(root, "--engine", "instant") as (process, url):
        parts = httpx.URL(url)
        with socket.create_connection((parts.host, parts.port)) as client:
            client.sendall(
                b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n"
                b"Expect: 100-continue\r\n\r\n{" % (parts.port or 0, TOKEN.encode())
            )
            # The server asks for the body once it has begun to read the request.
            assert client.recv(100).startswith(b"HTTP/1.1 100")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


async def test_sigterm_finishes_the_calls_in_progress(root: Path) -> None:
    """After SIGTERM, a call in progress gets its answer, a new one is refused, and it ends."""
    with running(root, "--engine", "local") as (process, url):
        async with connect(url, "legacy") as client, connect(url, "legacy") as other:
            started = asyncio.Event()

            async def keep(progress: float, total: float | None, message: str | None) -> None:
                started.set()

            arguments = {**CAT, "size": "1024x1024", "n": 5}
            call = asyncio.create_task(client.call_tool(TOOL, arguments, progress_callback=keep))
            await asyncio.wait_for(started.wait(), 60)
            process.send_signal(signal.SIGTERM)
            while not (refusal := await other.call_tool(TOOL, CAT)).is_error:
                await asyncio.sleep(0.01)
            assert text(refusal) == "The server is shutting down. Try again later."
            answer = await call
            assert len(answer.structured_content["images"]) == 5
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert process.stderr is not None and process.stdout is not None
        assert "Traceback" not in process.stderr.read()
        assert process.stdout.read() == ""


async def test_a_second_signal_ends_a_stubborn_engine(root: Path, tmp_path: Path) -> None:
    """The process ends although an engine works that cannot be stopped."""
    packages = tmp_path / "packages"
    packages.mkdir()
    env = install_engine(packages)
    with running(root, "--engine", "stubborn", env=env) as (process, url):
        assert process.stderr is not None
        with contextlib.suppress(Exception):  # the client loses its connection
            async with connect(url, "legacy") as client:
                call = asyncio.create_task(client.call_tool(TOOL, {**CAT, "n": 2}))
                while "working" not in await asyncio.to_thread(process.stderr.readline):
                    pass
                process.send_signal(signal.SIGTERM)
                while "shutting down" not in text(await client.call_tool(TOOL, CAT)):
                    await asyncio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                # The engine would work for ten minutes.
                await asyncio.to_thread(process.wait, 120)
                call.cancel()
        assert process.returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_the_end_waits_for_paid_calls(root: Path, is_cancelled: bool) -> None:
    """If a paid call is cancelled, or a second signal ends it, its job is cancelled first."""
    service = FakeReplicate()
    service.endless_seeds = {1}
    service.accepts_jobs.clear()
    with service.running():
        arguments = ["--engine", "replicate", "--base-url", service.url, "--seed", "1"]
        env = {**os.environ, "REPLICATE_API_TOKEN": KEY}
        with running(root, *arguments, env=env) as (process, url):
            with contextlib.suppress(Exception):  # the client loses its connection
                async with connect(url) as client:
                    call = asyncio.create_task(client.call_tool(TOOL, {**CAT, "n": 1}))
                    while not service.paths("POST"):
                        await asyncio.sleep(0.01)
                    if is_cancelled:
                        call.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await call
                    process.send_signal(signal.SIGTERM)
                    if not is_cancelled:
                        while "shutting down" not in text(await client.call_tool(TOOL, CAT)):
                            await asyncio.sleep(0.01)
                        process.send_signal(signal.SIGTERM)
                    await asyncio.to_thread(wait_until_sigterm_is_ignored, process)
                    process.send_signal(signal.SIGTERM)
                    service.accepts_jobs.set()
                    call.cancel()
            assert await asyncio.to_thread(process.wait, 60) == 0
    assert len(service.cancelled) == 1


def test_a_random_token_is_printed_once(root: Path) -> None:
    """Without a token in the environment, the command prints a new one, and no other log has it."""
    tokens = set()
    for _ in range(2):
        with running(root, "--engine", "instant", token=None) as (process, url):
            assert process.stderr is not None
            token = process.stderr.readline().split()[-1]
            tokens.add(token)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            assert httpx.post(url, headers=headers, content=b"{").status_code == 400
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
            rest = process.stderr.read()
            assert token not in rest and "Traceback" not in rest
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 40


@pytest.mark.parametrize(
    "token", ["", "short", "with some blanks", "ümlaute-in-a-token", "a\nb" * 9]
)
def test_a_token_must_be_hard_to_guess(token: str) -> None:
    """A token that is short, or that no header can contain, is an error when the server starts."""

    async def app(*_: object) -> None:
        raise AssertionError

    with pytest.raises(
        InvalidRequestError, match="token must have at least 16 visible ASCII characters"
    ) as error:
        Gate(app, token)
    assert not token or token not in error.value.message


async def test_a_client_that_is_gone_stops_its_call(root: Path) -> None:
    """When a client of the newest version disconnects, the engine learns that nobody waits."""
    import uvicorn

    from langchain_image_variation.mcp.http import PATH

    engine = PatientEngine()
    app = Gate(serve(root, engine).streamable_http_app(streamable_http_path=PATH), TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with connect(f"http://127.0.0.1:{port}{PATH}") as client:
            call = asyncio.create_task(client.call_tool(TOOL, CAT))
            await asyncio.to_thread(engine.started.wait, 30)
            call.cancel()
            assert await asyncio.to_thread(engine.was_cancelled.wait, 30)
    finally:
        server.should_exit = True
        await task
