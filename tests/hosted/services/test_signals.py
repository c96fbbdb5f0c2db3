"""What `create` keeps of the images that are paid for, if a signal ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from pytest_image_variation.samples import square_png
from tests.cli.program import PROGRAM
from tests.hosted.services.fakes import KEY, SERVICES, FakeImages, FakeRecraft, FakeService, Reply

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no SIGINT for one process"
)

PLAN = b"Keeping the images that are finished or paid for. Interrupt again to stop immediately."
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEYS = ("FAL_KEY", "OPENAI_API_KEY", "RECRAFT_API_TOKEN", "REPLICATE_API_TOKEN")


class Program:
    """A run of `create` on three variations of each photo.

    Args:
        process: The process.
        folder: Its working directory.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self._process = process
        self._folder = folder

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the service is in some state."""
        while not condition():
            assert self._process.poll() is None
            time.sleep(0.01)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal, and wait until the program has noticed it."""
        self._process.send_signal(number)
        errors: IO[bytes] | None = self._process.stderr
        assert errors is not None
        assert [errors.readline(), errors.readline()] == [b"\n", PLAN + b"\n"]

    def end(self, number: signal.Signals | None = None) -> tuple[int, list[str], str]:
        """Return the exit code, the images that were printed, and the errors.

        Args:
            number: A signal to send first.
        """
        if number is not None:
            self._process.send_signal(number)
        output, errors = self._process.communicate(timeout=60)
        paths = output.decode().splitlines()
        assert sorted(paths) == sorted(
            str(path.relative_to(self._folder)) for path in self._folder.glob("out/*")
        )
        return self._process.returncode, paths, errors.decode()


@contextmanager
def creating(folder: Path, engine: str, service: FakeService, *options: str) -> Iterator[Program]:
    """Run `create` in its own process."""
    (folder / "photo.png").write_bytes(square_png())
    command = [*PROGRAM, "create", "photo.png", *options, "-n", "3", "-o", "out", "--no-sheet"]
    command += ["--size", "256x256", "--engine", engine, "--base-url", service.url]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **dict.fromkeys(KEYS, KEY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield Program(process, folder)
        finally:
            process.kill()


def has_two_of_three(service: FakeService) -> bool:
    """Whether three jobs were accepted and the results of two were asked for."""
    results = [
        path
        for path in service.paths("GET")
        if path.startswith("/files/") or ("/requests/" in path and not path.endswith("/status"))
    ]
    return len(service.paths("POST")) == 3 and len(results) == 2


@pytest.mark.mostly_slow("fal-SIGINT")
@pytest.mark.parametrize("number", SIGNALS, ids=[one.name for one in SIGNALS])
@pytest.mark.parametrize("engine", ["fal", "replicate"])
def test_finished_images_are_saved_and_jobs_cancelled(
    engine: str, number: signal.Signals, tmp_path: Path
) -> None:
    """A signal during three jobs keeps the two images that are done, and cancels the third job."""
    service = SERVICES[engine]()
    service.endless_seeds = {3}
    with service.running(), creating(tmp_path, engine, service, "--seed", "1") as program:
        program.wait_until(lambda: has_two_of_three(service))
        program.interrupt(number)
        code, paths, errors = program.end()
    assert code == 128 + number
    assert [path[-6:] for path in paths] == ["-1.png", "-2.png"]
    assert len(service.cancelled) == 1
    assert "Took 3 billed calls to " in errors
    assert "One of them was cancelled, so it may not be billed." in errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["gpt-image", "recraft", "variations"])
def test_calls_that_cannot_be_cancelled_are_finished(engine: str, tmp_path: Path) -> None:
    """A signal does not lose the images of a call that the service bills in any case."""
    service = FakeRecraft() if engine == "recraft" else FakeImages()
    service.accepts_jobs.clear()
    with service.running(), creating(tmp_path, engine, service) as program:
        program.wait_until(lambda: service.paths("POST") != [])
        program.interrupt()
        service.accepts_jobs.set()
        code, paths, _ = program.end()
    assert (code, len(paths), len(service.paths("POST"))) == (130, 3, 1)


@pytest.mark.slow
def test_a_second_signal_ends_the_program(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait for a service that never answers."""
    service = FakeRecraft()
    service.endless_seeds = {1}
    with service.running(), creating(tmp_path, "recraft", service, "--seed", "1") as program:
        program.wait_until(lambda: len(service.paths("POST")) == 3)
        program.interrupt()
        code, paths, errors = program.end(signal.SIGINT)
    assert (code, paths) == (130, [])
    assert errors == "image-variation: interrupted; no file is half-written.\n"


@pytest.mark.slow
def test_other_photos_are_not_begun(tmp_path: Path) -> None:
    """A signal during the first photo pays for nothing of the second one."""
    service = FakeRecraft()
    service.accepts_jobs.clear()
    with service.running(), creating(tmp_path, "recraft", service, "photo.png") as program:
        program.wait_until(lambda: service.paths("POST") != [])
        program.interrupt()
        service.accepts_jobs.set()
        code, paths, _ = program.end()
    assert (code, len(paths), len(service.paths("POST"))) == (130, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["recraft", "variations"])
def test_a_refused_call_is_not_sent_again(engine: str, tmp_path: Path) -> None:
    """A signal ends the wait for a busy service, and nothing is sent after it."""
    service = FakeRecraft() if engine == "recraft" else FakeImages()
    service.faults.append(Reply(429, {"detail": "Busy."}, {"retry-after": "50"}))
    with service.running(), creating(tmp_path, engine, service) as program:
        program.wait_until(lambda: service.paths("POST") != [])
        program.interrupt()
        code, paths, _ = program.end()
    assert (code, paths, len(service.paths("POST"))) == (130, [], 1)
