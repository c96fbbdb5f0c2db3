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

import fsspec
import pyarrow.parquet
import pytest

from langchain_image_variation.batch import stored_ledger
from langchain_image_variation.batch.inputs import Inputs
from langchain_image_variation.batch.lease import Lease
from langchain_image_variation.batch.rows import error_row
from langchain_image_variation.batch.stored_ledger import StoredLedger
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    SourceError,
)
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.files.stored_outputs import StoredOutputs, open_outputs
from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import count_made_images
from tests.batch.file_systems import POLICY, declare_file_systems, shelf_path
from tests.batch.runs import (
    limit_file_size,
    output_images,
    portable_rows,
    read_manifest,
    run,
    run_hosted,
    start_run,
    wait_until,
)

OUT = "shelf://kept/out"


@pytest.fixture(autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with an empty shelf."""
    declare_file_systems(tmp_path_factory.mktemp("shelf"), monkeypatch)


def local_copy(url: str = OUT) -> str:
    """Return the local folder of outputs on the shelf."""
    return str(shelf_path(url))


def read_times(out: str) -> list[float | None]:
    """Return the times in the manifest."""
    table = pyarrow.parquet.read_table(f"{out}/manifest.parquet")
    times: list[float | None] = table["milliseconds"].to_pylist()
    return times


def operations(kind: str) -> list[str]:
    """Return the keys of all operations of a kind on the shelf, in order."""
    lines = Path(os.environ["SHELF"] + ".log").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{kind} ")]


@pytest.mark.slow
def test_run_with_urls_equals_run_with_folders(photos: Path) -> None:
    """A run with URLs makes the same images and rows as with folders."""
    shutil.copytree(photos, shelf_path("shelf://kept/photos"))
    assert run("photos", "--n", "2", "--jsonl", out="whole") == 0
    first = count_made_images()
    assert run("shelf://kept/photos", "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
    assert portable_rows(read_manifest(local_copy())) == portable_rows(read_manifest("whole"))
    assert output_images(local_copy()) == output_images("whole")
    assert [row["source_path"] for row in read_manifest(local_copy())][::2] == [
        f"shelf://kept/photos/{index}.png" for index in range(5)
    ]
    assert count_made_images() == first + first
    assert run("shelf://kept/photos", "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
    assert count_made_images() == first + first
    page = Path(local_copy(), "gallery", "index.html").read_text()
    assert page.count("<img") == 15
    # Of its own files, the run leaves only the ledger.
    assert [path.name for path in Path(local_copy(), ".batch").iterdir()] == ["ledger.sqlite"]


def test_only_changed_images_are_made_again() -> None:
    """Only changed images are made again, and the ledger at the URL keeps the other times."""
    assert run_hosted("photos", "--n", "3", out=OUT) == 0
    images, rows = output_images(local_copy()), read_manifest(local_copy())
    times = read_times(local_copy())
    changed_path, missing_path, *_ = sorted(images)
    Path(local_copy(), changed_path).write_bytes(square_png(256))
    Path(local_copy(), missing_path).unlink()
    assert run_hosted("photos", "--n", "3", out=OUT) == 0
    assert output_images(local_copy()) == images
    assert read_manifest(local_copy()) == rows
    assert count_made_images().total() == 15 + 2
    new_times = read_times(local_copy())
    assert len([1 for old, new in zip(times, new_times, strict=True) if old == new]) >= 13


def test_images_are_found_without_a_ledger() -> None:
    """Without a ledger, existing images are verified, and only a damaged one is made again."""
    assert run_hosted("photos", "--n", "2", out=OUT) == 0
    images, rows = output_images(local_copy()), read_manifest(local_copy())
    shutil.rmtree(Path(local_copy(), ".batch"))
    truncated_image = Path(local_copy(), min(images))
    truncated_image.write_bytes(truncated_image.read_bytes()[:-20])
    assert run_hosted("photos", "--n", "2", out=OUT) == 0
    assert output_images(local_copy()) == images
    assert read_manifest(local_copy()) == rows
    assert count_made_images().total() == 10 + 1


@pytest.mark.slow
def test_killed_run_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill -9, the manifest of the next run equals that of an undisturbed one."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.05")
    process = start_run("photos", "--n", "4", out=OUT)
    wait_until(lambda: len(count_made_images()) > 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first_images = output_images(local_copy())
    assert 0 < len(first_images) < 20
    # Deleting the lease saves waiting until it expires.
    Path(local_copy(), ".batch", "lease").unlink()
    assert run("photos", "--n", "4", out=OUT) == 0
    counts = count_made_images()
    assert run("photos", "--n", "4", out="whole") == 0
    assert output_images(local_copy()) == output_images("whole")
    assert read_manifest(local_copy()) == read_manifest("whole")
    # Only the sources that the two workers had were started twice.
    assert counts.total() <= 20 + 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_kills_lose_nothing(
    seed: int, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After random kills, images that existed when a run began are never made again."""
    for index in range(5, 16):
        (photos / f"{index}.png").write_bytes(square_png(32 + index))
    monkeypatch.setenv("ENGINE_SECONDS", "0.02")
    start = time.monotonic()
    assert run("photos", "--n", "3", out="whole") == 0
    duration = time.monotonic() - start
    rows = read_manifest("whole")
    path_of = {f"{row['source_sha256']} {row['seed']}": row["output_path"] for row in rows}
    chance = random.Random(seed)
    for is_killed in (True, True, True, True, False):
        paths_before = output_images(local_copy()).keys() if Path(local_copy()).exists() else set()
        Path(os.environ["ENGINE_LOG"]).unlink(missing_ok=True)
        Path(local_copy(), ".batch", "lease").unlink(missing_ok=True)
        process = start_run("photos", "--n", "3", out=OUT)
        if is_killed:
            time.sleep(chance.uniform(0.4, 1.2) * duration)
            os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert is_killed or process.returncode == 0, err
        assert not {path_of[line] for line in count_made_images()} & set(paths_before)
    assert read_manifest(local_copy()) == read_manifest("whole")
    assert output_images(local_copy()) == output_images("whole")


@pytest.mark.slow
def test_interrupted_run_keeps_earlier_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest of an interrupted run keeps the rows of sources that it did not reach."""
    assert run_hosted("photos", out=OUT) == 0
    rows = read_manifest(local_copy())
    Path(local_copy(), rows[0]["output_path"]).unlink()
    monkeypatch.setenv("ENGINE_SECONDS", "0.5")
    process = start_run("photos", "--n", "2", out=OUT)
    wait_until(lambda: len(count_made_images()) > 5, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    paths = [row["source_path"] for row in read_manifest(local_copy())]
    assert {row["source_path"] for row in rows} == set(paths)


def test_inputs_at_urls_equal_local_inputs(photos: Path) -> None:
    """Folders, hidden files, globs and manifests work at URLs as they do locally."""
    top = shelf_path("shelf://kept/in")
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
    outputs = OutputFolder("out")

    def paths(*sources: str) -> list[object]:
        items = [*Inputs(sources, outputs=outputs, policy=POLICY)]
        assert all(item.error is None for item in items)
        return [item.row["path"] for item in items]

    base = "shelf://kept/in"
    assert paths(base) == [f"{base}/{n}" for n in ("a/1.png", "a/2.JPG", "a.png", "b.png")]
    assert paths(base) == [
        str(path).replace(local_copy("shelf://kept/in"), base)
        for path in paths(local_copy("shelf://kept/in"))
    ]
    assert paths(f"{base}/") == paths(base)
    assert paths(f"{base}/*.png") == [f"{base}/a.png", f"{base}/b.png"]
    assert paths(f"{base}/**/1.*") == [f"{base}/a/1.png"]
    assert paths(f"{base}/notes.txt", f"{base}/a/1.png") == [
        f"{base}/notes.txt",
        f"{base}/a/1.png",
    ]
    manifest_paths = [f"{base}/a/1.png", f"{photos}/1.png", f"{base}/b.png", f"{base}/sub/x.png"]
    assert paths(f"{base}/list.csv") == manifest_paths
    assert paths(f"{base}/*.csv") == manifest_paths
    (photos / "list.jsonl").write_text(json.dumps({"path": f"{base}/b.png"}))
    assert paths(str(photos / "list.jsonl")) == [f"{base}/b.png"]
    # A "file://" URL is a local path.
    assert paths(f"file://{photos}") == [str(photos / f"{index}.png") for index in range(5)]


def test_glob_is_searched_once() -> None:
    """The matches of a glob are kept, while a folder is listed each time."""
    shelf_path("shelf://kept/in").mkdir(parents=True)
    shelf_path("shelf://kept/in/1.png").write_bytes(square_png())
    for source, times in (("shelf://kept/in/*.png", 1), ("shelf://kept/in", 1 + 2)):
        inputs = Inputs([source], outputs=OutputFolder("out"), policy=POLICY)
        assert inputs.count() == 1
        assert [item.row["path"] for item in inputs] == ["shelf://kept/in/1.png"]
        assert len(operations("list")) == times


def test_results_are_not_inputs() -> None:
    """A run skips its own outputs among the inputs, and refuses them as the only input."""
    assert run_hosted("photos", out=OUT) == 0
    shelf_path(f"{OUT}/9.png").write_bytes(square_png())
    items = [*Inputs([OUT], outputs=storage(), policy=POLICY)]
    assert [item.row["path"] for item in items] == [f"{OUT}/9.png"]
    with pytest.raises(InvalidRequestError, match="another place"):
        Inputs([f"{OUT}/images"], outputs=storage(), policy=POLICY)
    inputs = Inputs([f"{OUT}/images"], outputs=storage("shelf://kept/new"), policy=POLICY)
    assert len([*inputs]) == 5


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("shelf://kept/nothing", SourceError, "There is no file or folder 'nothing'"),
        ("shelf://kept/*.png", SourceError, r"There is no file or folder '\*.png'"),
        ("shelf://lost/photos", SourceError, "There is no file or folder 'photos'"),
        ("https://example.com/1.png", InvalidRequestError, "Download the files first"),
        ("shelf://me:hunter2@kept/1.png", InvalidRequestError, "contains a password"),
        ("unheard-of://kept/1.png", InvalidRequestError, "got the kind 'unheard-of'"),
        ("zip::shelf://kept/1.zip", InvalidRequestError, "one file system"),
    ],
)
def test_unusable_input_url_is_refused(source: str, error: type[Exception], message: str) -> None:
    """For an unusable input URL, nothing is made, and no message contains a password."""
    with pytest.raises(error, match=message) as caught:
        Inputs([source], outputs=OutputFolder("out"), policy=POLICY)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("", InvalidRequestError, "output_dir is empty"),
        ("shelf://me:hunter2@kept/out", InvalidRequestError, "contains a password"),
        ("https://example.com/out", InvalidRequestError, "not an https URL"),
        ("unheard-of://kept", InvalidRequestError, "got the kind"),
        ("abfs://kept/out", MissingExtraError, "package"),
    ],
)
def test_unusable_output_url_is_refused(url: str, error: type[Exception], message: str) -> None:
    """The constructor refuses an unusable output URL, and no message contains a password."""
    with pytest.raises(error, match=message) as caught:
        VariationBatch(url, allow_storage=["shelf"])
    assert "hunter2" not in str(caught.value)


def test_memory_urls_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """URLs in memory are refused, since the images would be lost with the run."""
    assert run("photos", out="memory://out") == 2
    assert "are lost when the process ends" in capsys.readouterr().err
    assert run("photos", out="shelf://lost/out") == 1
    assert "The shelf storage cannot be written to" in capsys.readouterr().err
    assert count_made_images().total() == 0


def test_unreadable_source_url_is_a_row() -> None:
    """An unreadable source URL becomes a row, which does not show a password."""
    (Path("list.csv")).write_text(
        "path\nshelf://kept/gone.png\nshelf://me:hunter2@kept/1.png\nhttps://example.com/1.png\n"
    )
    assert run_hosted("list.csv", "--jsonl", out=OUT) == 3
    missing_row, password_row, http_row = read_manifest(local_copy())
    assert missing_row["error"] == "SourceError: There is no file 'gone.png'; check the URL."
    assert password_row["error"].startswith(
        "SourceError: The URL of the source contains a password"
    )
    assert password_row["source_path"] == "shelf://me:***@kept/1.png"
    assert http_row["error"].startswith("SourceError: path must be a path on this machine")
    assert "hunter2" not in Path(local_copy(), "manifest.jsonl").read_text()


@pytest.mark.mostly_slow("write")
@pytest.mark.parametrize("operation", ["read", "write", "list"])
def test_failing_storage_ends_the_run(
    operation: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing storage ends the run without another library's text, and it can be resumed."""
    shelf_path("shelf://kept/photos").mkdir(parents=True)
    shelf_path("shelf://kept/photos/1.png").write_bytes(square_png())
    monkeypatch.setenv("SHELF_FAILS", operation)
    code = run_hosted("shelf://kept/photos", out=OUT)
    err = capsys.readouterr().err
    assert "AKIA" not in err
    assert "Traceback" not in err
    assert code == (3 if operation == "list" else 1), err
    monkeypatch.delenv("SHELF_FAILS")
    shelf_path(f"{OUT}/.batch/lease").unlink(missing_ok=True)
    assert run_hosted("shelf://kept/photos", out=OUT) == 0


def test_batch_with_urls_pickles() -> None:
    """A batch with URLs can be pickled, and a repeated call makes nothing."""
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
    second_rows = batch(columns)
    assert second_rows["output_sha256"] == rows["output_sha256"]
    assert second_rows["milliseconds"] == [None] * 3
    memory.rm("/out", recursive=True)
    memory.rm("/in", recursive=True)


def test_file_url_is_a_folder(tmp_path: Path) -> None:
    """Outputs at a "file://" URL have a lock, like those in a folder."""
    assert isinstance(open_outputs(f"file://{tmp_path}/out"), OutputFolder)
    assert run_hosted("photos", out=f"file://{tmp_path}/out") == 0
    assert Path("out", ".batch", "lock").exists()
    assert len(output_images()) == 5


def storage(url: str = OUT) -> StoredOutputs:
    """Return outputs on the shelf."""
    outputs = open_outputs(url, policy=POLICY)
    assert isinstance(outputs, StoredOutputs)
    return outputs


@pytest.mark.slow
def test_renewed_lease_blocks_other_runs() -> None:
    """A renewed lease blocks other runs, and an expired or released one does not."""
    with Lease(storage(), interval=0.05):
        waits: list[int] = []
        with (
            pytest.raises(OutputError, match="Another run is writing"),
            Lease(storage(), on_wait=lambda: waits.append(1), interval=1.0),
        ):
            pass
        assert waits == [1]
    with Lease(storage(), interval=0.2) as lease:
        assert not lease.is_lost()
        content = shelf_path(f"{OUT}/.batch/lease").read_bytes()
    # A killed run would leave the file.
    shelf_path(f"{OUT}/.batch/lease").write_bytes(content)
    with Lease(storage(), interval=0.2) as lease:
        lease.check()


@pytest.mark.parametrize("reason", ["taken", "unreachable", "hanging"])
def test_lease_may_be_lost(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is lost to a run that starts at the same moment, or if renewing it fails too long."""
    hang_file = Path(os.environ["SHELF"] + ".hangs")
    with Lease(storage(), interval=0.02) as lease:
        if reason == "taken":
            storage().write_all({".batch/lease": b"another 0"})
        elif reason == "hanging":
            hang_file.touch()
        else:
            monkeypatch.setenv("SHELF_FAILS", "read write")
        deadline = time.monotonic() + 10
        while not lease.is_lost() and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.delenv("SHELF_FAILS", raising=False)
        hang_file.unlink(missing_ok=True)
        with pytest.raises(OutputError, match="run the same command again"):
            lease.check()
    # It belongs to another run now.
    assert shelf_path(f"{OUT}/.batch/lease").exists()


def test_deleted_lease_is_lost() -> None:
    """A lease is lost if another run took it and ended while this machine was suspended."""
    with Lease(storage(), interval=0.02) as lease:
        shelf_path(f"{OUT}/.batch/lease").unlink()
        deadline = time.monotonic() + 10
        while not lease.is_lost() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.is_lost()
    with Lease(storage()):
        storage().write_all({".batch/lease": b"another 0"})
    # A run does not remove the lease of another run.
    assert shelf_path(f"{OUT}/.batch/lease").read_bytes() == b"another 0"


@pytest.mark.slow
def test_run_works_on_an_unusual_server(photos: Path) -> None:
    """No connection is shared, and missing files and failing renames are recognized.

    A name may contain characters that have a meaning in URLs.
    """
    for number, name in enumerate(("what?.png", "IMG #1.png", "a#b?c.png")):
        Path(photos, f"{number}.png").rename(photos / name)
    shutil.copytree(photos, shelf_path("pier:///kept/photos"))
    out = "pier:///kept/out"
    for _ in range(2):
        assert run_hosted("pier:///kept/photos", "--n", "2", "--gallery", out=out) == 0
        # A killed run would leave such a file.
        shelf_path(f"{out}/.batch/.0123456789abcdef.part").touch()
        shelf_path(f"{out}/{min(output_images(local_copy(out)))}").unlink()
    assert count_made_images().total() == 10 + 1
    assert run_hosted("pier:///kept/photos", "--n", "2", out=out) == 0
    assert [path.name for path in Path(local_copy(out), ".batch").iterdir()] == ["ledger.sqlite"]


_FORKED = """
import multiprocessing
from langchain_image_variation import VariationBatch

batch = VariationBatch(
    "pier:///kept/out", engine="instant", size="256x256", allow_storage=["pier"]
)
columns = {"path": ["photos/0.png"]}


def call():
    return batch(columns)


assert call()["error"] == [None]
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply(call)["milliseconds"] == [None]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="The system cannot fork.")
def test_used_batch_works_after_a_fork() -> None:
    """A forked process opens the file system again, since it cannot share a connection."""
    shelf_path("pier:///kept").mkdir(parents=True)
    command = [sys.executable, "-c", _FORKED]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.slow
def test_second_interrupt_ends_a_hanging_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second interrupt ends a run without waiting for the server."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.2")
    process = start_run("photos", "--n", "4", out=OUT)
    wait_until(lambda: len(count_made_images()) > 0, process)
    hang_file = Path(os.environ["SHELF"] + ".hangs")
    hang_file.touch()
    process.send_signal(signal.SIGINT)
    # The second signal must not arrive before the first is handled.
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        hang_file.unlink()
    assert process.returncode == 130
    assert "no file is half-written" in err


def test_unreachable_storage_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that cannot be looked up is not taken for a missing one."""
    monkeypatch.setenv("SHELF_FAILS", "info")
    with pytest.raises(OutputError, match="could not read"):
        storage().has("manifest.jsonl")


def test_full_temporary_folder_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a temporary folder with free space, a run at a URL fails, and the error says so."""
    with pytest.raises(OutputError, match="Free some space for temporary files"):
        with limit_file_size(10), storage().open_for_writing("manifest.jsonl") as file:
            file.write(bytes(100))
            file.flush()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    assert run_hosted("photos", out=OUT) == 1
    err = capsys.readouterr().err
    assert "The ledger of a run at a URL needs a folder for temporary files (No such file" in err
    assert "nowhere" not in err
    with pytest.raises(OutputError, match=r"A manifest at a URL needs .* Set TMPDIR"):
        storage().open_for_writing("manifest.jsonl").__enter__()


@pytest.mark.parametrize("url", ["FILE:///", "file:///"])
def test_file_url_may_be_the_root(url: str) -> None:
    """`file:///` is not the working directory, and schemes are case-insensitive."""
    outputs = open_outputs(url)
    assert isinstance(outputs, OutputFolder)
    assert outputs.path == Path("/")


def test_failed_ledger_upload_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed upload of the ledger does not end the run unless it is the last one."""
    monkeypatch.setattr(stored_ledger, "UPLOAD_INTERVAL", -1.0)
    with StoredLedger(storage(), is_lost=lambda: False) as ledger:
        monkeypatch.setenv("SHELF_FAILS", "write")
        ledger.record(0, [error_row({"path": "a.png"}, SourceError("gone"), source_sha256=None)])
        monkeypatch.delenv("SHELF_FAILS")
    assert shelf_path(f"{OUT}/.batch/ledger.sqlite").exists()
