"""Runs with S3, which moto serves on loopback and s3fs accesses."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.batch.lease import RENEWAL_INTERVAL
from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import count_made_images
from tests.batch.runs import (
    output_images,
    portable_rows,
    read_manifest,
    run,
    run_hosted,
    start_run,
    wait_until,
)
from tests.files.test_storage_policy import listening
from tests.s3 import S3_MARKS, bucket, serving_s3

pytestmark = S3_MARKS
OUT = "s3://bucket/some/out"


requests: list[str] = []
"""The method and key of each request to the server."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve S3 on loopback."""
    with serving_s3(requests) as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Create an empty bucket, and configure fsspec so that every process finds it."""
    with bucket(endpoint, monkeypatch) as files:
        yield files


@pytest.fixture
def photos_url(s3: Any, photos: Path) -> str:
    """Copy the photos to the bucket, and return their URL."""
    s3.put(f"{photos}/", "bucket/photos/", recursive=True)
    return "s3://bucket/photos"


def download_outputs(s3: Any) -> str:
    """Copy the outputs to a local folder, and return it."""
    shutil.rmtree("copy", ignore_errors=True)
    s3.invalidate_cache()
    s3.get("bucket/some/out/", "copy/", recursive=True)
    return "copy"


def test_run_with_s3_equals_run_with_folders(s3: Any, photos_url: str) -> None:
    """A run with S3 makes the same images and rows as with folders."""
    assert run("photos", "--n", "2", "--jsonl", out="whole") == 0
    local_counts = count_made_images()
    # A source is inspected, read by its worker, and read for its thumbnail. An image is searched,
    # written, and read for its thumbnail. The second run only inspects sources and images.
    for reads, writes, sources in ((20, 10, 15), (10, 0, 5)):
        requests.clear()
        assert run(photos_url, "--n", "2", "--jsonl", "--gallery", out=OUT) == 0
        assert count_made_images() == local_counts + local_counts
        image_requests = [request for request in requests if "/out/images/" in request]
        methods = Counter(request.split()[0] for request in image_requests)
        assert methods == Counter({"GET": reads, "PUT": writes})
        assert len([request for request in requests if "/photos/" in request]) == sources
    copy = download_outputs(s3)
    assert portable_rows(read_manifest(copy)) == portable_rows(read_manifest("whole"))
    assert output_images(copy) == output_images("whole")
    assert Path(copy, "gallery", "index.html").read_text().count("<img") == 15
    assert s3.find("bucket/some/out/.batch") == ["bucket/some/out/.batch/ledger.sqlite"]


def test_killed_run_is_resumed(s3: Any, photos_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill, the next run makes the missing images."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.05")
    process = start_run(photos_url, "--n", "4", out=OUT)
    wait_until(lambda: len(count_made_images()) > 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # Deleting the lease saves waiting until it expires.
    s3.rm_file("bucket/some/out/.batch/lease")
    assert run(photos_url, "--n", "4", out=OUT) == 0
    assert count_made_images().total() <= 20 + 8
    assert run("photos", "--n", "4", out="whole") == 0
    copy = download_outputs(s3)
    assert output_images(copy) == output_images("whole")
    assert portable_rows(read_manifest(copy)) == portable_rows(read_manifest("whole"))


def test_concurrent_runs_are_refused(
    s3: Any, photos_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run ends when it has seen the first renew its lease."""
    monkeypatch.setenv("ENGINE_SECONDS", str(RENEWAL_INTERVAL / 2))
    process = start_run(photos_url, out=OUT)
    wait_until(lambda: len(count_made_images()) > 0, process)
    assert run(photos_url, out=OUT) == 1
    err = capsys.readouterr().err
    assert "Checking whether another run is still writing there." in err
    assert "Another run is writing to the same place" in err
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(output_images(download_outputs(s3))) == 5


def test_unusual_objects_are_rows(s3: Any, photos_url: str) -> None:
    """Objects that are empty, not images or oddly named become rows."""
    s3.pipe_file("bucket/photos/empty.png", b"")
    s3.pipe_file("bucket/photos/sub/", b"")
    s3.pipe_file("bucket/photos/text.png", b"hello")
    for name in ("a b+c.png", "ü%20#?.png", "sub/[1].png"):
        s3.pipe_file(f"bucket/photos/{name}", square_png(48))
    assert run_hosted(photos_url, "--jsonl", out=OUT) == 3
    rows = read_manifest(download_outputs(s3))
    errors = {Path(row["source_path"]).name: row["error"] for row in rows if row["error"]}
    assert errors.keys() == {"empty.png", "text.png"}
    assert errors["empty.png"] == "SourceError: The source is empty; pass an image file."
    assert len(rows) == 5 + 2 + 3
    lines = ["path", "sub/[1].png", "s3://bucket/photos/a b+c.png", "none.png"]
    s3.pipe_file("bucket/photos/list.csv", "\n".join(lines).encode())
    assert run_hosted("s3://bucket/photos/list.csv", out=OUT) == 3
    assert [row["error"] for row in read_manifest(download_outputs(s3))[:2]] == [None, None]


def test_row_cannot_choose_the_endpoint(s3: Any, photos: Path) -> None:
    """However a row spells a URL, the request goes to the configured endpoint or nowhere."""
    with listening() as (address, server):
        urls = [
            f"s3://bucket/1.png?endpoint_url=http://{address}",
            f"s3://bucket/1.png#endpoint_url=http://{address}",
            f"s3://{address}/1.png",
            f"s3://bucket@{address}/1.png",
            f"s3://bucket/http://{address}/1.png",
            f"s3a://bucket/../../{address}/1.png",
            f"s3://arn:aws:s3:{address}:123456789012:accesspoint/a/1.png",
            f"s3://bucket%2F@{address}%2F/1.png",
        ]
        Path("list.jsonl").write_text("\n".join(json.dumps({"path": url}) for url in urls))
        assert run_hosted("list.jsonl") == 3
        assert all(row["error"].startswith("SourceError: ") for row in read_manifest())
        assert len(read_manifest()) == len(urls)
        with pytest.raises(BlockingIOError):
            server.accept()
