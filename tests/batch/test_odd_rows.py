"""Every kind of unusable row: each becomes a row with an error."""

import json
import os
from pathlib import Path

import pytest

from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.source.read import MAX_SOURCE_BYTES
from tests.batch.runs import read_manifest, run, run_hosted

LINES = {
    '{"n": 1}': "SourceError: Row 1 of 'list.jsonl' has no path.",
    '{"path": ': "InvalidRequestError: Line 2 of 'list.jsonl' is not a JSON object.",
    "[1]": "InvalidRequestError: Line 3 of 'list.jsonl' is not a JSON object.",
    '{"path": {}}': "SourceError: Row 4 of 'list.jsonl' has no path.",
    '{"path": "a\\u0000b.png"}': "cannot be read; check the path.",
    '{"path": "\\ud800.png"}': "SourceError: path contains a character that file names cannot",
    '{"path": "\\udcff.png"}': "SourceError: There is no file",
    json.dumps({"path": "y" * 5000}): "cannot be read; check the path.",
    '{"path": "empty.png"}': "SourceError: The source is empty; pass an image file.",
    '{"path": "photos"}': "SourceError: 'photos' is a folder; pass the path of an image.",
    '{"path": "pipe.png"}': "SourceError: 'pipe.png' is not a regular file",
    '{"path": "/dev/zero"}': "SourceError: 'zero' is not a regular file",
    '{"path": "dangling.png"}': "SourceError: There is no file 'dangling.png'",
    '{"path": "loop.png"}': "SourceError: 'loop.png' cannot be read",
    '{"path": "huge.png"}': "SourceError: The source exceeds the limit of 67,108,864 bytes",
    '{"path": "photos/1.png", "n": 0}': "n must be a whole number from 1 to 10, got 0.",
    '{"path": "photos/1.png", "n": 1e400}': "n must be a whole number from 1 to 10, got inf.",
    '{"path": "photos/1.png", "size": []}': "size must be one of",
    '{"path": "photos/1.png", "seed": -1}': "seed must be a whole number from 0",
    '{"path": "photos/1.png", "strength": 7}': "strength must be a number from 0 to 1, got 7.",
}
URLS = {
    "s3:/kept/1.png": "SourceError: There is no file '1.png'; check the path.",
    "://1.png": "SourceError: There is no file '1.png'; check the path.",
    "s3://me:hunter2@kept/1.png": "SourceError: The URL of the source contains a password",
    "file://host/1.png": "SourceError: There is no file '1.png'",
    "memory://1.png": "SourceError: There is no file '1.png'; check the URL.",
    "unheard-of://kept/1.png": "got the kind 'unheard-of'.",
    "http://127.0.0.1:1/1.png": "not an http URL. Download the files first.",
    "webhdfs://127.0.0.1:1/1.png": "got the kind 'webhdfs'.",
    "zip::http://127.0.0.1:1/1.zip": "must be the URL of one file system",
    "ftp://127.0.0.1:1/1.png": "The server 'ftp://127.0.0.1:1' is not allowed",
    "ftp://127.0.0.1:bad/1?.png": "is not allowed, because only a row names it.",
    "ftp://[::1/1.png": "SourceError",
}
UNINSTALLED = {
    "gs://kept/1.png": "'gs://' as path needs the package 'gcsfs', which is not installed. "
    "Run: pip install 'gcsfs'",
    "abfs://kept/1.png": "Run: pip install 'adlfs'",
    "smb://nas/kept/1.png": "Run: pip install 'smbprotocol'",
}


def write_odd_rows() -> dict[str, str]:
    """Write a manifest of all odd rows and a good one, and return the expected errors by line."""
    photos = Path("photos").iterdir()
    Path("empty.png").touch()
    os.mkfifo("pipe.png")
    Path("dangling.png").symlink_to("none")
    Path("loop.png").symlink_to("loop.png")
    with open("huge.png", "wb") as file:
        file.truncate(MAX_SOURCE_BYTES + 1)
    url_lines = {json.dumps({"path": url}): error for url, error in {**URLS, **UNINSTALLED}.items()}
    errors = {**LINES, **url_lines}
    Path("list.jsonl").write_text("\n".join([*errors, json.dumps({"path": str(min(photos))})]))
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("run_batch", [run, run_hosted])
def test_odd_rows_do_not_end_a_run(run_batch: object) -> None:
    """An unusable row becomes a row with an error, and the good one is made."""
    errors = write_odd_rows()
    assert callable(run_batch)
    assert run_batch("list.jsonl", "--jsonl", "--allow-storage", "smb://nas") == 3
    *rows, good_row = read_manifest()
    assert good_row["error"] is None
    assert len(rows) == len(errors)
    for row, (line, error) in zip(rows, errors.items(), strict=True):
        assert error in row["error"], line
    assert "hunter2" not in Path("out/manifest.jsonl").read_text()


@pytest.mark.parametrize("url", UNINSTALLED)
def test_table_may_name_missing_packages(url: str) -> None:
    """A URL that needs a missing package fails only its own row of a table."""
    batch = VariationBatch("out", engine="instant", size="256x256", allow_storage=["smb"])
    rows = batch({"path": [url, "photos/0.png"]})
    assert rows["error"][1] is None
    assert rows["error"][0].startswith("MissingExtraError: ")
    assert UNINSTALLED[url] in rows["error"][0]


def test_settings_of_the_run_still_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing package for the outputs, or for an input of the command, ends the run early."""
    assert run_hosted("photos", out="gs://kept/out") == 1
    assert "Run: pip install 'gcsfs'" in capsys.readouterr().err
    assert run_hosted("gs://kept/photos") == 1
    assert "Run: pip install 'gcsfs'" in capsys.readouterr().err
    assert run_hosted("photos", "--allow-storage", "https") == 2
    assert "--allow-storage cannot contain 'https'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_named_server_is_allowed_in_rows() -> None:
    """Rows may name only the server of an input or of the outputs."""
    Path("list.csv").write_text("path\nftp://127.0.0.1:1/1.png\nftp://127.0.0.1:2/1.png\n")
    assert run_hosted("list.csv", "--allow-storage", "ftp://127.0.0.1:1") == 3
    allowed_row, refused_row = read_manifest()
    assert "The ftp storage cannot be opened" in allowed_row["error"]
    assert "'ftp://127.0.0.1:2' is not allowed" in refused_row["error"]
    # Splitting this URL into its parts fails.
    Path("list.csv").write_text("path\nftp://127.0.0.1:bad/1?.png\nphotos/0.png\n")
    assert run_hosted("list.csv", "--allow-storage", "ftp") == 3
    bad_row, good_row = read_manifest()
    assert "The ftp storage cannot be opened" in bad_row["error"]
    assert good_row["error"] is None
