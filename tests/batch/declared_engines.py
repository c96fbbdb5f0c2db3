"""Engines for tests. A distribution declares them, so that every process finds them.

`logged` has seeds, and logs each image that it makes. Most of the others misbehave.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.batch.distribution import declare

__all__ = ["count_made_images", "declare_engines", "read_devices"]

_ENTRY_POINTS = """[langchain_image_variation.engines]
logged = engines_of_tests:Logged
closing = engines_of_tests:Closing
dying = engines_of_tests:Dying
exiting = engines_of_tests:Exiting
fading = engines_of_tests:Fading
forking = engines_of_tests:Forking
hosted = engines_of_tests:Hosted
lacking = not_installed_here:Engine [gpu]
noisy = engines_of_tests:Noisy
noting = engines_of_tests:Noting
on_device = engines_of_tests:OnDevice
slow = engines_of_tests:Slow
refused = engines_of_tests:Refused
wandering = engines_of_tests:Wandering
"""
_MODULE = '''
import hashlib, os, pathlib, sys, threading, time
from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine, _flat_png
from langchain_image_variation.exceptions import (
    AuthenticationError, InvalidRequestError, OutputError
)

with open(os.environ["ENGINE_LOG"] + ".processes", "a") as log:
    log.write(f"{os.getpid()}\\n")


def flat(request, seed, strength=None):
    text = f"{request.image.sha256} {seed} {strength}".encode()
    return _flat_png(request.side, tuple(hashlib.sha256(text).digest()[:3]))


class Logged:
    """Makes single-color images from content and seed. Logs each before it is made."""

    def __init__(self, *, seed=0, strength=0.5):
        self.seed, self.strength = seed, strength

    def create_variation(self, request):
        seeds = range(self.seed, self.seed + request.n)
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write("".join(f"{request.image.sha256} {seed}\\n" for seed in seeds))
        if node := os.environ.get("NODE"):
            with open(os.environ["ENGINE_LOG"] + ".nodes", "a") as log:
                log.write(f"{os.getpid()} {node} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
        time.sleep(float(os.environ.get("ENGINE_SECONDS", 0)) * request.n)
        if path := os.environ.get("ENGINE_REMOVES"):
            pathlib.Path(path).unlink(missing_ok=True)
        pngs = [flat(request, seed, self.strength) for seed in seeds]
        return ImagesResponse.from_pngs(pngs, response_format="b64_json", seeds=seeds)

    def close(self):
        with open(os.environ["ENGINE_LOG"] + ".closed", "a") as log:
            log.write("closed\\n")


class Slow(InstantEngine):
    """Takes a moment to be made, and logs when it is made and closed."""

    def __init__(self):
        self.log("made")
        time.sleep(0.2)

    def close(self):
        self.log("closed")

    def log(self, event):
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write(event + "\\n")


class Closing(InstantEngine):
    """Logs that it is closed, and raises an error."""

    def close(self):
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write("closed\\n")
        raise RuntimeError


class Dying(InstantEngine):
    """Ends its process."""

    def create_variation(self, request):
        os._exit(7)


class Exiting(InstantEngine):
    """Raises SystemExit."""

    def create_variation(self, request):
        sys.exit("enough")


class Forking(InstantEngine):
    """Starts two processes that outlive it. With ENGINE_ENDS it then ends its own."""

    def create_variation(self, request):
        log_path = pathlib.Path(os.environ["ENGINE_LOG"])
        lines = log_path.read_text().count("\\n") if log_path.exists() else 0
        if not os.fork():
            with log_path.open("a", buffering=1) as log:
                os.fork()
                log.write(f"{os.getpid()}\\n")
                time.sleep(600)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if log_path.exists() and log_path.read_text().count("\\n") == lines + 2:
                break
            time.sleep(0.01)
        if os.environ.get("ENGINE_ENDS"):
            os._exit(9)
        return super().create_variation(request)


class Fading(InstantEngine):
    """Returns a last image that cannot be read."""

    def create_variation(self, request):
        response = super().create_variation(request)
        response.data[-1] = Image(url="https://gone.example/1.png")
        return response


class Hosted(Logged):
    """Claims to be hosted, and logs the maximum number of concurrent calls."""

    base_url = "https://images.example/v1"
    calls, max_calls, lock = 0, 0, threading.Lock()

    def create_variation(self, request):
        with Hosted.lock:
            Hosted.calls += 1
            Hosted.max_calls = max(Hosted.max_calls, Hosted.calls)
            with open(os.environ["ENGINE_LOG"] + ".calls", "w") as log:
                log.write(f"{os.getpid()} {Hosted.max_calls}")
        try:
            return super().create_variation(request)
        finally:
            with Hosted.lock:
                Hosted.calls -= 1


class Noisy(InstantEngine):
    """Prints to standard output and reads from standard input."""

    def create_variation(self, request):
        print("stray output")
        os.write(1, b"more stray output")
        assert sys.stdin.read() == ""
        return super().create_variation(request)


class Noting(InstantEngine):
    """Names its model, and leaves a note."""

    def create_variation(self, request):
        answer = super().create_variation(request)
        answer.model, answer.note = "small", "Made at 512x512 and enlarged."
        return answer


class OnDevice(Logged):
    """Computes on a device. Logs the device and the number of threads of each process."""

    def __init__(self, *, seed=0, device="auto", threads=None):
        super().__init__(seed=seed)
        self.device, self.threads = device, threads

    @classmethod
    def devices(cls):
        with open(os.environ["ENGINE_LOG"] + ".listings", "a") as log:
            log.write("listed\\n")
        return os.environ["ENGINE_DEVICES"].split()

    def create_variation(self, request):
        if self.device == "cuda:9":
            raise InvalidRequestError("There is no device 'cuda:9'.", param="device")
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NODE")
        settings = [self.device, self.threads, *map(os.environ.get, names)]
        with open(os.environ["ENGINE_LOG"] + ".devices", "a") as log:
            log.write(" ".join(map(str, [os.getpid(), *settings])) + "\\n")
        return super().create_variation(request)


class Refused(InstantEngine):
    """Fails with a wrong key."""

    def create_variation(self, request):
        error = AuthenticationError("The key is wrong.")
        error.unpicklable = threading.Lock()
        raise error


class Wandering(InstantEngine):
    """Changes the working directory."""

    def create_variation(self, request):
        os.chdir("/")
        return super().create_variation(request)
'''


def declare_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the engines for this process and its children.

    Args:
        folder: Where to put the distribution and the log.
        monkeypatch: Undoes the declaration.
    """
    declare(folder, "engines", _ENTRY_POINTS, _MODULE, monkeypatch)
    monkeypatch.setenv("ENGINE_LOG", str(folder / "engine.log"))


def count_made_images() -> Counter[str]:
    """Return how often each image was made, by the hash of its source and its seed."""
    log = Path(os.environ["ENGINE_LOG"])
    return Counter(log.read_text().splitlines() if log.exists() else [])


def read_devices() -> dict[str, list[str]]:
    """Return the device, the option `threads` and the environment that each process computed with.

    The keys are the ids of the processes. The environment is `OMP_NUM_THREADS`,
    `CUDA_VISIBLE_DEVICES` and `NODE`. The log is cleared.
    """
    log = Path(os.environ["ENGINE_LOG"] + ".devices")
    lines = [line.split() for line in log.read_text().splitlines()]
    log.unlink()
    return {process: settings for process, *settings in lines}
