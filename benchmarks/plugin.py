"""What the pytest plugin costs, compared with similar plugins measured in the same run.

Claims: Loading the plugin takes less than 15 ms. Replaying a scenario takes less than twice as long
as with vcrpy alone on the same cassette. A request to the test server takes less than 1.6 times as
long as one to the app alone. Once its modules are imported, the test server starts in less than 50
ms and stops in less than 20 ms.

    python benchmarks/plugin.py [--rounds N]

Plugins that are not installed are skipped. Exits with 1 if a bar is missed.
"""

import argparse
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import uvicorn
import vcr

from langchain_image_variation.server import create_app
from pytest_image_variation.loopback import Loopback
from pytest_image_variation.replay import replay_cassettes
from pytest_image_variation.samples import square_png
from pytest_image_variation.vcr_settings import cassette_dir

LOAD_BAR = 15.0
REPLAY_BAR = 2.0
REQUEST_BAR = 1.6
START_BAR, STOP_BAR = 50.0, 20.0
PLUGINS = {
    "pytest_image_variation.plugin": "image_variation",
    "pytest_recording.plugin": "pytest-recording",
    "pytest_httpx": "pytest-httpx",
    "respx.plugin": "respx",
}
LOAD_SCRIPT = """
import importlib, pytest, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
print((time.perf_counter() - start) * 1000)
"""
NAME = "success_b64_n2"
FIELDS = {"n": "2", "response_format": "b64_json"}
FILES = {"image": ("a.png", square_png(8), "image/png")}


def time_load(module: str) -> float:
    """Return the milliseconds that a plugin takes to load in a fresh process that has pytest."""
    command = [sys.executable, "-c", LOAD_SCRIPT, module]
    return float(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def time_call(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def time_replays(client: httpx.Client, rounds: int) -> tuple[float, float]:
    """Return the milliseconds of a replay, including setup and teardown: ours and vcrpy's."""

    def send() -> None:
        url = "https://image-variation.example/v1/images/variations"
        assert client.post(url, data=FIELDS, files=FILES).status_code == 200

    def replay_ours() -> None:
        with replay_cassettes() as replay:
            replay.scenario(NAME)
            send()

    def replay_vcrpy() -> None:
        path = str(cassette_dir() / f"{NAME}.yaml")
        with vcr.use_cassette(path, record_mode="none", match_on=["method", "path"]):
            send()

    times = [(time_call(replay_ours), time_call(replay_vcrpy)) for _ in range(rounds + 1)][1:]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def time_server(client: httpx.Client, rounds: int) -> tuple[float, float, float, float]:
    """Return the milliseconds of a start, a request and a stop, and of a request to a plain app."""
    starts, requests, stops, app_requests = [], [], [], []
    with serve_app() as app_url:
        for _ in range(rounds):
            start = time.perf_counter()
            loopback = Loopback()
            starts.append((time.perf_counter() - start) * 1000)
            with loopback.view() as view:
                url = view.base_url
                post(client, url)  # The first request creates the app.
                for _ in range(5):
                    requests.append(time_call(lambda url=url: post(client, url)))  # type: ignore[misc]  # bound early
                    app_requests.append(time_call(lambda: post(client, app_url)))
            stops.append(time_call(loopback.close))
    median = statistics.median
    return median(starts), median(requests), median(stops), median(app_requests)


@contextlib.contextmanager
def serve_app() -> Iterator[str]:
    """Serve the app without the plugin, and yield its base URL."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app("instant", store_dir=folder)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
        uvicorn_server = uvicorn.Server(config)
        thread = threading.Thread(target=uvicorn_server.run, daemon=True)
        thread.start()
        while not uvicorn_server.started:
            time.sleep(0.005)
        port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
        uvicorn_server.should_exit = True
        thread.join(10)


def post(client: httpx.Client, base_url: str) -> None:
    """Request two small images."""
    url = f"{base_url}/images/variations"
    response = client.post(url, data={**FIELDS, "size": "256x256"}, files=FILES)
    assert response.status_code == 200


def main() -> int:
    """Measure and print the figures. Return 1 if a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    installed = {m: n for m, n in PLUGINS.items() if importlib.util.find_spec(m.partition(".")[0])}
    loads: dict[str, list[float]] = {module: [] for module in installed}
    for _ in range(rounds):
        for module in installed:
            loads[module].append(time_load(module))
    our_load = statistics.median(loads["pytest_image_variation.plugin"])
    print(f"loading, median of {rounds}:")
    for module, name in installed.items():
        load = statistics.median(loads[module])
        print(f"  {name:<18} {load:7.1f} ms  {load / our_load:6.1f} times ours")
    with httpx.Client() as client:
        ours, vcrpy = time_replays(client, rounds * 3)
        print(f"a replay: {ours:.2f} ms, vcrpy alone {vcrpy:.2f} ms, ratio {ours / vcrpy:.2f}")
        start, request, stop, app = time_server(client, rounds)
    print(f"the server: start {start:.1f} ms, request {request:.2f} ms, stop {stop:.1f} ms")
    print(f"a request to the app alone: {app:.2f} ms, ratio {request / app:.2f}")
    are_met = [
        our_load < LOAD_BAR,
        ours / vcrpy < REPLAY_BAR,
        start < START_BAR,
        request / app < REQUEST_BAR,
        stop < STOP_BAR,
    ]
    print("All bars are met." if all(are_met) else "A bar is missed.")
    return 0 if all(are_met) else 1


if __name__ == "__main__":
    sys.exit(main())
