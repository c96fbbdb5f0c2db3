"""What it costs to call an upstream through the server, compared with calling it directly.

1,000 chat answers are streamed from a fake upstream, 50 at once. Each event says when it was sent.
Claims: an event costs the server at most 0.5 ms of CPU time, and memory does not grow with the
number of answers. How much later an event arrives is shown too, but other work on the machine
changes it. Then 1 GB is downloaded and uploaded. Claim: the server's memory stays within 32 MB of
what it was before.

    python benchmarks/upstream.py [--answers N] [--gigabytes N]

Exits with 1 if a bar is missed. Linux only: it reads memory and CPU time from /proc.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

from server import ServerProcess, running_server

AT_ONCE = 50
EVENTS = 20
PAUSE_SECONDS = 0.05
CPU_BAR_MICROSECONDS = 500
MEMORY_BAR_MB = 32
WARM_UP = 100
PIECE = bytes(256 * 1024)
CHAT = b"/v1/chat/completions"
FILES = b"/v1/files"


async def serve_upstream() -> None:
    """Act as the upstream: stream events for a chat, and send or take the bytes of a file."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                method, target, length = parse_head(await reader.readuntil(b"\r\n\r\n"))
                if method == b"GET":
                    await send_file(writer, int(target.rpartition(b"/")[2]))
                    continue
                for start in range(0, length, len(PIECE)):
                    await reader.readexactly(min(len(PIECE), length - start))
                if target == CHAT:
                    await stream_events(writer)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**20)
    port = server.sockets[0].getsockname()[1]
    print(f"upstream at http://127.0.0.1:{port}/v1.", flush=True)
    await server.serve_forever()


def parse_head(head: bytes) -> tuple[bytes, bytes, int]:
    """Return the method, the target and the length of the body of a request."""
    method, target, _ = head.partition(b"\r\n")[0].split(b" ")
    _, _, rest = head.lower().partition(b"\r\ncontent-length: ")
    return method, target, int(rest.partition(b"\r\n")[0] or 0)


async def stream_events(writer: asyncio.StreamWriter) -> None:
    """Send events that each say when they were sent."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
    writer.write(b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(EVENTS):
        await asyncio.sleep(PAUSE_SECONDS)
        event = f"data: {time.perf_counter()}\n\n".encode().rjust(100)
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def send_file(writer: asyncio.StreamWriter, length: int) -> None:
    """Send that many bytes."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
    for _ in range(0, length, len(PIECE)):
        writer.write(PIECE)
        await writer.drain()


async def stream_chats(port: int, count: int) -> list[float]:
    """Ask for chats one after the other over one connection, and return the delay of each event."""
    delays = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"model": "m", "messages": [], "stream": true}'
    for _ in range(count):
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-1\r\n"
            b"content-length: %d\r\n\r\n%b" % (CHAT, len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        events = 0
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunk = await reader.readexactly(size + 2)
            now = time.perf_counter()
            for event in chunk.split(b"data: ")[1:]:
                delays.append(now - float(event))
                events += 1
        await reader.readexactly(2)
        assert events == EVENTS, events
    writer.close()
    return delays


async def stream_at_once(port: int, answers: int) -> list[float]:
    """Ask for that many chats, `AT_ONCE` at the same time, and return the delay of each event."""
    each = (stream_chats(port, answers // AT_ONCE) for _ in range(AT_ONCE))
    return [delay for delays in await asyncio.gather(*each) for delay in delays]


async def download(port: int, length: int) -> None:
    """Download a file."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(b"GET %b/%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % (FILES, length))
    await reader.readuntil(b"\r\n\r\n")
    received = 0
    while received < length:
        received += len(await reader.read(2**20))
    writer.close()


async def upload(port: int, length: int) -> None:
    """Upload a file."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (FILES, length)
    writer.write(head)
    for _ in range(0, length, len(PIECE)):
        writer.write(PIECE)
        await writer.drain()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


@contextlib.contextmanager
def running_servers() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run the upstream and our server in front of it."""
    with running_server(__file__, "--serve") as upstream, tempfile.TemporaryDirectory() as folder:
        options = ["--engine", "instant", "--port", "0", "--store-dir", folder]
        url = f"http://127.0.0.1:{upstream.port}/v1"
        command = ["-m", "langchain_image_variation", "serve", *options, "--upstream", url]
        with running_server(*command) as server:
            yield upstream, server


def compare_chats(upstream: ServerProcess, server: ServerProcess, answers: int) -> bool:
    """Print the delays of events and the server's memory. Return whether the bars are met."""
    means = {}
    for name, port in (("directly", upstream.port), ("through the server", server.port)):
        asyncio.run(stream_at_once(port, WARM_UP))
        memory, cpu = server.memory(), server.cpu()
        delays = sorted(asyncio.run(stream_at_once(port, answers)))
        means[name] = statistics.mean(delays)
        print(
            f"{answers} chats, {AT_ONCE} at once, {name}: an event takes "
            f"{means[name] * 1000:.2f} ms, the 99th percentile is "
            f"{delays[int(len(delays) * 0.99)] * 1000:.2f} ms"
        )
    growth = server.memory() - memory
    added = means["through the server"] - means["directly"]
    micros = (server.cpu() - cpu) / len(delays) * 1e6
    ratio = means["through the server"] / means["directly"]
    print(
        f"Added by the server: {added * 1000:.2f} ms per event ({ratio:.1f} times), with "
        f"{micros:.0f} µs of CPU time. Memory after {WARM_UP} chats: {memory:.0f} MB; after "
        f"{answers} more: {growth:+.1f} MB"
    )
    return micros <= CPU_BAR_MICROSECONDS and growth <= MEMORY_BAR_MB


def compare_files(upstream: ServerProcess, server: ServerProcess, length: int) -> bool:
    """Print how long a file takes, and the server's memory. Return whether the bar is met."""
    is_met = True
    for move in (download, upload):
        seconds = {}
        for name, port in (("directly", upstream.port), ("through the server", server.port)):
            before = server.memory()
            start = time.perf_counter()
            asyncio.run(move(port, length))
            seconds[name] = time.perf_counter() - start
        growth = server.memory("VmHWM") - before
        is_met &= growth <= MEMORY_BAR_MB
        ratio = seconds["through the server"] / seconds["directly"]
        print(
            f"{move.__name__} of {length / 2**30:g} GB: {seconds['directly']:.1f} s directly, "
            f"{seconds['through the server']:.1f} s through the server ({ratio:.1f} times); "
            f"its peak of memory is {growth:+.1f} MB"
        )
    return is_met


def main() -> int:
    """Measure and print the figures. Return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve_upstream())
        return 0
    with running_servers() as (upstream, server):
        chats_pass = compare_chats(upstream, server, options.answers)
        length = round(options.gigabytes * 2**30 / len(PIECE)) * len(PIECE)
        files_pass = compare_files(upstream, server, length)
    print("All bars are met." if chats_pass and files_pass else "A bar is missed.")
    return 0 if chats_pass and files_pass else 1


if __name__ == "__main__":
    sys.exit(main())
