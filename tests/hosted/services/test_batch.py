"""What a run pays for, when it ends early and when it is started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langchain_image_variation.cli import main
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import KEY, FakeFal, FakeRecraft, FakeService, Reply


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of each service."""
    for name in ("FAL_KEY", "RECRAFT_API_TOKEN"):
        monkeypatch.setenv(name, KEY)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(square_png(32 + index))
    return folder


def arguments(photos: Path, engine: str, service: FakeService, n: int = 2) -> list[str]:
    """Return the arguments of a batch."""
    return [
        # A Parquet manifest needs another extra.
        *("batch", str(photos), "--jsonl"),
        *("-o", str(photos.parent / "outputs"), "-n", str(n)),
        *("--size", "256x256", "--engine", engine, "--base-url", service.url),
    ]


def test_a_batch_stops_at_its_limit(
    fal: FakeFal, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch makes no billed call above the limit, and a second run pays only for the rest."""
    command = arguments(photos, "fal", fal)
    assert main([*command, "--max-billed-calls", "3"]) != 0
    errors = capsys.readouterr().err
    assert "of the 3 that --max-billed-calls allows are used" in errors
    assert "Nothing was sent. Raise --max-billed-calls.\n" in errors
    *summary, error = errors.splitlines()
    assert summary == [
        "2 made, 0 already there, 0 failed.",
        "The batch is not complete. Run the same command again to continue.",
    ]
    assert error.startswith("image-variation: The request needs 2 calls, and 2 of the 3 ")
    paid = len(fal.paths("POST"))
    assert 0 < paid <= 3
    assert main([*command, "--max-billed-calls", "10"]) == 0
    assert len(fal.paths("POST")) == 6
    assert main(command) == 0
    assert len(fal.paths("POST")) == 6


def test_a_batch_without_results_has_no_summary(
    fal: FakeFal, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the first source ends the run, the error is all that is printed."""
    fal.faults.extend(Reply(401, {"detail": "Invalid token."}) for _ in range(6))
    assert main(arguments(photos, "fal", fal)) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_a_stopped_batch_pays_for_the_rest_only(fal: FakeFal, photos: Path) -> None:
    """After Ctrl-C in the middle of a run, the next run pays for no image a second time."""
    fal.polls_until_done = 3
    command = [sys.executable, "-m", "langchain_image_variation", *arguments(photos, "fal", fal)]
    with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE) as process:
        while len(fal.paths("POST")) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    stopped_at = len(fal.paths("POST"))
    assert 3 <= stopped_at < 6
    assert subprocess.run(command, env=os.environ).returncode == 0
    assert len(fal.paths("POST")) - len(fal.cancelled) == 6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_a_stopped_batch_needs_no_reader(fal: FakeFal, photos: Path) -> None:
    """If Ctrl-C ends the program that reads the output too, the exit code is that of Ctrl-C."""
    fal.polls_until_done = 3
    command = [sys.executable, "-m", "langchain_image_variation", *arguments(photos, "fal", fal)]
    reader, writer = os.pipe()
    with subprocess.Popen([*command, "--workers", "1"], stdout=writer, stderr=writer) as process:
        os.close(writer)
        while len(fal.paths("POST")) < 3 and process.poll() is None:
            time.sleep(0.01)
        os.close(reader)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.mostly_slow("create")
@pytest.mark.parametrize("command", ["batch", "create"])
def test_nothing_makes_up_costly_seeds(recraft: FakeRecraft, photos: Path, command: str) -> None:
    """Without --seed, six images of a photo are one call to Recraft, although a seed allows one."""
    batch = arguments(photos, "recraft", recraft, n=6)
    create = ["create", *map(str, sorted(photos.iterdir())), *batch[3:]]
    assert main(batch if command == "batch" else create) == 0
    assert [one.form["n"] for one in recraft.received] == [b"6"] * 3
    assert all("random_seed" not in one.form for one in recraft.received)
