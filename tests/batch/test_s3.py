"""Runs from and to S3, as moto serves it on loopback and s3fs speaks to it."""

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from langchain_image_variation.batch.lease import EVERY
from pytest_image_variation.samples import square_png
from tests.batch.declared import made
from tests.batch.running import begin, manifest, pictures, run, run_here, wait_until

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")

pytestmark = [
    pytest.mark.slow,
    # What botocore and its like warn of is not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:moto"),
]
OUT = "s3://bucket/some/out"


asked: list[str] = []
"""What was asked of the server: methods and keys."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve S3 on loopback."""
    s3 = moto_server.DomainDispatcherApplication(moto_server.create_backend_app)

    def serve(environ: dict[str, Any], start: Any) -> Any:
        asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return s3(environ, start)

    server = serving.make_server("127.0.0.1", 0, serve, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let every process find an empty bucket there, by fsspec's own configuration."""
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("FSSPEC_S3_KEY", "key")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # It was read when fsspec was imported.
    options = {"endpoint_url": endpoint, "key": "key", "secret": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    files = fsspec.filesystem("s3")
    files.mkdir("bucket")
    yield files
    files.rm("bucket", recursive=True)


@pytest.fixture
def photos_there(s3: Any, photos: Path) -> str:
    """Put the photos into the bucket, and return their URL."""
    s3.put(f"{photos}/", "bucket/photos/", recursive=True)
    return "s3://bucket/photos"


def here(s3: Any) -> str:
    """Return a folder with a copy of the outputs."""
    shutil.rmtree("copy", ignore_errors=True)
    s3.invalidate_cache()
    s3.get("bucket/some/out/", "copy/", recursive=True)
    return "copy"


def without_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the paths of their sources, which differ with the place."""
    return [{**row, "source_path": Path(row["source_path"]).name} for row in rows]


def test_a_run_from_and_to_s3_is_that_of_folders(s3: Any, photos_there: str) -> None:
    """The same pictures and rows, by worker processes; once more, nothing is made."""
    assert run("photos", "--n", "2", "--jsonl", out="whole") == 0
    first = made()
    # Each source is looked at, read to be varied, and read for its thumbnail; each picture is
    # looked for, written, and read for its thumbnail. The second time all are only looked at.
    for reads, writes, sources in ((20, 10, 15), (10, 0, 5)):
        asked.clear()
        assert run(photos_there, "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
        assert made() == first + first
        pictured = Counter(one.split()[0] for one in asked if "/out/pictures/" in one)
        assert pictured == Counter({"GET": reads, "PUT": writes})
        assert len([one for one in asked if "/photos/" in one]) == sources
    copy = here(s3)
    assert without_names(manifest(copy)) == without_names(manifest("whole"))
    assert pictures(copy) == pictures("whole")
    assert Path(copy, "gallery", "index.html").read_text().count("<img") == 15
    assert s3.find("bucket/some/out/.bulk") == ["bucket/some/out/.bulk/ledger.sqlite"]


def test_a_killed_run_is_taken_up(
    s3: Any, photos_there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one makes what is missing."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.05")
    process = begin(photos_there, "--n", "4", out=OUT)
    wait_until(lambda: len(made()) > 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # Whoever knows that no other run is alive need not wait for its lease to end.
    s3.rm_file("bucket/some/out/.bulk/lease")
    assert run(photos_there, "--n", "4", out=OUT) == 0
    assert made().total() <= 20 + 8
    assert run("photos", "--n", "4", out="whole") == 0
    copy = here(s3)
    assert pictures(copy) == pictures("whole")
    assert without_names(manifest(copy)) == without_names(manifest("whole"))


def test_two_runs_at_once_are_refused(
    s3: Any, photos_there: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is told so once it saw the first renew its lease."""
    monkeypatch.setenv("ENGINE_SECONDS", str(EVERY / 2))
    process = begin(photos_there, out=OUT)
    wait_until(lambda: len(made()) > 0, process)
    assert run(photos_there, out=OUT) == 1
    said = capsys.readouterr().err
    assert "Waiting whether another run still writes there." in said
    assert "Another run is writing to the same place" in said
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(pictures(here(s3))) == 5


def test_odd_objects_are_rows(s3: Any, photos_there: str) -> None:
    """An empty object, or one that is no picture; names are of all kinds, a folder has none."""
    s3.pipe_file("bucket/photos/empty.png", b"")
    s3.pipe_file("bucket/photos/sub/", b"")
    s3.pipe_file("bucket/photos/text.png", b"hello")
    for name in ("a b+c.png", "ü%20#?.png", "sub/[1].png"):
        s3.pipe_file(f"bucket/photos/{name}", square_png(48))
    assert run_here(photos_there, "--jsonl", out=OUT) == 3
    rows = manifest(here(s3))
    errors = {Path(row["source_path"]).name: row["error"] for row in rows if row["error"]}
    assert errors.keys() == {"empty.png", "text.png"}
    assert errors["empty.png"] == "SourceError: The source is empty; pass an image file."
    assert len(rows) == 5 + 2 + 3
    lines = ["path", "sub/[1].png", "s3://bucket/photos/a b+c.png", "none.png"]
    s3.pipe_file("bucket/photos/list.csv", "\n".join(lines).encode())
    assert run_here("s3://bucket/photos/list.csv", out=OUT) == 3
    assert [row["error"] for row in manifest(here(s3))[:2]] == [None, None]
