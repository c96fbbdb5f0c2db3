import csv
import json
import os
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_image_variation.batch.inputs import Inputs
from langchain_image_variation.batch.manifest import MAX_LINE_LENGTH
from langchain_image_variation.exceptions import InvalidRequestError, SourceError
from langchain_image_variation.files.outputs import OutputFolder
from tests.batch.runs import read_manifest, run_hosted

NUMBERS = count()


def list_rows(*sources: str, out: str = "out", column: str = "path") -> list[dict[str, object]]:
    """Return the rows of inputs, none of which has an error."""
    inputs = Inputs(sources, outputs=OutputFolder(out), column=column)
    items = list(inputs)
    assert [item.error for item in items] == [None] * len(items)
    assert inputs.count() == len(items)
    return [item.row for item in items]


def paths(*sources: str) -> list[str]:
    """Return the paths of inputs, none of which has an error."""
    return [str(row["path"]) for row in list_rows(*sources)]


def test_folder_is_walked_in_order(photos: Path) -> None:
    """Inputs are a folder's images and those below it, but no hidden files, links or pipes."""
    for name in ("b/B.JPG", "b/a.webp", "a/z.tiff", "a/y.HEIC", "b/c.avif"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    for name in ("notes.txt", ".hidden.png", ".git/x.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    (photos / "loop").symlink_to(photos)
    (photos / "link.gif").symlink_to(photos / "0.png")
    (photos / "gone.gif").symlink_to(photos / "none.gif")
    os.mkfifo(photos / "pipe.png")
    names = [*(f"{index}.png" for index in range(5)), "a/y.HEIC", "a/z.tiff"]
    names += ["b/B.JPG", "b/a.webp", "b/c.avif"]
    assert paths("photos") == [f"photos/{name}" for name in (*names, "gone.gif", "link.gif")]
    assert paths("photos/b", "photos/0.png") == [
        "photos/b/B.JPG",
        "photos/b/a.webp",
        "photos/b/c.avif",
        "photos/0.png",
    ]


def test_results_inside_the_input_are_skipped(photos: Path) -> None:
    """A run does not make variations of the results that it wrote."""
    for name in ("out/images/ab/1.png", "out/gallery/thumbnails/1.jpg", "out/mine.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    (photos / "0.png").rename(photos / "out" / "0.png")
    rows = list_rows("photos", out="photos/out")
    assert [row["path"] for row in rows][-2:] == ["photos/out/0.png", "photos/out/mine.png"]
    assert len(rows) == 6
    assert len(list_rows("photos", out="elsewhere")) == 8
    with pytest.raises(InvalidRequestError, match="contains this batch's own results"):
        list_rows("photos/out/images/ab", out="photos/out")


def test_globs_are_expanded(photos: Path) -> None:
    """The matches of a glob are sorted, without folders, and an existing file of its name wins."""
    assert paths("photos/[12].png") == ["photos/1.png", "photos/2.png"]
    (photos / "[12].png").touch()
    assert paths("photos/[12].png") == ["photos/[12].png"]
    (photos / "deep").mkdir()
    (photos / "deep" / "9.png").touch()
    assert paths("photos/**/9*", "photos/d*") == ["photos/deep/9.png"]


BAD = [
    ("none.png", "There is no file or folder 'none.png'; check the path."),
    ("photos/none.png", "There is no file or folder 'photos/none.png'; check the path."),
    ("photos/x*.png", "There is no file that matches 'photos/x*.png'; check the path."),
    ("\0", "There is no file or folder"),
    ("bare.csv", "'bare.csv' has no column 'path'; name the column of paths with"),
    ("bare.jsonl", "'bare.jsonl' has no column 'path'"),
    ("bare.parquet", "'bare.parquet' has no column 'path'"),
    ("corrupt.parquet", "'corrupt.parquet' is not a valid Parquet file."),
]


@pytest.mark.parametrize(("name", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_unusable_input_is_refused(name: str, message: str) -> None:
    """A missing file or a manifest without paths is an error before anything is made."""
    Path("bare.csv").write_text("file\na.png\n")
    Path("bare.jsonl").write_text('{"file": "a.png"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"file": ["a.png"]}), "bare.parquet")
    Path("corrupt.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError) as caught:
        Inputs([name], outputs=OutputFolder("out"))
    assert caught.value.message.startswith(message)


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "n", "seed", "size", "strength"])
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))


def write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as Parquet."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


Write = Callable[[Path, Iterable[dict[str, Any]]], None]
WRITERS: dict[str, Write] = {
    "csv": write_csv,
    "jsonl": write_json_lines,
    "ndjson": write_json_lines,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_manifest_has_settings_for_each_source(kind: str) -> None:
    """Paths in a manifest are relative to it, and its other columns are ignored."""
    rows = [{"path": "0.png", "n": 2, "size": "512x512", "seed": 5, "strength": 0.5}]
    WRITERS[kind](Path("photos", f"list.{kind}"), [*rows, {"path": "/b.png"}])
    first, second = list_rows(f"photos/list.{kind}")
    assert first.pop("path") == "photos/0.png"
    assert {key: str(value) for key, value in first.items()} == {
        "n": "2",
        "size": "512x512",
        "seed": "5",
        "strength": "0.5",
    }
    assert second.pop("path") == "/b.png"
    assert not any(second.values())


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)


@pytest.mark.parametrize("kind", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(NAMES, min_size=1, max_size=5))
def test_manifest_may_contain_any_name(kind: str, tmp_path: Path, names: list[str]) -> None:
    """Names in a manifest may have line breaks, quotes, commas and all of Unicode."""
    manifest = tmp_path / f"{next(NUMBERS)}.{kind}"
    WRITERS[kind](manifest, [{"path": name} for name in names])
    rows = list_rows(str(manifest))
    assert [row["path"] for row in rows] == [os.path.join(tmp_path, name) for name in names]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_errors(suffix: str, tmp_path: Path, data: bytes) -> None:
    """A file that is not a manifest gives errors of the tree, and no other exception."""
    manifest = tmp_path / f"{next(NUMBERS)}.{suffix}"
    manifest.write_bytes((b"path\n" if suffix == "csv" else b'{"path": "a"}\n') + data)
    for item in Inputs([str(manifest)], outputs=OutputFolder("out")):
        assert item.error is None or item.error.message.startswith("Line ")


def test_bad_line_is_an_error_with_its_number() -> None:
    """A bad line is an error with its number, and the other lines are used."""
    bad_lines = [
        "[1]",
        "{",
        '{"path": "b.png"',
        "[" * 100_000,
        '{"path": "' + "x" * MAX_LINE_LENGTH + '"}',
    ]
    Path("list.jsonl").write_text("\n".join(['{"path": "a.png"}', *bad_lines, '{"path": "c.png"}']))
    items = list(Inputs(["list.jsonl"], outputs=OutputFolder("out")))
    assert [item.row.get("path") for item in (items[0], items[-1])] == ["a.png", "c.png"]
    assert [str(item.error) for item in items[1:-1]] == [
        f"Line {number} of 'list.jsonl' is not a JSON object." for number in range(2, 7)
    ]
    Path("list.csv").write_text('path,n\na.png,1\nb.png,1,2\nc"c.png,"x"y\nd.png,1\n')
    problems = [str(item.error) for item in Inputs(["list.csv"], outputs=OutputFolder("out"))]
    assert problems == [
        "None",
        "Line 3 of 'list.csv' has more values than there are columns.",
        "Line 4 of 'list.csv' is not valid CSV.",
        "None",
    ]


def test_column_of_paths_may_have_another_name() -> None:
    """The column of paths can be chosen, so a run's manifest can be the input of another."""
    Path("list.csv").write_text("output_path,path\na.png,b.png\n")
    assert list_rows("list.csv", column="output_path") == [{"path": "a.png"}]


@pytest.mark.slow
def test_large_manifest_needs_little_memory() -> None:
    """A manifest of 100,000 lines is read one line at a time."""
    Path("list.csv").write_text("path\n" + "".join(f"{n:07}.png\n" for n in range(100_000)))
    inputs = Inputs(["list.csv"], outputs=OutputFolder("out"))
    blocks = [sys.getallocatedblocks() for number, _ in enumerate(inputs) if number % 1000 == 999]
    assert len(blocks) == 100
    assert max(blocks) - blocks[0] < 1000


def test_deleted_folder_is_an_error(photos: Path) -> None:
    """A deleted folder is an error, and the sources after it are used."""
    (photos / "deep").mkdir()
    (photos / "deep" / "9.png").touch()
    (photos / "last.png").touch()
    iterator = iter(Inputs(["photos"], outputs=OutputFolder("out")))
    items = [next(iterator) for _ in range(5)]
    (photos / "deep" / "9.png").unlink()
    (photos / "deep").rmdir()
    items += iterator
    assert str(items[5].error) == "The folder 'deep' cannot be read: No such file or directory."
    assert items[6].row == {"path": "photos/last.png"}


def test_circular_links_do_not_end_a_walk(photos: Path) -> None:
    """A link to itself or to a parent folder is skipped or reported, and the walk goes on."""
    (photos / "a.png").symlink_to(photos / "b.png")
    (photos / "b.png").symlink_to(photos / "a.png")
    (photos / "self").symlink_to(photos)
    files = [f"photos/{name}.png" for name in ("0", "1", "2", "3", "4", "a", "b")]
    assert paths("photos") == files
    assert paths("photos/**") == files
    assert paths("photos/**/0.png") == files[:1]
    assert paths("photos/self/*.png") == [f.replace("photos", "photos/self") for f in files]
    assert run_hosted("photos", "--jsonl") == 3
    assert [row["error"] for row in read_manifest()[5:]] == [
        "SourceError: 'a.png' cannot be read; check the path.",
        "SourceError: 'b.png' cannot be read; check the path.",
    ]


def test_parquet_paths_may_be_bytes(photos: Path) -> None:
    """Paths that are bytes are relative to the folder of the manifest, like text."""
    table = pyarrow.table({"path": pyarrow.array([b"0.png"], pyarrow.binary())})
    pyarrow.parquet.write_table(table, photos / "list.parquet")
    assert paths("photos/list.parquet") == ["photos/0.png"]


def test_ambiguous_manifest_is_refused() -> None:
    """A manifest with a duplicate column, a compressed one and a pipe are refused."""
    Path("twice.csv").write_text("path,n,path\na,1,b\n")
    table = pyarrow.table([["a"], ["b"]], names=["path", "path"])
    pyarrow.parquet.write_table(table, "twice.parquet")
    Path("list.jsonl.gz").write_bytes(b"")
    os.mkfifo("pipe.csv")
    messages = {
        "twice.csv": "'twice.csv' has more than one column 'path'; rename one.",
        "twice.parquet": "'twice.parquet' has more than one column 'path'; rename one.",
        "list.jsonl.gz": "'list.jsonl.gz' is compressed; decompress it first.",
        "pipe.csv": "'pipe.csv' is not a regular file; write the manifest to a regular file.",
    }
    for name, message in messages.items():
        with pytest.raises(SourceError) as caught:
            Inputs([name], outputs=OutputFolder("out"))
        assert caught.value.message == message


def test_missing_path_names_its_row() -> None:
    """The error for a missing path has the number of its row and the manifest's name."""
    Path("list.jsonl").write_text('{"path": "a.png"}\n{"path": null}\n{"path": 3}\n{"n": 1}\n')
    items = [*Inputs(["list.jsonl"], outputs=OutputFolder("out"))]
    errors = [item.error and item.error.message for item in items]
    assert errors == [None, *(f"Row {n} of 'list.jsonl' has no path." for n in (2, 3, 4))]
