"""What the server costs besides the engine, compared with a bare Starlette app.

The bare app reads the form and responds. Claim: a request that uploads 1 MB takes at most 3 times
as long on our server, without the time of the engine. Our server also checks the image, down to its
checksums, and calls the engine in another thread. Both wall time and the CPU time of the server are
measured. Each server runs in a separate process, one at a time.

The benchmark also shows requests per second, the 99th percentile of their times and the memory of
the server at 1, 16 and 256 connections. With `--load`, it shows the memory with slow connections,
large uploads, small requests and large responses.

With `--ray`, it shows instead what Ray Serve costs, with one and two replicas of two engines. The
plain server makes as many calls at once. Needs the extra `ray-serve`.

    python benchmarks/server.py [--rounds N] [--load]
    python benchmarks/server.py --ray

Exits with 1 if a bar is missed. Linux only: it reads memory and CPU time from /proc.
"""

import argparse
import asyncio
import contextlib
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from langchain_image_variation import CreateImageVariationRequest, ImagesResponse, SquarePNG
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.run import run_app
from pytest_image_variation.samples import square_png

BAR = 3.0
CONNECTIONS = (1, 16, 256)
# As long as those of the SDKs. The parser takes longer to look for a shorter one.
BOUNDARY = b"9051914041544843365972754266aaaa"
REQUESTS = {1: 200, 16: 400, 256: 800}
RAY_REQUESTS = {"instant": 400, "local": 80}
BARE = """
import uvicorn, socket
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def read(request):
    async with request.form() as form:
        await form["image"].read()
    return Response(b"{}", media_type="application/json")

with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"bare at http://127.0.0.1:{listener.getsockname()[1]}/v1.", flush=True)
    app = Starlette(routes=[Route("/v1/images/variations", read, methods=["POST"])])
    config = uvicorn.Config(app, access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
"""


class ServerProcess:
    """A server in a separate process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.pid = process.pid
        self.port = port

    def memory(self, field: str = "VmRSS") -> float:
        """Return the resident memory in MB: now, or its peak so far with VmHWM."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith(field)]
        return int(line.split()[1]) / 1024

    def cpu(self) -> float:
        """Return the CPU time so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_server(*command: str) -> Iterator[ServerProcess]:
    """Run a server that prints its address in its first line of output."""
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().partition(" at ")[2].partition("/v1.")[0]
            yield ServerProcess(process, int(address.rpartition(":")[2]))
        finally:
            process.kill()


class BlindEngine(InstantEngine):
    """The engine `instant` with a tiny source. Decoding the uploaded one would cost too much."""

    def __init__(self) -> None:
        super().__init__()
        self._source = SquarePNG(square_png(8))

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return flat images."""
        return super().create_variation(request.model_copy(update={"image": self._source}))


def serve(queue: int, folder: Path) -> None:
    """Serve that engine in this process."""
    app = create_app(BlindEngine(), queue=queue, store_dir=folder)

    def ready(address: str) -> None:
        print(f"ours at {address}/v1.", flush=True)

    run_app(app, host="127.0.0.1", port=0, ready=ready)


@contextlib.contextmanager
def our_server(queue: int = 1000) -> Iterator[ServerProcess]:
    """Run our server with an engine that takes almost no time."""
    with tempfile.TemporaryDirectory() as folder:
        with running_server(__file__, "--serve", str(queue), folder) as server:
            yield server


def raw_request(image: bytes, **fields: str) -> bytes:
    """Return the bytes of a request."""
    form = {"response_format": "b64_json", "size": "256x256", **fields}
    parts = [f'"{name}"\r\n\r\n{value}'.encode() for name, value in form.items()]
    parts.append(b'"image"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n' + image)
    head = b"--%b\r\ncontent-disposition: form-data; name=" % BOUNDARY
    body = b"".join(head + part + b"\r\n" for part in parts) + b"--%b--\r\n" % BOUNDARY
    return (
        b"POST /v1/images/variations HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: multipart/form-data; boundary=%b\r\n"
        b"content-length: %d\r\n\r\n%b" % (BOUNDARY, len(body), body)
    )


async def read_status(reader: asyncio.StreamReader) -> int:
    """Read a whole response, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def send_requests(port: int, body: bytes, count: int, durations: list[float]) -> list[int]:
    """Send a request several times over one connection, and return the statuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    statuses = []
    for _ in range(count):
        start = time.perf_counter()
        writer.write(body)
        await writer.drain()
        statuses.append(await read_status(reader))
        durations.append(time.perf_counter() - start)
    writer.close()
    return statuses


async def hammer(port: int, body: bytes, connections: int, total: int) -> tuple[float, list[float]]:
    """Return the requests per second over several connections, and the time of each."""
    durations: list[float] = []
    start = time.perf_counter()
    each = [
        send_requests(port, body, max(1, total // connections), durations)
        for _ in range(connections)
    ]
    statuses = [status for answers in await asyncio.gather(*each) for status in answers]
    assert set(statuses) == {200}, set(statuses)
    return len(durations) / (time.perf_counter() - start), durations


def engine_seconds(image: bytes) -> tuple[float, float]:
    """Return the wall time and the CPU time that the engine takes."""
    request = CreateImageVariationRequest(image=SquarePNG(image), size="256x256")
    engine = BlindEngine()
    engine.create_variation(request)
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(REQUESTS[1]):
        engine.create_variation(request)
    return (
        (time.perf_counter() - clock) / REQUESTS[1],
        (time.process_time() - cpu) / REQUESTS[1],
    )


def request_seconds(
    start: contextlib.AbstractContextManager[ServerProcess], body: bytes
) -> tuple[float, float]:
    """Return a request's wall time over one connection, and the server's CPU time for it."""
    with start as peer:
        asyncio.run(hammer(peer.port, body, 1, REQUESTS[1] // 4))
        cpu = peer.cpu()
        _, durations = asyncio.run(hammer(peer.port, body, 1, REQUESTS[1]))
        return statistics.mean(durations), (peer.cpu() - cpu) / REQUESTS[1]


def compare(rounds: int, image: bytes) -> dict[str, float]:
    """Print what a request costs on each server, and return the ratios without the engine's time.

    Both servers are restarted in each round. By chance, malloc returns a process's memory to the
    system after each request or never, so a bare app takes 1.2 or 2.7 ms. The sums of all rounds
    count.
    """
    body = raw_request(image)
    measurements = [
        (
            engine_seconds(image),
            request_seconds(our_server(), body),
            request_seconds(running_server("-c", BARE), body),
        )
        for _ in range(rounds)
    ]
    ratios = {}
    print(f"1 MB upload, means of {rounds} rounds of {REQUESTS[1]} requests, in ms (least, most):")
    for index, clock_name in enumerate(("clock", "CPU")):
        columns = [
            [times[index] * 1000 for times in each] for each in zip(*measurements, strict=True)
        ]
        engine, ours, bare = (
            f"{statistics.mean(column):.2f} ({min(column):.2f}, {max(column):.2f})"
            for column in columns
        )
        print(f"{clock_name:>8}: ours {ours}, of which engine {engine}; bare {bare}")
        ratios[clock_name] = (sum(columns[1]) - sum(columns[0])) / sum(columns[2])
    return ratios


def print_table(image: bytes) -> None:
    """Print requests per second, the 99th percentile and memory for each number of connections."""
    print(f"{'':>12}{'requests/s':>12}{'p99 ms':>10}{'peak MB':>10}")
    for connections in CONNECTIONS:
        with our_server() as server:
            rate, durations = asyncio.run(
                hammer(server.port, raw_request(image), connections, REQUESTS[connections])
            )
            p99 = sorted(durations)[int(len(durations) * 0.99)] * 1000
            peak = server.memory("VmHWM")
            print(f"{connections:>12}{rate:12.0f}{p99:10.1f}{peak:10.0f}")


async def drip(port: int, connections: int, seconds: float) -> None:
    """Hold connections that each send one byte per second of a large upload."""
    head, _, rest = raw_request(bytes(100_000)).partition(b"\r\n\r\n")
    streams = []
    for _ in range(connections):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"\r\n\r\n")
        streams.append((reader, writer))
    for second in range(int(seconds)):
        for _, writer in streams:
            writer.write(rest[second : second + 1])
        await asyncio.sleep(1)
    for _, writer in streams:
        writer.close()


async def burst(port: int, body: bytes, connections: int, count: int) -> dict[int, int]:
    """Return how often each status was received."""
    each = await asyncio.gather(*(send_requests(port, body, count, []) for _ in range(connections)))
    statuses = [status for answers in each for status in answers]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


async def put_under_load(
    load: Callable[[int], Awaitable[dict[int, int] | None]], port: int
) -> dict[int, int] | None:
    """Put a server under a load, and return how often each status was received."""
    return await load(port)


def print_load() -> None:
    """Print the server's memory before each kind of load, and its peak."""
    large = megabyte(1140)
    kinds: dict[str, Callable[[int], Awaitable[dict[int, int] | None]]] = {
        "500 connections, one byte per second": lambda port: drip(port, 500, 10),
        "200 uploads of 4 MB at once": lambda port: burst(port, raw_request(large), 200, 1),
        "10,000 small requests": lambda port: burst(port, raw_request(square_png(8)), 50, 200),
        "16 answers of ten 1024x1024": lambda port: burst(
            port, raw_request(square_png(8), n="10", size="1024x1024"), 16, 1
        ),
    }
    for name, load in kinds.items():
        with our_server(queue=16) as server:
            before = server.memory()
            statuses = asyncio.run(put_under_load(load, server.port))
            peak = server.memory("VmHWM")
            print(f"{name:38}{before:6.0f} MB before, {peak:4.0f} MB peak; {statuses or ''}")


def plain_server(engine: str, workers: int, folder: str) -> Any:
    """Run `image-variation serve` with an engine."""
    options = ["--engine", engine, "--workers", str(workers), "--queue", "1000"]
    command = ["-m", "langchain_image_variation", "serve", "--port", "0", "--store-dir", folder]
    return running_server(*command, *options)


@contextlib.contextmanager
def ray_server(port: int, engine: str, replicas: int) -> Iterator[None]:
    """Deploy the application on Ray Serve, which runs in this process's cluster."""
    from ray import serve

    from langchain_image_variation.server.ray import Settings, app

    settings = Settings(
        engine=engine, min_replicas=replicas, max_replicas=replicas, queue=1000, num_cpus=1
    )
    serve.run(app(settings), name="benchmark")
    try:
        yield
    finally:
        serve.delete("benchmark")


def print_ray() -> None:
    """Print requests per second and the time of one request, on the plain server and on Ray."""
    import ray
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    body = raw_request(square_png(512))
    print(f"{'':>26}{'requests/s':>12}{'ratio':>8}{'ms alone':>10}{'more':>8}")
    try:
        for engine, total in RAY_REQUESTS.items():
            for count in (1, 2):
                with tempfile.TemporaryDirectory() as folder:
                    with plain_server(engine, count, folder) as server:
                        plain_rate, plain_ms = ray_figures(server.port, body, total)
                with ray_server(port, engine, count):
                    rate, ms = ray_figures(port, body, total)
                print(f"{f'{engine}, plain, {count}':26}{plain_rate:12.1f}{'':8}{plain_ms:10.1f}")
                name, ratio = f"{engine}, Ray Serve, {count}", rate / plain_rate
                print(f"{name:26}{rate:12.1f}{ratio:8.2f}{ms:10.1f}{ms - plain_ms:8.1f}")
    finally:
        serve.shutdown()
        ray.shutdown()


def ray_figures(port: int, body: bytes, total: int) -> tuple[float, float]:
    """Return the requests per second over 8 connections, and the milliseconds of one request."""
    asyncio.run(hammer(port, body, 8, total // 4))
    rate, _ = asyncio.run(hammer(port, body, 8, total))
    _, durations = asyncio.run(hammer(port, body, 1, total // 4))
    return rate, statistics.median(durations) * 1000


def main() -> int:
    """Measure and print the figures. Return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--load", action="store_true", help="also measure memory under load")
    parser.add_argument("--ray", action="store_true", help="measure Ray Serve instead")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        queue, folder = arguments.serve
        serve(int(queue), Path(folder))
        return 0
    if arguments.ray:
        print_ray()
        return 0
    image = megabyte()
    ratios = compare(arguments.rounds, image)
    print_table(image)
    if arguments.load:
        print_load()
    for clock_name, ratio in ratios.items():
        verdict = " MISSED" if ratio > BAR else ""
        print(f"ours / bare by {clock_name}: {ratio:.2f} (bar {BAR:.2f}){verdict}")
    return 1 if max(ratios.values()) > BAR else 0


def megabyte(side: int = 591) -> bytes:
    """Return a square PNG file of about 1 MB, or almost 4 MB for a side of 1140."""
    buffer = io.BytesIO()
    noise = [Image.effect_noise((side, side), 90) for _ in range(3)]
    Image.merge("RGB", noise).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
