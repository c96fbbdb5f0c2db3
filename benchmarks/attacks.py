"""Measures what a few clients can cost the server: waiting time, memory and temporary files.

Each attack meets a new server process, which has a key, while another client asks for `/healthz`
again and again. Claim: `/healthz` answers within two seconds, no matter what the others send.

Clients take turns by address. So the benchmark also shows how long a light request takes after
another client has sent twelve heavy ones.

    python benchmarks/attacks.py [--only NAME]

Exits with 1 if the bar is missed. Runs on Linux only, because it reads /proc.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from pytest_image_variation.samples import square_png
from server import BOUNDARY, ServerProcess, raw_request, running_server

BAR = 2.0
KEY = b"sk-attacks"
SECONDS = 30.0
"""How long an attack may last."""


@contextlib.contextmanager
def locked_server() -> Iterator[ServerProcess]:
    """Run the server as a user does, with a key."""
    os.environ["IMAGE_VARIATION_API_KEY"] = KEY.decode()
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "langchain_image_variation", "serve", "--port=0", f"--store-dir={folder}")
        with running_server(*command) as server:
            yield server


def request_head(*lines: bytes, key: bool = True) -> bytes:
    """Return the head of a request with these further lines."""
    kind = b"content-type: multipart/form-data; boundary=" + BOUNDARY
    keys = [b"authorization: Bearer " + KEY] if key else []
    first = b"POST /v1/images/variations HTTP/1.1"
    return b"\r\n".join([first, b"host: localhost", kind, *keys, *lines, b"", b""])


def with_key(request: bytes) -> bytes:
    """Return a request with the server's key."""
    return request.replace(b"\r\n", b"\r\nauthorization: Bearer %b\r\n" % KEY, 1)


CHUNKED = b"transfer-encoding: chunked"
FORM = b'--%b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n' % BOUNDARY
FORM_CHUNK = b"%x\r\n%b\r\n" % (len(FORM), FORM)


async def send(port: int, *pieces: bytes, hold: float = 0.0, address: str = "127.0.0.1") -> bytes:
    """Send some bytes and return the first line of the answer, or what went wrong."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, limit=2**20, local_addr=(address, 0)
    )
    answer = asyncio.create_task(reader.readline())
    try:
        for piece in pieces:
            for start in range(0, len(piece), 65536):
                writer.write(piece[start : start + 65536])
                await writer.drain()
        if hold:
            await asyncio.wait([answer], timeout=hold)
            return answer.result().strip() if answer.done() else b"held"
        return (await answer).strip()
    except OSError as error:
        # The answer may have arrived before the connection was closed.
        return (
            answer.result().strip()
            if answer.done() and not answer.exception()
            else (type(error).__name__.encode())
        )
    finally:
        answer.cancel()
        writer.close()


def large_png(side: int = 8192) -> bytes:
    """Return a gray PNG of one color, which is small."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (3 * side + 1)), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def many(count: int, *pieces: bytes, hold: float = 0.0) -> Callable[[int], Awaitable[list[bytes]]]:
    """Return an attack that sends the same data on several connections."""

    async def attack(port: int) -> list[bytes]:
        return await asyncio.gather(*(send(port, *pieces, hold=hold) for _ in range(count)))

    return attack


async def pipelined(port: int) -> list[bytes]:
    """Send requests without waiting for their answers, and read all of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 5000
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * count)
    answers = 0
    while answers < count:
        answers += (await reader.read(2**20)).count(b"HTTP/1.1 200")
    writer.close()
    return [b"HTTP/1.1 200 OK"]


def attacks() -> dict[str, Callable[[int], Awaitable[list[bytes]]]]:
    """Return the attacks by name."""
    headers = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"a:\r\n" * 15_000 + b"\r\n"
    tiny = b"1\r\nx\r\n" * 400_000
    padded = (b"1;" + b"a" * 60 + b"\r\nx\r\n") * 36_000
    upload = bytes(7_900_000)
    large = with_key(raw_request(large_png()))
    return {
        "8 x 2.4 MB in one-byte chunks, no key": many(8, request_head(CHUNKED, key=False), tiny),
        "8 x 2.4 MB in one-byte chunks, key": many(8, request_head(CHUNKED), FORM_CHUNK, tiny),
        "8 x 2.4 MB of chunk extensions, key": many(8, request_head(CHUNKED), FORM_CHUNK, padded),
        "8 x 2.4 MB in one-byte chunks, /healthz": many(
            8, b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n\r\n", tiny
        ),
        "64 x 60 KB of one-byte headers": many(64, headers),
        "5,000 pipelined requests": pipelined,
        "100 uploads of 7.9 MB, held": many(
            100, request_head(b"content-length: 7999999"), FORM, upload, hold=10.0
        ),
        "18 images of 8192 x 8192": many(18, large),
    }


def temporary_bytes(server: ServerProcess) -> int:
    """Return the size of the temporary files that the server has open."""
    total = 0
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(tempfile.gettempdir()):
                total += link.stat().st_size
    return total


class Watch(threading.Thread):
    """Asks for `/healthz` again and again until it is stopped."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self._server = server
        self._stop_event = threading.Event()
        self.longest = 0.0
        """The longest time that an answer took, in seconds."""
        self.temporary_bytes = 0
        """The largest size of the server's temporary files."""

    def run(self) -> None:
        """Ask until stopped."""
        head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        while not self._stop_event.wait(0.02):
            start = time.perf_counter()
            with socket.create_connection(("127.0.0.1", self._server.port)) as client:
                client.sendall(head)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            self.longest = max(self.longest, time.perf_counter() - start)
            self.temporary_bytes = max(self.temporary_bytes, temporary_bytes(self._server))

    def stop(self) -> None:
        """Stop after the current answer."""
        self._stop_event.set()
        self.join()


async def bounded(answers: Awaitable[list[bytes]]) -> list[bytes]:
    """Return the answers to an attack, which is stopped after a while."""
    try:
        return await asyncio.wait_for(answers, SECONDS)
    except TimeoutError:
        return [b"unfinished"]


def measure(name: str, attack: Callable[[int], Awaitable[list[bytes]]]) -> float:
    """Run an attack, print its row, and return the longest time that `/healthz` took."""
    with locked_server() as server:
        before = server.memory()
        watch = Watch(server)
        watch.start()
        answers = asyncio.run(bounded(attack(server.port)))
        watch.stop()
        counts = {a.decode(): answers.count(a) for a in sorted(set(answers))}
        print(
            f"{name:42}{watch.longest:8.2f} s{server.memory('VmHWM') - before:8.0f} MB"
            f"{watch.temporary_bytes / 1e6:8.0f} MB  {server.cpu():6.1f} s  {counts}",
            flush=True,
        )
        return watch.longest


async def light_request_seconds(port: int) -> float:
    """Return how long a light request takes while another client has sent twelve heavy ones."""
    heavy = with_key(raw_request(square_png(1024), n="10", size="1024x1024"))
    light = with_key(raw_request(square_png(64)))
    others = [asyncio.create_task(send(port, heavy)) for _ in range(12)]
    await asyncio.sleep(1)
    start = time.perf_counter()
    # Another address of this machine is another client.
    answer = await send(port, light, address="127.0.0.2")
    assert answer == b"HTTP/1.1 200 OK", answer
    for other in others:
        other.cancel()
    return time.perf_counter() - start


def main() -> int:
    """Measure and print the figures. Return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="run only attacks whose name contains this")
    arguments = parser.parse_args()
    print(f"{'':42}{'/healthz':>10}{'memory':>11}{'files':>11}{'CPU':>10}  answers")
    longest = [
        measure(name, attack) for name, attack in attacks().items() if arguments.only in name
    ]
    if not arguments.only:
        with locked_server() as server:
            seconds = asyncio.run(light_request_seconds(server.port))
        print(f"a light request behind 12 heavy ones of another client: {seconds:.1f} s")
    verdict = " MISSED" if max(longest) > BAR else ""
    print(f"longest /healthz: {max(longest):.2f} s (bar {BAR:.2f} s){verdict}")
    return 1 if max(longest) > BAR else 0


if __name__ == "__main__":
    raise SystemExit(main())
