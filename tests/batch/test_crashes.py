import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import count_made_images
from tests.batch.runs import (
    limit_file_size,
    output_images,
    read_manifest,
    run,
    run_command,
    run_hosted,
    start_run,
    wait_until,
)

ROUNDS = 5
KILLS = 4
"""Runs per round that are killed, before one runs to the end."""


@pytest.fixture
def source_count(photos: Path) -> int:
    """Add images until there are sixteen."""
    for index in range(5, 16):
        (photos / f"{index}.png").write_bytes(square_png(32 + index))
    return 16


def log() -> Path:
    """Return the path of the log of the engine `logged`."""
    return Path(os.environ["ENGINE_LOG"])


def worker_processes() -> set[int]:
    """Return the ids of all processes that have loaded the engines."""
    log_path = log().with_name(log().name + ".processes")
    return {int(pid) for pid in log_path.read_text().split()} if log_path.exists() else set()


def temporary_files(out: str = "out") -> list[Path]:
    """Return the temporary files."""
    return list(Path(out).rglob("*.part"))


def paths_by_log_line(out: str = "out") -> dict[str, str]:
    """Return the path of each image by its line in the engine's log."""
    rows = read_manifest(out)
    return {f"{row['source_sha256']} {row['seed']}": row["output_path"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("round", range(ROUNDS))
def test_random_kills_lose_nothing(
    round: int, source_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After random kills, the manifest is that of an undisturbed run, and no image was remade."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.01")
    start = time.monotonic()
    assert run("photos", "--n", "3", out="whole") == 0
    duration = time.monotonic() - start
    expected_rows, expected_images = read_manifest("whole"), output_images("whole")
    path_of = paths_by_log_line("whole")
    chance = random.Random(round)
    kinds = chance.sample(["run", "run", "worker", "worker"], KILLS)
    for kind in [*kinds, "none"]:
        images_before = output_images().items() if Path("out").exists() else {}.items()
        assert images_before <= expected_images.items()
        log().unlink(missing_ok=True)
        earlier_workers = worker_processes()
        process = start_run("photos", "--n", "3")
        if kind != "none":
            time.sleep(chance.uniform(0.2, 1.2) * duration)
        if kind == "run":
            process.kill()
        elif kind == "worker":
            for worker in (worker_processes() - earlier_workers - {process.pid}) or ():
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                break
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 or kind == "run", err
        assert not {path_of[line] for line in count_made_images()} & dict(images_before).keys()
        if kind == "worker":
            assert read_manifest() == expected_rows
    assert read_manifest() == expected_rows
    assert output_images() == expected_images
    assert not temporary_files()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "engine"),
    [
        pytest.param(signal.SIGINT, 130, "logged", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "hosted"),
    ],
)
def test_interrupt_finishes_started_sources(
    number: signal.Signals,
    code: int,
    engine: str,
    source_count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an interrupt, the manifest is written, and no image is made twice."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.1")
    process = start_run("photos", "--jsonl", "--engine", engine)
    wait_until(log().exists, process)
    # A terminal sends an interrupt to the whole process group.
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.splitlines() == ["out/manifest.parquet", "out/manifest.jsonl"]
    assert "Finishing the images in progress. Interrupt again to stop immediately." in err
    assert "Run the same command again to continue" in err
    assert "Traceback" not in err
    rows = read_manifest()
    assert 0 < len(rows) == len(output_images()) < source_count
    monkeypatch.delenv("ENGINE_SECONDS")
    assert run("photos", "--jsonl", "--engine", engine) == 0
    assert [row for row in read_manifest() if row in rows] == rows
    assert len(read_manifest()) == len(output_images()) == source_count
    assert set(count_made_images().values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["logged", "hosted"])
def test_second_interrupt_stops_immediately(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second interrupt abandons images in progress, and leaves no partial file or process."""
    monkeypatch.setenv("ENGINE_SECONDS", "600")
    process = start_run("photos", "--engine", engine)
    wait_until(log().exists, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("image-variation: interrupted; no file is half-written.\n")
    assert output_images() == {}
    for worker in worker_processes():
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_concurrent_runs_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A concurrent run changes nothing, and once the first is gone, another can start."""
    monkeypatch.setenv("ENGINE_SECONDS", "600")
    process = start_run("photos")
    wait_until(log().exists, process)
    assert run("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: Another run is writing to the folder 'out'. Wait until it ends, or "
        "choose another folder.\n"
    )
    process.kill()
    process.communicate(timeout=60)
    monkeypatch.delenv("ENGINE_SECONDS")
    assert run("photos") == 0
    assert len(output_images()) == 5


def test_temporary_files_are_removed() -> None:
    """Leftover temporary files of a run are removed, and other files stay."""
    assert run_hosted("photos") == 0
    temporary_paths = [Path("out", name, ".0123456789abcdef.part") for name in (".", "images/ab")]
    unrelated_paths = [Path("out", "mine.part"), Path("out", "mine", ".0123456789abcdef.part")]
    for path in (*temporary_paths, *unrelated_paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert run_hosted("photos") == 0
    assert [path.exists() for path in temporary_paths] == [False, False]
    assert [path.exists() for path in unrelated_paths] == [True, True]


def test_ledger_that_cannot_grow_ends_the_run(
    source_count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a ledger could not grow, the next run finds the existing images and makes the rest."""
    assert run_hosted("photos", "--n", "3", out="whole") == 0
    path_of = paths_by_log_line("whole")
    with limit_file_size(60_000):
        assert run_hosted("photos", "--n", "3") == 1
    assert "The ledger of the output folder cannot be used" in capsys.readouterr().err
    first_images = output_images().keys()
    assert 0 < len(first_images) < 3 * source_count
    log().unlink()
    assert run_hosted("photos", "--n", "3") == 0
    assert read_manifest() == read_manifest("whole")
    # It depends on chance which images a worker had started when the run ended.
    assert {path_of[line] for line in count_made_images()} == set(path_of.values()) - first_images
    assert set(count_made_images().values()) == {1}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_full_disk_ends_the_run(tmp_path: Path) -> None:
    """A full disk ends the run with one line and no partial files, and later it resumes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    # Two of the images fit, with enough room left that the ledger is not what fills the disk.
    script = f"mount -t tmpfs -o size=140k none {disk} && mkdir {disk}/out && "
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*namespace, script + "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow private mounts")
    script += f'"$@"; code=$?; cp -r {disk}/out {tmp_path}; exit $code'
    arguments = ("photos/0.png", "photos/1.png", "--n", "3", "--engine", "local", "--workers", "1")
    batch = run_command(*arguments, out=str(disk / "out"))
    result = subprocess.run([*namespace, script, "sh", *batch], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert "No space left on device. Free some space" in result.stderr
    first_images = output_images()
    assert 0 < len(first_images) < 6
    assert not temporary_files()
    assert run(*arguments) == 0
    assert first_images.items() < output_images().items()
    assert len(read_manifest()) == len(output_images()) == 6


def test_unwritable_output_is_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output below a file is refused at the start, and a later write error ends the run."""
    assert run_hosted("photos", out="photos/0.png/out") == 2
    assert capsys.readouterr().err == (
        "image-variation: The folder 'photos/0.png/out' cannot be written to; choose another one "
        "for the results.\n"
    )
    Path("out").mkdir()
    Path("out", "images").write_text("in the way")
    assert run_hosted("photos") == 1
    err = capsys.readouterr().err
    assert (err.count("\n"), "cannot be" in err) == (1, True)
    Path("out", "images").unlink()
    assert run_hosted("photos") == 0


def test_corrupt_ledger_can_be_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    """After a corrupt ledger is deleted, no image is made again, and the manifest is the same."""
    assert run_hosted("photos") == 0
    rows = read_manifest()
    Path("out/.batch/ledger.sqlite").write_bytes(b"no database" * 1000)
    assert run_hosted("photos") == 1
    assert "is corrupt. Delete its folder '.batch'; the images stay" in capsys.readouterr().err
    shutil.rmtree("out/.batch")
    assert run_hosted("photos") == 0
    assert read_manifest() == rows
    assert set(count_made_images().values()) == {1}


@pytest.mark.parametrize("damage", ["truncated", "other", "missing"])
def test_changed_image_is_made_again(damage: str) -> None:
    """An image that another valid image of the same size replaced is made again."""
    assert run_hosted("photos") == 0
    images, rows = output_images(), read_manifest()
    path, other_path = (Path("out") / row["output_path"] for row in rows[:2])
    data = {
        "truncated": path.read_bytes()[:-1],
        "other": other_path.read_bytes(),
        "missing": None,
    }[damage]
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert run_hosted("photos") == 0
    assert SquarePNG(path.read_bytes()).data == images[rows[0]["output_path"]]
    assert (read_manifest(), output_images()) == (rows, images)
    assert sorted(count_made_images().values()) == [1, 1, 1, 1, 2]


@pytest.mark.slow
def test_run_works_without_standard_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without standard streams, no message ends up in a file that has a stream's descriptor."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.2")
    script = 'exec "$@" <&- >&- 2>&-'
    batch = run_command("photos", "--engine", "hosted", "--jsonl")
    process = subprocess.Popen(["sh", "-c", script, "sh", *batch], text=True)
    wait_until(log().exists, process)
    process.terminate()
    assert process.wait(60) == 143
    assert Path("out/.batch/lock").read_bytes() == b""
    assert 0 < len(read_manifest()) == len(output_images())
