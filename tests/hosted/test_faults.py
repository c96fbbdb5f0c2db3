"""The client over real sockets, against a server that does what it should not."""

import asyncio
import gc
import gzip
import io
import os
import random
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import httpx
import pytest
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
    ServiceUnavailableError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.calling import PNG, Caller, success
from tests.extras import skip_without
from tests.http.raw_server import (
    Reaction,
    hang_up,
    raw_server,
    reset,
    response,
    send_and_hang_up,
    send_and_stall,
    stall,
    trickle,
)

GOOD = response(200, success(), content_type="application/json")
CUT = GOOD[:-40]
# Sent byte by byte, this takes longer than any deadline.
LONG = response(200, success().ljust(3000), content_type="application/json")
HEAD_LENGTH = LONG.index(b"\r\n\r\n") + 4


class Idle:
    """An async engine whose first call opens the event loop that stays open."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer at once."""
        return ImagesResponse.from_pngs([square_png(request.side)], response_format="b64_json")


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Each test leaves no more open files and sockets than before."""
    if sys.platform != "linux":  # Only Linux lists them in a folder.
        yield
        return
    call_engine(Idle(), CreateImageVariationRequest(image=SquarePNG(PNG), size="256x256"))
    count_before = _open_files()
    yield
    for _ in range(100):
        if _open_files() <= count_before:
            return
        time.sleep(0.02)
    pytest.fail("a file or a socket was left open")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


FAULTS: list[tuple[str, Reaction, type[ImageVariationError], str]] = [
    ("resets", reset, EngineConnectionError, "broke before it answered"),
    ("hangs up", hang_up, EngineConnectionError, "broke before it answered"),
    ("stalls", stall, EngineTimeoutError, "did not answer in time"),
    ("trickles headers", trickle(LONG), EngineTimeoutError, "did not answer in time"),
    (
        "trickles a body",
        trickle(LONG, head_length=HEAD_LENGTH),
        EngineTimeoutError,
        "stopped in the middle",
    ),
    ("stalls in a body", send_and_stall(CUT), EngineTimeoutError, "stopped in the middle"),
    ("cuts a body", send_and_hang_up(CUT), EngineResponseError, "cut short"),
    (
        "promises too much",
        send_and_hang_up(GOOD.replace(b"content-length: ", b"content-length: 9")),
        EngineResponseError,
        "cut short",
    ),
    (
        "promises too little",
        send_and_hang_up(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n" + success()),
        EngineResponseError,
        "not an ImagesResponse",
    ),
    (
        "cuts a chunk",
        send_and_hang_up(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{"cr'),
        EngineResponseError,
        "cut short",
    ),
    (
        "lies about gzip",
        response(200, success(), content_encoding="gzip"),
        EngineResponseError,
        "compressed its answer",
    ),
    (
        "is a bomb",
        response(200, gzip.compress(gzip.compress(bytes(10**8), 1)), content_encoding="gzip, gzip"),
        EngineResponseError,
        "compressed its answer",
    ),
    (
        "explains an error with a bomb",
        response(500, gzip.compress(bytes(10**6)), content_encoding="gzip"),
        EngineError,
        "gave no reason",
    ),
    ("speaks no HTTP", send_and_hang_up(b"SSH-2.0-x\r\n"), EngineConnectionError, "broke"),
    (
        "has a bad length",
        send_and_hang_up(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}"),
        EngineConnectionError,
        "broke",
    ),
    (
        "never ends its headers",
        send_and_hang_up(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30_000),
        EngineConnectionError,
        "broke",
    ),
    ("answers nothing", response(200), EngineResponseError, "an empty body"),
    ("answers 503", response(503), ServiceUnavailableError, "not ready"),
]


# On trio, httpx leaves generators to the garbage collector when it is cancelled.
cut_off = pytest.mark.filterwarnings("ignore:.*was garbage collected before it had been exhausted")


@cut_off
@pytest.mark.mostly_slow(
    *(
        f"{('sync', 'asyncio', 'trio')[number % 3]}-{fault[0]}"
        for number, fault in enumerate(FAULTS)
    )
)
@pytest.mark.parametrize(
    ("reaction", "error_class", "message"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
def test_each_fault_has_its_error(
    call: Caller, reaction: Reaction, error_class: type[ImageVariationError], message: str
) -> None:
    """No fault hangs, leaves anything open, or raises an error of httpx."""
    for deadline in (0.15, 1, 3, 9):
        with raw_server(reaction) as server:
            with pytest.raises(ImageVariationError) as caught:
                call(base_url=server.base_url, deadline=deadline, max_retries=0)
        # On a busy machine, the deadline may pass before the fault.
        if re.search(message, caught.value.message) or type(caught.value) is not EngineTimeoutError:
            break
    assert re.search(message, caught.value.message)
    assert type(caught.value) is error_class


def test_a_deadline_limits_all_attempts(call: Caller) -> None:
    """The deadline ends a call, no matter how many retries remain."""
    with raw_server(reset) as server:
        start = time.monotonic()
        with pytest.raises(EngineConnectionError):
            call(base_url=server.base_url, deadline=0.3, max_retries=1000)
        assert time.monotonic() - start < 4


@pytest.mark.mostly_slow("sync")
def test_a_timeout_limits_the_silence(call: Caller) -> None:
    """The timeout ends a call, with or without a deadline."""
    with raw_server(stall) as server, pytest.raises(EngineTimeoutError):
        call(base_url=server.base_url, timeout=0.3, deadline=None)


@pytest.mark.slow
@cut_off
def test_a_server_that_reads_nothing_times_out(call: Caller) -> None:
    """An image that the server does not read does not hang the caller."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = listener.getsockname()[1]
        request = SquarePNG(_incompressible())
        with pytest.raises(EngineTimeoutError):
            call(
                fields={"image": request},
                base_url=f"http://127.0.0.1:{port}/v1",
                deadline=0.3,
                max_retries=0,
            )


def _incompressible() -> bytes:
    noise = random.Random(0).randbytes(1000 * 1000 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (1000, 1000), noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_closed_port_is_an_error(call: Caller) -> None:
    """The error for a closed port asks whether the server is running and the address right."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EngineConnectionError, match=r"is the server running.*base_url"):
        call(base_url=f"http://127.0.0.1:{port}/v1", max_retries=1)


def test_a_host_that_does_not_exist_is_an_error(call: Caller) -> None:
    """A name in `.invalid` never resolves (RFC 6761), so the host cannot be reached."""
    with pytest.raises(EngineConnectionError, match=r"pictures\.invalid cannot be reached"):
        call(base_url="http://pictures.invalid/v1", max_retries=0, timeout=5)


def test_a_retry_uses_a_new_connection(call: Caller) -> None:
    """A retry uses a new connection and the same idempotency key."""
    with raw_server(reset, GOOD) as server:
        answer = call(base_url=server.base_url)
        assert answer.data[0].read() == PNG
        assert server.connections == 2
    keys = {
        line
        for request in server.requests
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"idempotency-key")
    }
    assert len(keys) == 1


def test_calls_share_a_connection() -> None:
    """Calls of one client reuse its connection."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(GOOD) as server, ImageVariationClient(base_url=server.base_url) as client:
        for _ in range(3):
            client.create_variation(request)
        assert server.connections == 1


def test_a_dropped_connection_is_replaced() -> None:
    """A server may close a connection that the client keeps open."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with (
        raw_server(send_and_hang_up(GOOD)) as server,
        ImageVariationClient(base_url=server.base_url) as client,
    ):
        for _ in range(3):
            client.create_variation(request)
        assert server.connections == 3


def test_ten_threads_share_a_client() -> None:
    """Ten threads can share a client, and each gets an answer."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    answers: list[bytes] = []
    with raw_server(GOOD) as server, ImageVariationClient(base_url=server.base_url) as client:

        def ask() -> None:
            answers.append(client.create_variation(request).data[0].read())

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [PNG] * 10


async def test_a_cancelled_call_closes_its_connection() -> None:
    """Cancellation on asyncio works while the server sends nothing."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(stall) as server:
        async with AsyncImageVariationClient(base_url=server.base_url) as client:
            task = asyncio.create_task(client.create_variation(request))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("answer", [response(429, retry_after="60"), response(500)])
async def test_a_cancelled_caller_stops_a_sync_client(answer: bytes) -> None:
    """A thread that waits for a retry ends soon after the cancellation, without a request."""
    thread_ended = threading.Event()

    class Watched(ImageVariationClient):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            try:
                return super().create_variation(request)
            finally:
                thread_ended.set()

    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(answer) as server:
        with Watched(base_url=server.base_url, max_retries=100) as client:
            task = asyncio.create_task(call_engine_async(client, request))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(thread_ended.wait, 3)
            assert len(server.requests) <= 2


def test_an_async_client_serves_sync_callers() -> None:
    """Sync calls of an async client share connections, which belong to one event loop."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(GOOD) as server:
        client = AsyncImageVariationClient(base_url=server.base_url)
        for _ in range(4):
            assert call_engine(client, request).data[0].read() == PNG
        assert server.connections == 1

        class Closing:
            async def create_variation(self, call: CreateImageVariationRequest) -> ImagesResponse:
                await client.close()
                pngs = [square_png(call.side)]
                return ImagesResponse.from_pngs(pngs, response_format="b64_json")

        call_engine(Closing(), request)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_each_event_loop_has_its_connections() -> None:
    """A loop that ended with open connections does not make a later loop fail."""
    skip_without("trio")
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(GOOD) as server:
        client = AsyncImageVariationClient(base_url=server.base_url, max_retries=0)

        async def ask(client: AsyncImageVariationClient, close: bool) -> None:
            for _ in range(2):
                answer = await client.create_variation(request)
                assert answer.data[0].read() == PNG
            if close:
                await client.close()

        for backend in ("asyncio", "asyncio", "trio", "asyncio"):
            anyio.run(ask, client, False, backend=backend)
        assert server.connections == 4
        for backend in ("asyncio", "trio"):
            anyio.run(ask, client, True, backend=backend)
        assert server.connections == 6
        del client
        # The connections that are still open here are expected.
        gc.collect()


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that never ends, sent in small pieces."""

    def __init__(self, piece: bytes, seconds: float) -> None:
        self._piece = piece
        self._seconds = seconds

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"data": [{"b64_json": "'
        while True:
            time.sleep(self._seconds)
            yield self._piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"data": [{"b64_json": "'
        while True:
            await anyio.sleep(self._seconds)
            yield self._piece


@pytest.mark.slow
@cut_off
def test_a_slow_body_through_http_client_is_cut(call: Caller) -> None:
    """A body that arrives slowly through `http_client` is cut off at the deadline."""
    with pytest.raises(EngineTimeoutError, match="stopped in the middle"):
        call(lambda request: httpx.Response(200, stream=Endless(b"A", 0.02)), deadline=0.3)


@pytest.mark.mostly_slow("trio")
@cut_off
def test_an_endless_body_is_cut_off(call: Caller) -> None:
    """The client stops at the limit of 256 MB and holds no more than that."""
    with pytest.raises(EngineResponseError, match="limit of 268,435,456 bytes"):
        call(lambda request: httpx.Response(200, stream=Endless(b"A" * 2**22, 0)), deadline=60)


def test_an_interrupted_call_leaves_nothing_open() -> None:
    """Ctrl-C in the middle of an answer closes the connection."""

    class Interrupting(httpx.SyncByteStream):
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            yield b'{"created"'
            raise KeyboardInterrupt

        def close(self) -> None:
            self.closed = True

    stream = Interrupting()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=stream))
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with httpx.Client(transport=transport) as http_client:
        client = ImageVariationClient(base_url="http://pictures.example", http_client=http_client)
        with pytest.raises(KeyboardInterrupt):
            client.create_variation(request)
    assert stream.closed


def test_a_slow_resolver_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline counts, although the resolver's own timeouts are much longer."""
    release = threading.Event()

    def resolve_slowly(*_: object, **__: object) -> list[object]:
        release.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    start = time.monotonic()
    with ImageVariationClient(base_url="http://slow.example", deadline=0.3) as client:
        with pytest.raises(EngineTimeoutError, match="accept a connection"):
            client.create_variation(CreateImageVariationRequest(image=SquarePNG(PNG)))
    assert time.monotonic() - start < 4
    release.set()


@pytest.mark.slow
@pytest.mark.parametrize("reaction", [trickle(GOOD), stall])
def test_a_deadline_holds_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, reaction: Reaction
) -> None:
    """The deadline ends the call, whatever the proxy does."""
    with raw_server(reaction) as proxy:
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{proxy.port}")
        start = time.monotonic()
        with ImageVariationClient(base_url="http://x.invalid", deadline=0.3) as client:
            with pytest.raises(EngineTimeoutError):
                client.create_variation(CreateImageVariationRequest(image=SquarePNG(PNG)))
        assert time.monotonic() - start < 4
        assert proxy.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Like httpx, the client uses the environment's proxy, except for exempt hosts."""
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(GOOD if scheme == "http" else hang_up) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{proxy.port}")
        settings = {"base_url": f"{scheme}://pictures.invalid/v1", "max_retries": 0}
        with ImageVariationClient(**settings) as client:  # type: ignore[arg-type]  # each by name
            if scheme == "http":
                assert client.create_variation(request).data[0].read() == PNG
            else:
                with pytest.raises(EngineConnectionError):
                    client.create_variation(request)
        target = b"http://pictures.invalid/v1" if scheme == "http" else b"pictures.invalid:443"
        assert proxy.requests[0].split(b" ")[1].startswith(target)
        monkeypatch.setenv("no_proxy", "pictures.invalid")
        with ImageVariationClient(**settings) as client:  # type: ignore[arg-type]  # each by name
            with pytest.raises(EngineConnectionError, match="cannot be reached"):
                client.create_variation(request)
        assert len(proxy.requests) == 1


def test_hooks_of_an_http_client_are_called() -> None:
    """The hooks of an httpx client that you pass see our requests, too."""
    urls: list[str] = []
    hooks: dict[str, list[Callable[..., None]]] = {
        "request": [lambda request: urls.append(request.method)]
    }
    with raw_server(GOOD) as server, httpx.Client(event_hooks=hooks) as http_client:
        client = ImageVariationClient(base_url=server.base_url, http_client=http_client)
        client.create_variation(CreateImageVariationRequest(image=SquarePNG(PNG)))
    assert urls == ["POST"]
