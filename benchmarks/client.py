"""What the client costs compared with the vendor's SDK and with httpx, on a loopback server.

Claims:

- A small call takes at most 0.7 times the CPU time of the SDK and 1.15 times that of httpx.
- A call that returns ten images of 1024x1024 as b64_json takes at most 0.9 times the CPU time of
  the SDK, and no more memory.
- The import takes at most a third of the SDK's import time.

The clients take turns, each in new processes. CPU time is that of the client's process alone, and
every client decodes every image. Our module imports httpx only when the first client is created, so
"ready" is the time of the import and the construction together.

    python benchmarks/client.py [--rounds N]

Exits with 1 if a bar is missed. Needs the `test` extra, for the SDK.
"""

import argparse
import base64
import io
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLIENTS = ("ours", "sdk", "httpx")
SMALL_CALLS = 200
LARGE_CALLS = 3
STARTS = {
    "ours": (
        "langchain_image_variation.hosted.client as c",
        "c.ImageVariationClient(base_url='http://127.0.0.1/v1')",
    ),
    "sdk": ("openai", "openai.OpenAI(base_url='http://127.0.0.1/v1', api_key='k')"),
    "httpx": ("httpx", "httpx.Client()"),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the headers of the response wait for an acknowledgment.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body: bytes = self.server.bodies[self.path.split("/")[1]]  # type: ignore[attr-defined]  # ours
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self.wfile.write(f"{head}\r\nx-request-id: req_1\r\n\r\n".encode() + body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _png(side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    noise = Image.effect_noise((side, side), 40)
    Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).save(buffer, "PNG")
    return buffer.getvalue()


def _body(n: int, side: int) -> bytes:
    image = base64.b64encode(_png(side)).decode()
    return json.dumps({"created": 1, "data": [{"b64_json": image}] * n}, indent=2).encode()


def _serve() -> None:
    """Print the port, and answer every request at /small/... and /large/... ."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.bodies = {"small": _body(1, 16), "large": _body(10, 1024)}  # type: ignore[attr-defined]  # ours
    print(server.server_port, flush=True)
    threading.Thread(target=sys.stdin.read, daemon=True).start()
    server.serve_forever()


def _caller(name: str, base_url: str, n: int) -> Callable[[], int]:
    """Return a function that makes one call, decodes the images and returns their total length."""
    image = _png(16)
    if name == "ours":
        from langchain_image_variation.hosted.client import ImageVariationClient

        client = ImageVariationClient(base_url=base_url, api_key="k")

        def call() -> int:
            response = client.images.create_variation(
                image=image, n=n, size="1024x1024", response_format="b64_json"
            )
            return sum(len(image.read()) for image in response.data)

    elif name == "sdk":
        import warnings

        import openai

        warnings.simplefilter("ignore")
        sdk = openai.OpenAI(base_url=base_url, api_key="k")

        def call() -> int:
            response = sdk.images.create_variation(
                image=("image.png", image), n=n, size="1024x1024", response_format="b64_json"
            )
            return sum(len(base64.b64decode(item.b64_json or "")) for item in response.data or [])

    else:
        import httpx

        http_client = httpx.Client(headers={"authorization": "Bearer k"})
        form = {"n": str(n), "size": "1024x1024", "response_format": "b64_json"}

        def call() -> int:
            files = {"image": ("image.png", image, "image/png")}
            response = http_client.post(f"{base_url}/images/variations", data=form, files=files)
            response.raise_for_status()
            data = response.json()["data"]
            return sum(len(base64.b64decode(item["b64_json"])) for item in data)

    return call


def _child(name: str, kind: str, port: str) -> None:
    """Print the CPU seconds per call and the peak memory of the process in MB."""
    calls = SMALL_CALLS if kind == "small" else LARGE_CALLS
    call = _caller(name, f"http://127.0.0.1:{port}/{kind}", 1 if kind == "small" else 10)
    assert call() > 0
    start = time.process_time()
    for _ in range(calls):
        call()
    cpu = (time.process_time() - start) / calls
    print(cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _run(*arguments: str) -> list[float]:
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    return [float(word) for word in process.stdout.split()]


def _start(name: str) -> tuple[float, float]:
    """Return the CPU seconds of the import, and of the import plus the first client."""
    module, client = STARTS[name]
    code = (
        f"from time import process_time as now; start = now(); import {module}; imported = now();"
        f"{client}; print(imported - start, now() - start)"
    )
    imported, ready = _run("-c", code)
    return imported, ready


def _medians(rounds: int, port: str) -> dict[str, dict[str, float]]:
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in CLIENTS}
    for _ in range(rounds):
        for name in CLIENTS:
            small_cpu, _ = _run(__file__, "--child", name, "small", port)
            large_cpu, peak = _run(__file__, "--child", name, "large", port)
            imported, ready = _start(name)
            row = {
                "small ms": small_cpu * 1000,
                "large ms": large_cpu * 1000,
                "peak MB": peak,
                "import ms": imported * 1000,
                "ready ms": ready * 1000,
            }
            for column, value in row.items():
                samples[name].setdefault(column, []).append(value)
    return {
        name: {column: statistics.median(values) for column, values in row.items()}
        for name, row in samples.items()
    }


BARS = (
    ("small ms", "sdk", 0.7),
    ("small ms", "httpx", 1.15),
    ("large ms", "sdk", 0.9),
    ("peak MB", "sdk", 1.0),
    ("import ms", "sdk", 1 / 3),
)


def main() -> int:
    """Print the figures and their ratios. Return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve()
    if arguments.child:
        _child(*arguments.child)
        return 0
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        table = _medians(arguments.rounds, server.stdout.readline().strip())
    finally:
        server.kill()
        server.wait()
    columns = list(table["ours"])
    print(f"{'':8}" + "".join(f"{column:>12}" for column in columns))
    for name, row in table.items():
        print(f"{name:8}" + "".join(f"{row[column]:12.2f}" for column in columns))
    misses = 0
    for column, peer, bar in BARS:
        ratio = table["ours"][column] / table[peer][column]
        misses += ratio > bar
        print(f"{column} / {peer}: {ratio:.2f} (bar {bar:.2f}){' MISSED' if ratio > bar else ''}")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
