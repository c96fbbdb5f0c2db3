"""Engines that a distribution of its own declares, as any foreign one's are; a process finds them.

`logged` tells a file of each picture that it makes, and has seeds. The others behave badly.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.batch.distribution import declare

__all__ = ["declare_engines", "made"]

_POINTS = """[langchain_image_variation.engines]
logged = engines_of_tests:Logged
closing = engines_of_tests:Closing
dying = engines_of_tests:Dying
exiting = engines_of_tests:Exiting
fading = engines_of_tests:Fading
forking = engines_of_tests:Forking
hosted = engines_of_tests:Hosted
lacking = not_installed_here:Engine [gpu]
noisy = engines_of_tests:Noisy
slow = engines_of_tests:Slow
refused = engines_of_tests:Refused
wandering = engines_of_tests:Wandering
"""
_MODULE = '''
import hashlib, os, pathlib, sys, threading, time
from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine, _flat_png
from langchain_image_variation.exceptions import AuthenticationError, OutputError

with open(os.environ["ENGINE_LOG"] + ".processes", "a") as log:
    log.write(f"{os.getpid()}\\n")


def flat(request, seed, strength=None):
    said = f"{request.image.sha256} {seed} {strength}".encode()
    return _flat_png(request.side, tuple(hashlib.sha256(said).digest()[:3]))


class Logged:
    """Flat pictures by content and seed; each is a line in a file, written when it is begun."""

    def __init__(self, *, seed=0, strength=0.5):
        self.seed, self.strength = seed, strength

    def create_variation(self, request):
        seeds = range(self.seed, self.seed + request.n)
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write("".join(f"{request.image.sha256} {seed}\\n" for seed in seeds))
        if where := os.environ.get("NODE"):
            with open(os.environ["ENGINE_LOG"] + ".places", "a") as log:
                log.write(f"{os.getpid()} {where} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
        time.sleep(float(os.environ.get("ENGINE_SECONDS", 0)) * request.n)
        if removed := os.environ.get("ENGINE_REMOVES"):
            pathlib.Path(removed).unlink(missing_ok=True)
        pngs = [flat(request, seed, self.strength) for seed in seeds]
        return ImagesResponse.from_pngs(pngs, response_format="b64_json", seeds=seeds)

    def close(self):
        with open(os.environ["ENGINE_LOG"] + ".closed", "a") as log:
            log.write("closed\\n")


class Slow(InstantEngine):
    """Takes its time to be made, and writes down that it was made and closed."""

    def __init__(self):
        self.log("made")
        time.sleep(0.2)

    def close(self):
        self.log("closed")

    def log(self, what):
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write(what + "\\n")


class Closing(InstantEngine):
    """Writes down that it was closed, and fails at that."""

    def close(self):
        with open(os.environ["ENGINE_LOG"], "a") as log:
            log.write("closed\\n")
        raise RuntimeError


class Dying(InstantEngine):
    """Ends its process."""

    def create_variation(self, request):
        os._exit(7)


class Exiting(InstantEngine):
    """Asks the program to end."""

    def create_variation(self, request):
        sys.exit("enough")


class Forking(InstantEngine):
    """Starts two processes that outlive it, and with ENGINE_ENDS ends its own."""

    def create_variation(self, request):
        told = pathlib.Path(os.environ["ENGINE_LOG"])
        before = told.read_text().count("\\n") if told.exists() else 0
        if not os.fork():
            with told.open("a", buffering=1) as log:
                os.fork()
                log.write(f"{os.getpid()}\\n")
                time.sleep(600)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if told.exists() and told.read_text().count("\\n") == before + 2:
                break
            time.sleep(0.01)
        if os.environ.get("ENGINE_ENDS"):
            os._exit(9)
        return super().create_variation(request)


class Fading(InstantEngine):
    """The last picture of an answer cannot be read."""

    def create_variation(self, request):
        answer = super().create_variation(request)
        answer.data[-1] = Image(url="https://gone.example/1.png")
        return answer


class Hosted(Logged):
    """Claims to ask a server, and writes down how many calls there were at once."""

    base_url = "https://images.example/v1"
    now, most, lock = 0, 0, threading.Lock()

    def create_variation(self, request):
        with Hosted.lock:
            Hosted.now += 1
            Hosted.most = max(Hosted.most, Hosted.now)
            with open(os.environ["ENGINE_LOG"] + ".most", "w") as log:
                log.write(f"{os.getpid()} {Hosted.most}")
        try:
            return super().create_variation(request)
        finally:
            with Hosted.lock:
                Hosted.now -= 1


class Noisy(InstantEngine):
    """Prints, and reads what is none of its business."""

    def create_variation(self, request):
        print("stray output")
        os.write(1, b"more stray output")
        assert sys.stdin.read() == ""
        return super().create_variation(request)


class Refused(InstantEngine):
    """Has no right key."""

    def create_variation(self, request):
        error = AuthenticationError("The key is wrong.")
        error.held = threading.Lock()
        raise error


class Wandering(InstantEngine):
    """Leaves the folder in which it was started."""

    def create_variation(self, request):
        os.chdir("/")
        return super().create_variation(request)
'''


def declare_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the engines to this process and to those that it starts.

    Args:
        folder: Where the distribution is put; the log is beside it.
        monkeypatch: Undoes it.
    """
    declare(folder, "engines", _POINTS, _MODULE, monkeypatch)
    monkeypatch.setenv("ENGINE_LOG", str(folder / "engine.log"))


def made() -> Counter[str]:
    """Return how often each picture was made: its source's content and its seed."""
    log = Path(os.environ["ENGINE_LOG"])
    return Counter(log.read_text().splitlines() if log.exists() else [])
