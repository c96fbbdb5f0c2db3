import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest

from langchain_image_variation.batch import stored_ledger
from langchain_image_variation.batch.inputs import Inputs
from langchain_image_variation.batch.lease import Lease
from langchain_image_variation.batch.stored_ledger import StoredLedger
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    SourceError,
)
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.files.stored_outputs import OutputStorage, open_outputs
from pytest_image_variation.samples import square_png
from tests.batch.declared import made
from tests.batch.running import begin, manifest, pictures, run, run_here, wait_until
from tests.batch.shelf import declare_shelf, on_shelf

OUT = "shelf://kept/out"


@pytest.fixture(autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty shelf."""
    declare_shelf(tmp_path_factory.mktemp("shelf"), monkeypatch)


def kept(url: str = OUT) -> str:
    """Return the folder of this machine in which outputs on the shelf lie."""
    return str(on_shelf(url))


def operations(kind: str) -> list[str]:
    """Return what was done on the shelf, in order."""
    lines = Path(os.environ["SHELF"] + ".log").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{kind} ")]


def without_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the paths of their sources, which differ with the place."""
    return [{**row, "source_path": Path(row["source_path"]).name} for row in rows]


def test_a_run_from_and_to_urls_is_that_of_folders(photos: Path) -> None:
    """The same pictures and rows, by worker processes; once more, nothing is made."""
    shutil.copytree(photos, on_shelf("shelf://kept/photos"))
    assert run("photos", "--n", "2", "--jsonl", out="whole") == 0
    first = made()
    assert run("shelf://kept/photos", "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
    assert without_names(manifest(kept())) == without_names(manifest("whole"))
    assert pictures(kept()) == pictures("whole")
    assert [row["source_path"] for row in manifest(kept())][::2] == [
        f"shelf://kept/photos/{index}.png" for index in range(5)
    ]
    assert made() == first + first
    assert run("shelf://kept/photos", "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
    assert made() == first + first
    page = Path(kept(), "gallery", "index.html").read_text()
    assert page.count("<img") == 15
    # Nothing of the run's own is left but its ledger.
    assert [path.name for path in Path(kept(), ".bulk").iterdir()] == ["ledger.sqlite"]


def test_what_was_changed_or_lost_is_made_again_and_no_other() -> None:
    """The ledger at the URL knows the pictures, and their times stay."""
    assert run_here("photos", "--n", "3", out=OUT) == 0
    before, rows = pictures(kept()), manifest(kept())
    times = pyarrow.parquet.read_table(f"{kept()}/manifest.parquet")["milliseconds"].to_pylist()
    changed, lost, *_ = sorted(before)
    Path(kept(), changed).write_bytes(square_png(256))
    Path(kept(), lost).unlink()
    assert run_here("photos", "--n", "3", out=OUT) == 0
    assert pictures(kept()) == before
    assert manifest(kept()) == rows
    assert made().total() == 15 + 2
    again = pyarrow.parquet.read_table(f"{kept()}/manifest.parquet")["milliseconds"].to_pylist()
    assert len([1 for one, other in zip(times, again, strict=True) if one == other]) >= 13


def test_without_its_ledger_the_pictures_stand_by_themselves() -> None:
    """They are looked at, and only one that is no whole picture is made again."""
    assert run_here("photos", "--n", "2", out=OUT) == 0
    before, rows = pictures(kept()), manifest(kept())
    shutil.rmtree(Path(kept(), ".bulk"))
    broken = Path(kept(), min(before))
    broken.write_bytes(broken.read_bytes()[:-20])
    assert run_here("photos", "--n", "2", out=OUT) == 0
    assert pictures(kept()) == before
    assert manifest(kept()) == rows
    assert made().total() == 10 + 1


@pytest.mark.slow
def test_a_killed_run_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill -9 of the run, the manifest is that of an undisturbed one."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.05")
    process = begin("photos", "--n", "4", out=OUT)
    wait_until(lambda: len(made()) > 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    at_kill = pictures(kept())
    assert 0 < len(at_kill) < 20
    # Whoever knows that no other run is alive need not wait for its lease to end.
    Path(kept(), ".bulk", "lease").unlink()
    assert run("photos", "--n", "4", out=OUT) == 0
    again = made()
    assert run("photos", "--n", "4", out="whole") == 0
    assert pictures(kept()) == pictures("whole")
    assert manifest(kept()) == manifest("whole")
    # Only what the two workers had in hand was begun twice.
    assert again.total() <= 20 + 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_runs_killed_at_random_moments_lose_nothing(
    seed: int, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written when; what stood when a run began was never made again."""
    for index in range(5, 16):
        (photos / f"{index}.png").write_bytes(square_png(32 + index))
    monkeypatch.setenv("ENGINE_SECONDS", "0.02")
    began = time.monotonic()
    assert run("photos", "--n", "3", out="whole") == 0
    lasts = time.monotonic() - began
    path_of = {
        f"{row['source_sha256']} {row['seed']}": row["output_path"] for row in manifest("whole")
    }
    chance = random.Random(seed)
    for killed in (True, True, True, True, False):
        stood = pictures(kept()).keys() if Path(kept()).exists() else set()
        Path(os.environ["ENGINE_LOG"]).unlink(missing_ok=True)
        Path(kept(), ".bulk", "lease").unlink(missing_ok=True)
        process = begin("photos", "--n", "3", out=OUT)
        if killed:
            time.sleep(chance.uniform(0.4, 1.2) * lasts)
            os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert killed or process.returncode == 0, err
        assert not {path_of[order] for order in made()} & set(stood)
    assert manifest(kept()) == manifest("whole")
    assert pictures(kept()) == pictures("whole")


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_earlier_ones_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manifest has the rows of sources that had no turn this time, from the stored ledger."""
    assert run_here("photos", out=OUT) == 0
    rows = manifest(kept())
    Path(kept(), rows[0]["output_path"]).unlink()
    monkeypatch.setenv("ENGINE_SECONDS", "0.5")
    process = begin("photos", "--n", "2", out=OUT)
    wait_until(lambda: len(made()) > 5, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    paths = [row["source_path"] for row in manifest(kept())]
    assert {row["source_path"] for row in rows} == set(paths)


def test_inputs_by_url_are_those_of_folders(photos: Path) -> None:
    """Folders in order and below, without what is hidden and no picture; globs; manifests."""
    top = on_shelf("shelf://kept/in")
    for name in ("b.png", "a/2.JPG", "a/1.png", ".hidden.png", "notes.txt", "a.png", "z/.x/1.png"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(square_png())
    lines = [
        "path,n",
        "a/1.png,2",
        f"{photos}/1.png,",
        "shelf://kept/in/b.png,",
        "a/../sub/./x.png,",
    ]
    (top / "list.csv").write_text("\n".join(lines))
    nowhere = OutputFolder("out")

    def paths(*named: str) -> list[object]:
        entries = [*Inputs(named, outputs=nowhere)]
        assert all(entry.error is None for entry in entries)
        return [entry.row["path"] for entry in entries]

    base = "shelf://kept/in"
    assert paths(base) == [f"{base}/{n}" for n in ("a/1.png", "a/2.JPG", "a.png", "b.png")]
    assert paths(base) == [
        str(path).replace(kept("shelf://kept/in"), base) for path in paths(kept("shelf://kept/in"))
    ]
    assert paths(f"{base}/") == paths(base)
    assert paths(f"{base}/*.png") == [f"{base}/a.png", f"{base}/b.png"]
    assert paths(f"{base}/**/1.*") == [f"{base}/a/1.png"]
    assert paths(f"{base}/notes.txt", f"{base}/a/1.png") == [
        f"{base}/notes.txt",
        f"{base}/a/1.png",
    ]
    listed = [f"{base}/a/1.png", f"{photos}/1.png", f"{base}/b.png", f"{base}/sub/x.png"]
    assert paths(f"{base}/list.csv") == listed
    assert paths(f"{base}/*.csv") == listed
    (photos / "list.jsonl").write_text(json.dumps({"path": f"{base}/b.png"}))
    assert paths(str(photos / "list.jsonl")) == [f"{base}/b.png"]
    # A URL of this machine is a path.
    assert paths(f"file://{photos}") == [str(photos / f"{index}.png") for index in range(5)]


def test_a_glob_is_searched_once() -> None:
    """However often its matches are walked; a folder is listed once each time."""
    on_shelf("shelf://kept/in").mkdir(parents=True)
    on_shelf("shelf://kept/in/1.png").write_bytes(square_png())
    for named, times in (("shelf://kept/in/*.png", 1), ("shelf://kept/in", 1 + 2)):
        inputs = Inputs([named], outputs=OutputFolder("out"))
        assert inputs.count() == 1
        assert [entry.row["path"] for entry in inputs] == ["shelf://kept/in/1.png"]
        assert len(operations("list")) == times


def test_results_are_no_inputs() -> None:
    """A run over the place of its own results leaves them out, and refuses them alone."""
    assert run_here("photos", out=OUT) == 0
    on_shelf(f"{OUT}/9.png").write_bytes(square_png())
    entries = [*Inputs([OUT], outputs=open_outputs(OUT))]
    assert [entry.row["path"] for entry in entries] == [f"{OUT}/9.png"]
    with pytest.raises(InvalidRequestError, match="another place"):
        Inputs([f"{OUT}/pictures"], outputs=open_outputs(OUT))
    assert len([*Inputs([f"{OUT}/pictures"], outputs=open_outputs("shelf://kept/new"))]) == 5


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ("shelf://kept/nothing", SourceError, "There is no file or folder 'nothing'"),
        ("shelf://kept/*.png", SourceError, r"There is no file or folder '\*.png'"),
        ("shelf://lost/photos", SourceError, "There is no file or folder 'photos'"),
        ("https://example.com/1.png", InvalidRequestError, "Download the files first"),
        ("shelf://me:hunter2@kept/1.png", InvalidRequestError, "holds a password"),
        ("unheard-of://kept/1.png", InvalidRequestError, "not of the kind 'unheard-of'"),
        ("zip::shelf://kept/1.zip", InvalidRequestError, "one file system"),
    ],
)
def test_an_input_that_is_none_is_told_at_once(
    named: str, error: type[Exception], message: str
) -> None:
    """Before anything is made; no message has a password."""
    with pytest.raises(error, match=message) as told:
        Inputs([named], outputs=OutputFolder("out"))
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("", InvalidRequestError, "output_dir is empty"),
        ("shelf://me:hunter2@kept/out", InvalidRequestError, "contains a password"),
        ("https://example.com/out", InvalidRequestError, "kind 'https'"),
        ("unheard-of://kept", InvalidRequestError, "not of the kind"),
        ("abfs://kept/out", MissingExtraError, "package"),
    ],
)
def test_a_url_for_outputs_that_is_none_is_refused(
    url: str, error: type[Exception], message: str
) -> None:
    """When the batch is configured; no message has a password."""
    with pytest.raises(error, match=message) as told:
        VariationBatch(url)
    assert "hunter2" not in str(told.value)


def test_memory_is_no_place_for_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Its pictures would end with the run; nor is a bucket made that is not there."""
    assert run("photos", out="memory://out") == 2
    assert "end with the process" in capsys.readouterr().err
    assert run("photos", out="shelf://lost/out") == 1
    assert "The shelf storage cannot be written to" in capsys.readouterr().err
    assert made().total() == 0


def test_a_row_by_url_that_cannot_be_read_is_a_row() -> None:
    """A password in its path is not passed on."""
    (Path("list.csv")).write_text(
        "path\nshelf://kept/gone.png\nshelf://me:hunter2@kept/1.png\nhttps://example.com/1.png\n"
    )
    assert run_here("list.csv", "--jsonl", out=OUT) == 3
    gone, password, http = manifest(kept())
    assert gone["error"] == "SourceError: There is no file 'gone.png'; check the URL."
    assert password["error"].startswith("SourceError: The URL of the source contains a password")
    assert password["source_path"] == "shelf://me:***@kept/1.png"
    assert http["error"].startswith("SourceError: path must be a path on this machine")
    assert "hunter2" not in Path(kept(), "manifest.jsonl").read_text()


@pytest.mark.parametrize("operation", ["read", "write", "list"])
def test_storage_that_fails_ends_the_run(
    operation: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that a library below it says is shown; later, the same command goes on."""
    on_shelf("shelf://kept/photos").mkdir(parents=True)
    on_shelf("shelf://kept/photos/1.png").write_bytes(square_png())
    monkeypatch.setenv("SHELF_FAILS", operation)
    code = run_here("shelf://kept/photos", out=OUT)
    said = capsys.readouterr().err
    assert "AKIA" not in said
    assert "Traceback" not in said
    assert code == (3 if operation == "list" else 1), said
    monkeypatch.delenv("SHELF_FAILS")
    on_shelf(f"{OUT}/.bulk/lease").unlink(missing_ok=True)
    assert run_here("shelf://kept/photos", out=OUT) == 0


def test_a_batch_works_by_urls_wherever_it_is() -> None:
    """It pickles, and its calls are idempotent, in any file system."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/in/1.png", square_png())
    batch = VariationBatch("memory://out", engine="logged", n=2, size="256x256")
    batch = pickle.loads(pickle.dumps(batch))
    columns = {"path": ["memory://in/1.png", "memory://in/2.png"]}
    rows = batch(columns)
    assert rows["index"] == [1, 2, None]
    assert rows["error"][2] == "SourceError: There is no file '2.png'; check the URL."
    for path in rows["output_path"][:2]:
        assert memory.cat_file(f"/out/{path}").startswith(b"\x89PNG")
    again = batch(columns)
    assert again["output_sha256"] == rows["output_sha256"]
    assert again["milliseconds"] == [None] * 3
    memory.rm("/out", recursive=True)
    memory.rm("/in", recursive=True)


def test_a_url_of_this_machine_is_a_folder(tmp_path: Path) -> None:
    """With its lock and all."""
    assert isinstance(open_outputs(f"file://{tmp_path}/out"), OutputFolder)
    assert run_here("photos", out=f"file://{tmp_path}/out") == 0
    assert Path("out", ".bulk", "lock").exists()
    assert len(pictures()) == 5


def storage(url: str = OUT) -> OutputStorage:
    """Return a place on the shelf."""
    found = open_outputs(url)
    assert isinstance(found, OutputStorage)
    return found


@pytest.mark.slow
def test_a_lease_that_is_renewed_holds_others_off() -> None:
    """One that is not any more does not; a run's end frees it at once."""
    with Lease(storage(), every=0.05):
        waited: list[int] = []
        with (
            pytest.raises(OutputError, match="Another run is writing"),
            Lease(storage(), waiting=lambda: waited.append(1), every=1.0),
        ):
            pass
        assert waited == [1]
    with Lease(storage(), every=0.2) as lease:
        assert not lease.is_lost()
        left = on_shelf(f"{OUT}/.bulk/lease").read_bytes()
    # As a killed run leaves it.
    on_shelf(f"{OUT}/.bulk/lease").write_bytes(left)
    with Lease(storage(), every=0.2) as lease:
        lease.check()


@pytest.mark.parametrize("how", ["taken", "unreachable", "hanging"])
def test_a_lease_may_be_lost(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one that began at the same moment, or if the storage was away for too long."""
    hangs = Path(os.environ["SHELF"] + ".hangs")
    with Lease(storage(), every=0.02) as lease:
        if how == "taken":
            storage().put({".bulk/lease": b"another 0"})
        elif how == "hanging":
            hangs.touch()
        else:
            monkeypatch.setenv("SHELF_FAILS", "read write")
        deadline = time.monotonic() + 10
        while not lease.is_lost() and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.delenv("SHELF_FAILS", raising=False)
        hangs.unlink(missing_ok=True)
        with pytest.raises(OutputError, match="the same command goes on"):
            lease.check()
    # It is another's now.
    assert on_shelf(f"{OUT}/.bulk/lease").exists()


def test_a_lease_that_is_gone_is_lost() -> None:
    """While this machine slept, another run took it and ended."""
    with Lease(storage(), every=0.02) as lease:
        on_shelf(f"{OUT}/.bulk/lease").unlink()
        deadline = time.monotonic() + 10
        while not lease.is_lost() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.is_lost()
    with Lease(storage()):
        storage().put({".bulk/lease": b"another 0"})
    # What was taken a moment ago is not removed.
    assert on_shelf(f"{OUT}/.bulk/lease").read_bytes() == b"another 0"


def test_a_server_with_odd_manners_takes_a_run(photos: Path) -> None:
    """No connection is shared, and what is missing, or in the way of a rename, is found out.

    A name may have what is no part of a name in a URL.
    """
    for number, name in enumerate(("what?.png", "IMG #1.png", "a#b?c.png")):
        Path(photos, f"{number}.png").rename(photos / name)
    shutil.copytree(photos, on_shelf("pier:///kept/photos"))
    out = "pier:///kept/out"
    for _ in range(2):
        assert run_here("pier:///kept/photos", "--n", "2", "--gallery", out=out) == 0
        # As one that was killed leaves it.
        on_shelf(f"{out}/.bulk/.0123456789abcdef.part").touch()
        on_shelf(f"{out}/{min(pictures(kept(out)))}").unlink()
    assert made().total() == 10 + 1
    assert run_here("pier:///kept/photos", "--n", "2", out=out) == 0
    assert [path.name for path in Path(kept(out), ".bulk").iterdir()] == ["ledger.sqlite"]


_FORKED = """
import multiprocessing
from langchain_image_variation import VariationBatch

batch = VariationBatch("pier:///kept/out", engine="instant", size="256x256")
columns = {"path": ["photos/0.png"]}


def call():
    return batch(columns)


assert call()["error"] == [None]
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply(call)["milliseconds"] == [None]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="The system cannot fork.")
def test_a_batch_that_was_used_works_in_a_process_that_is_forked() -> None:
    """It opens the file system anew, since a connection cannot be shared."""
    on_shelf("pier:///kept").mkdir(parents=True)
    command = [sys.executable, "-c", _FORKED]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.slow
def test_two_interrupts_end_a_run_whose_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it: neither the lease nor the ledger, nor the interpreter."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.2")
    process = begin("photos", "--n", "4", out=OUT)
    wait_until(lambda: len(made()) > 0, process)
    hangs = Path(os.environ["SHELF"] + ".hangs")
    hangs.touch()
    process.send_signal(signal.SIGINT)
    # Two signals that come before either was handled are one.
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        hangs.unlink()
    assert process.returncode == 130
    assert "no file is half-written" in err


def test_a_storage_out_of_reach_is_not_taken_for_an_empty_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether a file is there cannot be said."""
    monkeypatch.setenv("SHELF_FAILS", "info")
    with pytest.raises(OutputError, match="could not read"):
        storage().has("manifest.jsonl")


def test_without_room_for_temporary_files_a_run_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They hold the ledger, and each manifest while it is written."""
    monkeypatch.setattr(tempfile, "tempdir", "nowhere")
    assert run_here("photos", out=OUT) == 1
    assert "The ledger of the output folder cannot be made" in capsys.readouterr().err
    with pytest.raises(OutputError, match="Free some space for temporary files"):
        storage().open_for_writing("manifest.jsonl").__enter__()


@pytest.mark.parametrize("url", ["FILE:///", "file:///"])
def test_the_root_of_this_machine_is_a_folder(url: str) -> None:
    """And not the one that the run is in; schemes have no case."""
    outputs = open_outputs(url)
    assert isinstance(outputs, OutputFolder)
    assert outputs.path == Path("/")


def test_a_ledger_that_cannot_be_copied_now_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next copy may come through; only the last one must."""
    monkeypatch.setattr(stored_ledger, "RENEWED_EVERY", -1.0)
    with StoredLedger(storage(), is_lost=lambda: False) as ledger:
        monkeypatch.setenv("SHELF_FAILS", "write")
        ledger.record(0, [])
        monkeypatch.delenv("SHELF_FAILS")
    assert on_shelf(f"{OUT}/.bulk/ledger.sqlite").exists()
