"""What `create` keeps of the images that are paid for, if a signal ends it."""

import os
import pty
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
from tests.hosted.services.fakes import (
    KEY,
    SERVICES,
    FakeFal,
    FakeImages,
    FakeRecraft,
    FakeService,
    Reply,
)

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no SIGINT for one process"
)

PLAN = b"Keeping the images that are finished or paid for. Interrupt again to stop immediately."
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEYS = ("FAL_KEY", "OPENAI_API_KEY", "RECRAFT_API_TOKEN", "REPLICATE_API_TOKEN")
ENVIRONMENT = {**os.environ, **dict.fromkeys(KEYS, KEY)}


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


def create_command(folder: Path, engine: str, service: FakeService, *options: str) -> list[str]:
    """Write a photo to a folder, and return the command that varies it there."""
    (folder / "photo.png").write_bytes(square_png())
    command = [*PROGRAM, "create", "photo.png", *options, "-n", "3", "-o", "out", "--no-sheet"]
    return [*command, "--size", "256x256", "--engine", engine, "--base-url", service.url]


@contextmanager
def creating(folder: Path, engine: str, service: FakeService, *options: str) -> Iterator[Program]:
    """Run `create` in its own process."""
    with subprocess.Popen(
        create_command(folder, engine, service, *options),
        cwd=folder,
        env=ENVIRONMENT,
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


IN_TERMINAL = 'exec "$@" <"$0" >"$0" 2>&1'
"""A script for `sh`. A session without a terminal gets the one that it opens."""


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-q"]], ids=["notes", "quiet"])
def test_a_closed_terminal_loses_no_image(options: list[str], tmp_path: Path) -> None:
    """Images are saved although neither notes nor file names can be printed anymore."""
    service = FakeFal()
    service.endless_seeds = {3}
    terminal, child_side = pty.openpty()
    with service.running():
        command = create_command(tmp_path, "fal", service, "--seed", "1", *options)
        with subprocess.Popen(
            ["sh", "-c", IN_TERMINAL, os.ttyname(child_side), *command],
            cwd=tmp_path,
            env=ENVIRONMENT,
            start_new_session=True,
        ) as process:
            while not has_two_of_three(service):
                assert process.poll() is None
                time.sleep(0.01)
            os.close(child_side)
            os.close(terminal)
            code = process.wait(timeout=60)
    assert code == 128 + signal.SIGHUP
    assert len(list(tmp_path.glob("out/*"))) == 2
    assert len(service.cancelled) == 1


@pytest.mark.slow
def test_a_reader_that_ends_too_loses_no_image(tmp_path: Path) -> None:
    """With `2>&1 | tee log`, Ctrl-C ends `tee` too, and nothing can be printed anymore."""
    service = FakeFal()
    service.endless_seeds = {3}
    reader, writer = os.pipe()
    with service.running():
        command = create_command(tmp_path, "fal", service, "--seed", "1")
        with subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=writer
        ) as process:
            os.close(writer)
            while not has_two_of_three(service):
                assert process.poll() is None
                time.sleep(0.01)
            os.close(reader)
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
    assert code == 128 + signal.SIGINT
    assert len(list(tmp_path.glob("out/*"))) == 2
    assert len(service.cancelled) == 1


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
@pytest.mark.parametrize("number", SIGNALS, ids=[one.name for one in SIGNALS])
def test_a_second_signal_ends_the_program(number: signal.Signals, tmp_path: Path) -> None:
    """A second signal does not wait for a service that never answers."""
    service = FakeRecraft()
    service.endless_seeds = {1}
    with service.running(), creating(tmp_path, "recraft", service, "--seed", "1") as program:
        program.wait_until(lambda: len(service.paths("POST")) == 3)
        program.interrupt(number)
        code, paths, errors = program.end(number)
    assert (code, paths) == (128 + number, [])
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
