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
from tests.batch.declared import made
from tests.batch.running import (
    begin,
    command,
    largest_file,
    manifest,
    pictures,
    run,
    run_here,
    wait_until,
)

ROUNDS = 5
KILLS = 4
"""Runs into the same folder that are killed in one round, before one ends by itself."""


@pytest.fixture
def many(photos: Path) -> int:
    """Add pictures until there are sixteen."""
    for index in range(5, 16):
        (photos / f"{index}.png").write_bytes(square_png(32 + index))
    return 16


def log() -> Path:
    """Return where the engine says what it makes."""
    return Path(os.environ["ENGINE_LOG"])


def workers() -> set[int]:
    """Return all processes that have loaded the engine."""
    told = log().with_name(log().name + ".processes")
    return {int(pid) for pid in told.read_text().split()} if told.exists() else set()


def unfinished(out: str = "out") -> list[Path]:
    """Return the files that have not got their name."""
    return list(Path(out).rglob("*.part"))


def orders(out: str = "out") -> dict[str, str]:
    """Return which picture is made by an order, as the engine logs it."""
    return {f"{row['source_sha256']} {row['seed']}": row["output_path"] for row in manifest(out)}


@pytest.mark.slow
@pytest.mark.parametrize("round", range(ROUNDS))
def test_kills_at_random_moments_lose_nothing_and_make_nothing_twice(
    round: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is that of an undisturbed run; what stood when a run began was never remade."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.01")
    began = time.monotonic()
    assert run("photos", "--n", "3", out="whole") == 0
    lasts = time.monotonic() - began
    expected, whole, path_of = manifest("whole"), pictures("whole"), orders("whole")
    chance = random.Random(round)
    kinds = chance.sample(["run", "run", "worker", "worker"], KILLS)
    for kind in [*kinds, "none"]:
        stood = pictures().items() if Path("out").exists() else {}.items()
        assert stood <= whole.items()
        log().unlink(missing_ok=True)
        before = workers()
        process = begin("photos", "--n", "3")
        if kind != "none":
            time.sleep(chance.uniform(0.2, 1.2) * lasts)
        if kind == "run":
            process.kill()
        elif kind == "worker":
            for worker in (workers() - before - {process.pid}) or ():
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                break
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 or kind == "run", err
        assert not {path_of[order] for order in made()} & dict(stood).keys()
        if kind == "worker":
            assert manifest() == expected
    assert manifest() == expected
    assert pictures() == whole
    assert not unfinished()


@pytest.mark.parametrize(
    ("number", "code", "engine"),
    [
        pytest.param(signal.SIGINT, 130, "logged", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "hosted"),
    ],
)
def test_an_interrupt_finishes_what_is_in_hand(
    number: signal.Signals, code: int, engine: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is written, the message says how to go on, and nothing is made twice."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.1")
    process = begin("photos", "--jsonl", "--engine", engine)
    wait_until(log().exists, process)
    # A terminal sends it to the whole group.
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.splitlines() == ["out/manifest.parquet", "out/manifest.jsonl"]
    assert "Finishing what is in hand; interrupt once more to stop at once." in err
    assert "Run the same command again to continue" in err
    assert "Traceback" not in err
    rows = manifest()
    assert 0 < len(rows) == len(pictures()) < many
    monkeypatch.delenv("ENGINE_SECONDS")
    assert run("photos", "--jsonl", "--engine", engine) == 0
    assert [row for row in manifest() if row in rows] == rows
    assert len(manifest()) == len(pictures()) == many
    assert set(made().values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["logged", "hosted"])
def test_a_second_interrupt_stops_at_once(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even amid a picture that takes long; no file is half-written, and no process stays."""
    monkeypatch.setenv("ENGINE_SECONDS", "600")
    process = begin("photos", "--engine", engine)
    wait_until(log().exists, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("image-variation: interrupted; no file is half-written.\n")
    assert pictures() == {}
    for worker in workers():
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_two_runs_at_once_into_one_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second says so and changes nothing; once the first is gone, another goes on at once."""
    monkeypatch.setenv("ENGINE_SECONDS", "600")
    process = begin("photos")
    wait_until(log().exists, process)
    assert run("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: Another run is writing to the folder 'out'; wait for its end, or name "
        "another folder.\n"
    )
    process.kill()
    process.communicate(timeout=60)
    monkeypatch.delenv("ENGINE_SECONDS")
    assert run("photos") == 0
    assert len(pictures()) == 5


def test_leftovers_of_a_killed_run_are_removed() -> None:
    """Of pictures and manifest; nothing else in the folder is touched."""
    assert run_here("photos") == 0
    ours = [Path("out", ".0123456789abcdef.part"), Path("out/pictures/ab/.0123456789abcdef.part")]
    others = [Path("out", "mine.part"), Path("out", "mine", ".0123456789abcdef.part")]
    for path in (*ours, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert run_here("photos") == 0
    assert [path.exists() for path in (*ours, *others)] == [False, False, True, True]


def test_a_ledger_that_may_not_grow_ends_the_run(
    many: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next run finds the pictures that stand, known to it or not, and makes the rest."""
    assert run_here("photos", "--n", "3", out="whole") == 0
    path_of = {
        f"{row['source_sha256']} {row['seed']}": row["output_path"] for row in manifest("whole")
    }
    with largest_file(60_000):
        assert run_here("photos", "--n", "3") == 1
    assert "The ledger of the output folder cannot be used" in capsys.readouterr().err
    stood = pictures().keys()
    assert 0 < len(stood) < 3 * many
    log().unlink()
    assert run_here("photos", "--n", "3") == 0
    assert manifest() == manifest("whole")
    # Which pictures a worker had begun when the run ended, and has to begin again, is up to chance.
    assert {path_of[order] for order in made()} == set(path_of.values()) - stood
    assert set(made().values()) == {1}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_disk_that_fills_up_ends_the_run(tmp_path: Path) -> None:
    """On a real, small file system: one line, exit 1, whole files only; with room it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=200k none {disk} && mkdir {disk}/out && "
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*alone, script + "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    script += f'"$@"; code=$?; cp -r {disk}/out {tmp_path}; exit $code'
    wanted = ("photos/0.png", "photos/1.png", "--n", "3", "--engine", "local", "--workers", "1")
    batch = command(*wanted, out=str(disk / "out"))
    done = subprocess.run([*alone, script, "sh", *batch], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "No space left on device. Make room" in done.stderr
    stood = pictures()
    assert 0 < len(stood) < 6
    assert not unfinished()
    assert run(*wanted) == 0
    assert stood.items() < pictures().items()
    assert len(manifest()) == len(pictures()) == 6


def test_an_output_that_cannot_be_written_is_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder below a file, before anything is made; and one that turns so amid the run."""
    assert run_here("photos", out="photos/0.png/out") == 2
    assert capsys.readouterr().err == (
        "image-variation: The folder 'out' cannot be written to; choose another one for the "
        "results.\n"
    )
    Path("out").mkdir()
    Path("out", "pictures").write_text("in the way")
    assert run_here("photos") == 1
    err = capsys.readouterr().err
    assert (err.count("\n"), "cannot be" in err) == (1, True)
    Path("out", "pictures").unlink()
    assert run_here("photos") == 0


def test_a_damaged_ledger_is_told_and_can_be_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """The pictures need it not: none is made again, and the manifest is the same."""
    assert run_here("photos") == 0
    before = manifest()
    Path("out/.bulk/ledger.sqlite").write_bytes(b"no database" * 1000)
    assert run_here("photos") == 1
    assert "is damaged; remove its folder '.bulk'." in capsys.readouterr().err
    shutil.rmtree("out/.bulk")
    assert run_here("photos") == 0
    assert manifest() == before
    assert set(made().values()) == {1}


@pytest.mark.parametrize("harm", ["cut", "other", "gone"])
def test_a_picture_that_was_changed_is_made_again(harm: str) -> None:
    """Also one that is a whole picture of the right size, but not the one that was made."""
    assert run_here("photos") == 0
    before, rows = pictures(), manifest()
    path, other = (Path("out") / row["output_path"] for row in rows[:2])
    data = {"cut": path.read_bytes()[:-1], "other": other.read_bytes(), "gone": None}[harm]
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert run_here("photos") == 0
    assert SquarePNG(path.read_bytes()).data == before[rows[0]["output_path"]]
    assert (manifest(), pictures()) == (rows, before)
    assert sorted(made().values()) == [1, 1, 1, 1, 2]


@pytest.mark.slow
def test_without_standard_streams_nothing_is_written_into_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is said on an interrupt goes nowhere, and not into a file that was opened instead."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.2")
    script = 'exec "$@" <&- >&- 2>&-'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *command("photos", "--engine", "hosted", "--jsonl")], text=True
    )
    wait_until(log().exists, process)
    process.terminate()
    assert process.wait(60) == 143
    assert Path("out/.bulk/lock").read_bytes() == b""
    assert 0 < len(manifest()) == len(pictures())
