"""The engine `noted`, which every process of the cluster finds. It notes each call in a file."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.batch.distribution import declare

__all__ = ["Notes", "declare_noted", "wait_until"]

_ENTRY_POINTS = """[langchain_image_variation.engines]
noted = noted_of_tests:Noted
"""
_MODULE = '''
import hashlib, os, pathlib, threading, time
from langchain_image_variation.cancellation import cancelled_error
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.instant import _flat_png
from langchain_image_variation.exceptions import (
    AuthenticationError, ContentPolicyError, EngineTimeoutError, InvalidRequestError,
    QuotaExceededError,
)

FOLDER = pathlib.Path(os.environ["NOTES"])


class OddError(ContentPolicyError):
    """Does not pickle, and its constructor takes something else than a message."""

    def __init__(self, lock):
        super().__init__("This image is odd.", param="image")
        self.code, self.lock = "odd", lock


def limited():
    return QuotaExceededError("The plan is used up.", retry_after=7.5)


def late():
    error = EngineTimeoutError("The device is late.", hint="Restart it.")
    error.request_id = "req_device"
    return error


ERRORS = {
    "odd": lambda: OddError(threading.Lock()),
    "limited": limited,
    "late": late,
    "refused": lambda: AuthenticationError("The key of the engine is wrong."),
    "bug": lambda: ZeroDivisionError("secret"),
    "field": lambda: InvalidRequestError("user must be short.", param="user"),
}


class Noted:
    """Makes flat images from content and seed. `user` says what else it does."""

    def __init__(self, *, seed=0, seconds=0.0, threads=None):
        self.seed, self.seconds, self.threads = seed, seconds, threads

    def with_options(self, *, seed=None):
        if seed is not None and seed > 10**6:
            raise InvalidRequestError("seed must be at most 1000000.", param="seed")
        return Noted(seed=self.seed if seed is None else seed, seconds=self.seconds)

    def note(self, event):
        with open(FOLDER / "notes", "a") as notes:
            notes.write(f"{event} {os.getpid()} {self.seed} {os.environ.get('NODE', 'first')}\\n")

    def create_variation(self, request):
        is_cancelled = cancellation()
        reporter = progress_reporter()
        self.note("started")
        if request.user in ERRORS:
            raise ERRORS[request.user]()
        if request.user == "deadly":
            os._exit(1)
        if request.user == "halfway":
            reporter.image_finished()
            reporter.image_finished()
        end = time.monotonic() + self.seconds
        while time.monotonic() < end or (
            request.user in ("halfway", "held") and not (FOLDER / "released").exists()
        ):
            if is_cancelled():
                self.note("cancelled")
                raise cancelled_error()
            time.sleep(0.01)
        seeds = range(self.seed, self.seed + request.n)
        colors = [hashlib.sha256(f"{request.image.sha256} {seed}".encode()) for seed in seeds]
        pngs = [_flat_png(request.side, tuple(color.digest()[:3])) for color in colors]
        if request.user == "small":
            pngs[-1] = _flat_png(64, (1, 2, 3))
        self.note("finished")
        return ImagesResponse.from_pngs(pngs, response_format="b64_json", seeds=seeds)
'''


class Notes:
    """What the engine noted.

    Args:
        folder: The folder with the notes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self) -> None:
        """Forget everything, and hold calls again."""
        for name in ("notes", "released"):
            (self._folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Let the calls finish that are held."""
        (self._folder / "released").touch()

    def read(self, event: str) -> list[tuple[int, int]]:
        """Return the process and the seed of each event of a kind."""
        path = self._folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [line.split() for line in lines]
        return [(int(row[1]), int(row[2])) for row in rows if row[0] == event]

    def processes(self, event: str = "started") -> set[int]:
        """Return the processes with events of a kind."""
        return {process for process, _ in self.read(event)}


def declare_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Declare the engine for this process and its children, and return its notes."""
    declare(folder, "noted", _ENTRY_POINTS, _MODULE, monkeypatch)
    monkeypatch.setenv("NOTES", str(folder))
    return Notes(folder)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition is true."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)
