"""Sources that failed: the summary names them, and `failed.jsonl` lists them for another run."""

import json
import os
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_image_variation.batch.job import portable_row
from langchain_image_variation.batch.progress import MAX_NAMED_FAILURES
from langchain_image_variation.batch.variation_batch import VariationBatch
from pytest_image_variation.samples import square_png
from tests.batch.file_systems import declare_file_systems, shelf_path
from tests.batch.runs import read_manifest, run, run_hosted


def read_failed(out: str = "out") -> list[dict[str, Any]]:
    """Return the rows of the list of failed sources."""
    return [json.loads(line) for line in Path(out, "failed.jsonl").read_text().splitlines()]


def errors(out: str = "out") -> list[str]:
    """Return the errors in the manifest."""
    return [row["error"] for row in read_manifest(out) if row["error"] is not None]


def test_summary_names_failed_sources(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary names the first failed sources, counts the others, and counts all by kind."""
    for index in range(MAX_NAMED_FAILURES):
        (photos / f"a{index}\x1b[2J.png").touch()
    Path("list.csv").write_text("path,n\nnone.png,\nphotos/0.png,0\n")
    assert run_hosted("photos", "list.csv") == 3
    out, err = capsys.readouterr()
    assert out.splitlines() == ["out/manifest.parquet", "out/failed.jsonl"]
    summary, *names, rest = err.splitlines()
    assert summary == "5 made, 0 already there, 12 failed."
    assert sorted(names) == [
        f"  photos/a{index} [2J.png: The source is empty; pass an image file."
        for index in range(MAX_NAMED_FAILURES)
    ]
    assert rest == "  and 2 more. All failures by kind: SourceError 11, InvalidRequestError 1."


def test_few_failures_are_all_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to ten failed sources are all named. A very long path is cut from the left."""
    deep = photos.joinpath(*["d" * 50] * 3)
    deep.mkdir(parents=True)
    (deep / "empty.png").touch()
    assert run_hosted("photos") == 3
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith("  …")
    assert line.endswith("d/empty.png: The source is empty; pass an image file.")


def test_failed_sources_are_a_list(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of failed sources fails in the same way, and works once they are fixed."""
    (photos / "b\udcff.png").touch()
    lines = [
        '{"path": "photos/0.png", "n": "many"}',
        '{"path": "photos/8.png", "n": 2, "seed": 5, "size": "512x512", "strength": 0.25}',
        "not a row",
        '{"path": "s3://me:hunter2@kept/1.png"}',
        json.dumps({"path": "photos/1.png", "n": ["x" * 1000]}),
    ]
    Path("list.jsonl").write_text("\n".join(lines))
    assert run_hosted("photos", "list.jsonl") == 3
    failed = read_failed()
    assert [row["error"] for row in failed] == errors()
    assert [row["path"] for row in failed] == [
        f"{photos}/b\udcff.png",
        f"{photos}/0.png",
        f"{photos}/8.png",
        None,
        "s3://me:***@kept/1.png",
        f"{photos}/1.png",
    ]
    assert failed[2] == {
        **json.loads(lines[1]),
        "path": f"{photos}/8.png",
        "error": "SourceError: There is no file '8.png'; check the path.",
    }
    assert "hunter2" not in Path("out/failed.jsonl").read_text()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run_hosted("../out/failed.jsonl") == 3
    assert [row["path"] for row in read_failed()] == [row["path"] for row in failed]
    assert errors()[:3] == [row["error"] for row in failed][:3]
    for index, name in enumerate(("b\udcff.png", "8.png")):
        (photos / name).write_bytes(square_png(70 + index))
    assert run_hosted("../out/failed.jsonl", out="repaired") == 3
    made_rows = [row for row in read_manifest("repaired") if row["error"] is None]
    assert [row["size"] for row in made_rows] == ["256x256", "512x512", "512x512"]
    assert [row["seed"] for row in made_rows[1:]] == [5, 6]
    assert len(read_failed("repaired")) == 4


def test_failed_list_is_true_after_each_run(photos: Path) -> None:
    """A resumed run drops sources that now work from the list, and keeps those not reached."""
    for name in ("0.png", "3.png", "9.png"):
        (photos / name).write_text("not an image")
    assert run_hosted("photos", "--workers", "1") == 3
    first = [row["path"] for row in read_failed()]
    assert first == [f"{photos}/{name}" for name in ("0.png", "3.png", "9.png")]
    assert run_hosted("photos", "--max-failures", "1", "--workers", "1") == 3
    assert [row["path"] for row in read_failed()] == first
    (photos / "3.png").write_bytes(square_png(71))
    assert run_hosted("photos") == 3
    assert [row["path"] for row in read_failed()] == [first[0], first[2]]
    (photos / "0.png").unlink()
    (photos / "9.png").unlink()
    assert run_hosted("photos") == 0
    assert not Path("out/failed.jsonl").exists()


@pytest.mark.slow
def test_processes_report_failed_sources(photos: Path) -> None:
    """Worker processes report failed sources in the same way as concurrent calls."""
    (photos / "0.png").write_text("not an image")
    Path("list.csv").write_text("path,n,strength\nphotos/0.png,3,0.5\n")
    assert run("photos", "list.csv") == 3
    assert run_hosted("photos", "list.csv", out="other") == 3
    assert read_failed() == read_failed("other")
    assert read_failed()[1] | {"error": ""} == {
        "path": f"{photos}/0.png",
        "n": "3",
        "strength": "0.5",
        "error": "",
    }


def test_failed_list_is_written_at_a_url(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a URL, the list of failed sources is written and removed like the manifest."""
    declare_file_systems(tmp_path_factory.mktemp("shelf"), monkeypatch)
    (photos / "0.png").write_text("not an image")
    Path("list.csv").write_text("path\nphotos/0.png\nshelf://kept/gone.png\n")
    out = "shelf://kept/out"
    assert run_hosted("list.csv", out=out) == 3
    failed = read_failed(str(shelf_path(out)))
    assert [row["path"] for row in failed] == [f"{photos}/0.png", "shelf://kept/gone.png"]
    assert run_hosted(f"{out}/failed.jsonl") == 3
    assert read_failed() == failed
    (photos / "0.png").write_bytes(square_png(72))
    shelf_path("shelf://kept/gone.png").write_bytes(square_png(73))
    assert run_hosted("list.csv", out=out) == 0
    assert not shelf_path(f"{out}/failed.jsonl").exists()


def test_rows_of_tables_are_portable(tmp_path: Path) -> None:
    """A row of any table becomes JSON, with an absolute path and without missing values."""
    row = {"path": os.fsencode("a.png"), "n": np.int64(2), "seed": np.float64("nan"), "size": ""}
    assert portable_row({**row, "strength": Decimal("0.5"), "position": 3}) == {
        "path": f"{tmp_path}/a.png",
        "n": 2,
        "strength": "0.5",
    }
    assert portable_row({"seed": 10**30, "n": [1]}) == {
        "path": None,
        "n": "a value of type list",
        "seed": "a value of type int",
    }


def test_columns_of_a_table_are_unchanged() -> None:
    """A `VariationBatch` returns its documented columns, also for a failed source."""
    batch = pickle.loads(pickle.dumps(VariationBatch("out", engine="instant", size="256x256")))
    assert "source" not in batch({"path": ["none.png"]})
