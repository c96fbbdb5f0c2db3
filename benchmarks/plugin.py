"""What the pytest plugin costs, beside its neighbours in the same run.

Claims: loading it takes less than 15 ms, where others take more; a scenario is replayed about as
fast as by vcrpy alone on the same cassette; and the test server starts in less than 50 ms, answers
in less than 3 ms and stops in less than 20 ms, once its modules are imported.

    python benchmarks/plugin.py [--rounds N]

Neighbours that are not installed are left out. Exits with 1 if a bar is missed.
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
START_BAR, REQUEST_BAR, STOP_BAR = 50.0, 3.0, 20.0
PLUGINS = {
    "pytest_image_variation.plugin": "image_variation",
    "pytest_recording.plugin": "pytest-recording",
    "pytest_httpx": "pytest-httpx",
    "respx.plugin": "respx",
}
LOADING = """
import importlib, pytest, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
print((time.perf_counter() - start) * 1000)
"""
NAME = "success_b64_n2"
FIELDS = {"n": "2", "response_format": "b64_json"}
FILES = {"image": ("a.png", square_png(8), "image/png")}


def loading(module: str) -> float:
    """Return the milliseconds that a plugin takes to load in a fresh process that has pytest."""
    command = [sys.executable, "-c", LOADING, module]
    return float(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def replays(client: httpx.Client, rounds: int) -> tuple[float, float]:
    """Return what a replay takes by us and by vcrpy alone: to begin, to answer, to end."""

    def ask() -> None:
        url = "https://image-variation.example/v1/images/variations"
        assert client.post(url, data=FIELDS, files=FILES).status_code == 200

    def ours() -> None:
        with replay_cassettes() as replay:
            replay.scenario(NAME)
            ask()

    def alone() -> None:
        path = str(cassette_dir() / f"{NAME}.yaml")
        with vcr.use_cassette(path, record_mode="none", match_on=["method", "path"]):
            ask()

    times = [(timed(ours), timed(alone)) for _ in range(rounds + 1)][1:]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def server(client: httpx.Client, rounds: int) -> tuple[float, float, float, float]:
    """Return what the server takes to start, to answer and to stop, and the app to answer."""
    starts, requests, stops, alone = [], [], [], []
    with plain() as app_url:
        for _ in range(rounds):
            start = time.perf_counter()
            loopback = Loopback()
            starts.append((time.perf_counter() - start) * 1000)
            with loopback.view() as view:
                url = view.base_url
                ask(client, url)  # This makes the app.
                for _ in range(5):
                    requests.append(timed(lambda url=url: ask(client, url)))  # type: ignore[misc]  # bound now
                    alone.append(timed(lambda: ask(client, app_url)))
            stops.append(timed(loopback.close))
    median = statistics.median
    return median(starts), median(requests), median(stops), median(alone)


@contextlib.contextmanager
def plain() -> Iterator[str]:
    """Serve the app alone, and give its address."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app("instant", store_dir=folder)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
        served = uvicorn.Server(config)
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        while not served.started:
            time.sleep(0.005)
        port = served.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
        served.should_exit = True
        thread.join(10)


def ask(client: httpx.Client, base_url: str) -> None:
    """Ask for two small images."""
    url = f"{base_url}/images/variations"
    answer = client.post(url, data={**FIELDS, "size": "256x256"}, files=FILES)
    assert answer.status_code == 200


def main() -> int:
    """Measure and print; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    found = {m: n for m, n in PLUGINS.items() if importlib.util.find_spec(m.partition(".")[0])}
    loads: dict[str, list[float]] = {module: [] for module in found}
    for _ in range(rounds):
        for module in found:
            loads[module].append(loading(module))
    own = statistics.median(loads["pytest_image_variation.plugin"])
    print(f"loading, median of {rounds}:")
    for module, name in found.items():
        taken = statistics.median(loads[module])
        print(f"  {name:<18} {taken:7.1f} ms  {taken / own:6.1f} times ours")
    with httpx.Client() as client:
        ours, alone = replays(client, rounds * 3)
        print(f"a replay: {ours:.2f} ms, vcrpy alone {alone:.2f} ms, ratio {ours / alone:.2f}")
        start, request, stop, app = server(client, rounds)
    print(f"the server: start {start:.1f} ms, request {request:.2f} ms, stop {stop:.1f} ms")
    print(f"a request of the app alone: {app:.2f} ms, ratio {request / app:.2f}")
    kept = [
        own < LOAD_BAR,
        ours / alone < REPLAY_BAR,
        start < START_BAR,
        request < REQUEST_BAR,
        stop < STOP_BAR,
    ]
    print("every bar is kept" if all(kept) else "a bar is missed")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
