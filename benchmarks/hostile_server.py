"""Measures what a call costs when the server tries to keep the client busy, on loopback.

Claims:

- A call with a deadline of 2 seconds ends within 4 on an idle machine. Most of the difference is
  one image with the maximum number of pixels, which is being converted when the time is up.
- The client's memory grows by less than 1 GB, four times the maximum length of an answer.
- The call returns at most as many images as were asked for, or raises an error of this package.

Each attack is made on the sync and on the async client, each time in new processes.

    python benchmarks/hostile_server.py [NAME ...]

Exits with 1 if a bar is missed.
"""

import asyncio
import base64
import gzip
import json
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

DEADLINE = 2.0
MAX_SECONDS = 4.0
MAX_MEGABYTES = 1000
PATH = "/v1/images/variations"

Pieces = Iterable[bytes]


def png(side: int) -> bytes:
    """Return a white grayscale PNG, which compresses well."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    stream = zlib.compressobj(1)
    rows = b"".join(stream.compress(b"\0" + b"\xff" * side) for _ in range(side)) + stream.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    )


def whole(body: bytes, *headers: str, status: int = 200) -> Pieces:
    """Return a whole response."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def chunked(pieces: Pieces, status: int = 200) -> Pieces:
    """Yield an endless response in chunks."""
    yield b"HTTP/1.1 %d X\r\ntransfer-encoding: chunked\r\n\r\n" % status
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def slowly(pieces: Pieces) -> Iterator[bytes]:
    """Yield a piece every second."""
    for piece in pieces:
        yield piece
        time.sleep(1)


def answer(*entries: object) -> Pieces:
    """Return an answer with these entries."""
    return whole(json.dumps({"created": 1, "data": entries}).encode())


def images(count: int, data: bytes) -> Pieces:
    """Return an answer with the same image several times."""
    return answer(*[{"b64_json": base64.b64encode(data).decode()}] * count)


STRING = b'{"data": [{"b64_json": "'
URLS = [{"url": f"http://127.0.0.1:$PORT/{index}.png"} for index in range(120)]
# The server's answer to the call, by the name of the attack. A port has as many characters as
# "$PORT".
ATTACKS: dict[str, Callable[[], Pieces]] = {
    "entries": lambda: answer(*[{"b64_json": "iVBORw0KGgo="}] * 20_001),
    "downloads": lambda: answer(*URLS),
    "ten-downloads": lambda: answer(*URLS[:10]),
    "redirects": lambda: answer(*URLS),
    "pixels": lambda: images(10, png(13_300)),
    "allowed-pixels": lambda: images(10, png(9_400)),
    "nested": lambda: whole(b'{"data": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "number": lambda: whole(b'{"data": [], "created": ' + b"9" * 1_000_000 + b"}"),
    "structure": lambda: whole(b'{"data": [' + b"{}," * 330_000 + b"{}]}"),
    "lists": lambda: whole(b'{"data": [{"b64_json": "QUJD"}], "x": [' + b"[]," * 80_000 + b"1]}"),
    "escapes": lambda: chunked(chain([STRING], repeat(b'\\"' * 32_768))),
    "backslashes": lambda: chunked(chain([STRING], repeat(b"\\" * 65_536))),
    "escaped-string": lambda: whole(STRING + b"\\u0041" * 40_000_000 + b'"}]}'),
    "blanks": lambda: whole(STRING + b"iVBORw0KGgoA" + b" AB" * 60_000_000 + b'"}]}'),
    "long-string": lambda: chunked(chain([STRING], repeat(b"A" * 65_536))),
    "tiny-chunks": lambda: chain(chunked([STRING]), repeat(b"1\r\nA\r\n" * 10_000)),
    "headers": lambda: chain([b"HTTP/1.1 200 X\r\n"], repeat(b"x: " + b"y" * 65_536 + b"\r\n")),
    "cookies": lambda: whole(b"{}", *(f"set-cookie: a{index}=b" for index in range(3000))),
    "continues": lambda: repeat(b"HTTP/1.1 103 X\r\nlink: y\r\n\r\n" * 1000),
    "slow": lambda: slowly(chunked(repeat(b" "))),
    "slow-error": lambda: slowly(chunked(repeat(b" "), 500)),
    "long-error": lambda: chunked(repeat(b"A" * 65_536), 500),
    "nested-error": lambda: whole(b'{"error":' * 5_000 + b"1" + b"}" * 5_000, status=500),
    "gzip": lambda: whole(gzip.compress(bytes(10**8), 1), "content-encoding: gzip"),
    "br": lambda: whole(bytes(100), "content-encoding: br"),
    "zstd": lambda: whole(bytes(100), "content-encoding: zstd"),
}
MANY = ("ten-downloads", "pixels", "allowed-pixels")
"""Attacks on calls for ten images. The others ask for one."""


def serve(name: str) -> None:
    """Serve an attack, and print the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = str(listener.getsockname()[1])
    pieces = ATTACKS[name]()
    if isinstance(pieces, list):
        pieces = [piece.replace(b"$PORT", port.encode()) for piece in pieces]
    redirect = list(whole(b"", f"location: http://127.0.0.1:{port}/next.png", status=302))
    large = list(whole(b"\x89PNG\r\n\x1a\n" + bytes(20_000_000), "content-type: image/png"))
    print(port, flush=True)

    def talk(connection: socket.socket) -> None:
        try:
            while head := receive_request(connection):
                if head.split(b" ")[1] == PATH.encode():
                    answer_pieces = pieces
                else:
                    answer_pieces = redirect if name == "redirects" else large
                for piece in answer_pieces:
                    connection.sendall(piece)
        except OSError:
            return  # The client has seen enough.

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


def receive_request(connection: socket.socket) -> bytes:
    """Return the head of a request, once its body has arrived, or nothing at the end."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while len(body) < sum(lengths):
        body += connection.recv(65_536)
    return head


def attack(kind: str, port: str, n: int) -> None:
    """Make one call, and print what it took and what happened."""
    from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
    from langchain_image_variation.exceptions import ImageVariationError
    from langchain_image_variation.hosted.client import (
        AsyncImageVariationClient,
        ImageVariationClient,
    )
    from langchain_image_variation.images.png import SquarePNG

    request = CreateImageVariationRequest(image=SquarePNG(png(8)), size="256x256", n=n)
    settings: dict[str, Any] = {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "deadline": DEADLINE,
        "max_retries": 0,
        "normalize": True,
    }

    def call() -> ImagesResponse:
        with ImageVariationClient(**settings) as client:
            return client.create_variation(request)

    async def call_async() -> ImagesResponse:
        async with AsyncImageVariationClient(**settings) as client:
            return await client.create_variation(request)

    # The first client loads httpx. That must not count.
    ImageVariationClient(**settings).close()
    memory, start = peak_memory(), time.monotonic()
    try:
        response = call() if kind == "sync" else asyncio.run(call_async())
        failures = {image.failure.message[:60] for image in response.data if image.failure}
        outcome = f"{len(response.data)} images. {' '.join(failures)}"
        is_ours = len(response.data) <= n
    except Exception as error:
        outcome = f"{type(error).__name__}: {str(error)[:60]}"
        is_ours = isinstance(error, ImageVariationError)
    print(json.dumps([time.monotonic() - start, peak_memory() - memory, outcome, is_ours]))


def peak_memory() -> int:
    """Return the peak memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(name: str, kind: str) -> tuple[float, int, str, bool]:
    """Return the seconds, the megabytes and the outcome of an attack, and whether it is allowed."""
    script = [sys.executable, __file__]
    with subprocess.Popen([*script, "serve", name], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            client = subprocess.run(
                [*script, "attack", kind, port, "10" if name in MANY else "1"],
                stdout=subprocess.PIPE,
                text=True,
                timeout=60,
            )
            result: tuple[float, int, str, bool] = json.loads(client.stdout)
        except subprocess.TimeoutExpired:
            result = 60.0, 0, "still busy", False
        finally:
            server.kill()
    return result


def main(names: list[str]) -> int:
    """Make the attacks, and return 1 if a bar is missed."""
    missed = 0
    for name in names or ATTACKS:
        for kind in ("sync", "async"):
            seconds, megabytes, outcome, is_ours = measure(name, kind)
            is_met = seconds < MAX_SECONDS and megabytes < MAX_MEGABYTES and is_ours
            missed += not is_met
            figures = f"{seconds:6.2f} s {megabytes:5} MB"
            print(f"{'' if is_met else 'MISSED':6} {name:14} {kind:5} {figures}  {outcome}")
    return 1 if missed else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", attack_name]:
            serve(attack_name)
        case ["attack", client_kind, server_port, count]:
            attack(client_kind, server_port, int(count))
        case attack_names:
            sys.exit(main(attack_names))
