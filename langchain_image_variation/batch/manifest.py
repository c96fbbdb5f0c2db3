"""Manifests: the files that list the sources of a batch, and the one that lists its results.

A list of sources is a CSV, JSON Lines or Parquet file with a column of paths. The results of a
batch are in `manifest.parquet` and `manifest.jsonl`, with one row per image. The sources that
failed are also in `failed.jsonl`, which can serve as a list of sources for another run.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import IO, Any

from langchain_image_variation.batch.job import OPTIONAL_COLUMNS
from langchain_image_variation.batch.rows import COLUMNS, OutputRow
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    SourceError,
    excerpt,
)
from langchain_image_variation.files.outputs import Outputs

__all__ = [
    "FAILED_SOURCES",
    "JSON_LINES",
    "MANIFEST_SUFFIXES",
    "MAX_LINE_LENGTH",
    "PARQUET",
    "parquet_is_available",
    "read_manifest",
    "suffix",
    "write_failed_sources",
    "write_manifest",
]

PARQUET = "manifest.parquet"
JSON_LINES = "manifest.jsonl"
FAILED_SOURCES = "failed.jsonl"

MANIFEST_SUFFIXES = {".csv", ".jsonl", ".ndjson", ".parquet"}
"""Suffixes of files that list sources."""

MAX_LINE_LENGTH = 1024 * 1024
"""The maximum number of characters in a line of a manifest."""

_ROWS_PER_GROUP = 1024
"""How many rows of a Parquet file are in memory at once."""

_PARQUET_TYPES = {"index": "int64", "seed": "int64", "milliseconds": "float64"}
"""The types of columns that are not strings."""


def suffix(name: str) -> str:
    """Return the suffix of a file name, in lower case."""
    return os.path.splitext(name)[1].lower()


def parquet_is_available() -> bool:
    """Return whether pyarrow is installed, which Parquet files need."""
    try:
        import pyarrow  # noqa: F401  # only to see whether it is there
    except ImportError:
        return False
    return True


def write_manifest(name: str, rows: Iterable[OutputRow], outputs: Outputs) -> None:
    """Write the results of a batch, atomically and row by row.

    Args:
        name: `PARQUET` or `JSON_LINES`.
        rows: The rows, with `COLUMNS`.
        outputs: Where to write the file.

    Raises:
        MissingExtraError: If `name` is `PARQUET` and pyarrow is not installed.
        OutputError: If the file cannot be written.
    """
    with outputs.open_for_writing(name) as file:
        (_write_parquet if name == PARQUET else _write_json_lines)(rows, file)


def write_failed_sources(rows: Iterable[Mapping[str, object]], outputs: Outputs) -> None:
    """Write the sources that failed as a list for another run, or remove an earlier list.

    Args:
        rows: The rows of the sources, with `error`.
        outputs: Where to write the file.

    Raises:
        OutputError: If the file cannot be written or removed.
    """
    row_iterator = iter(rows)
    first_row = next(row_iterator, None)
    if first_row is None:
        outputs.remove(FAILED_SOURCES)
        return
    with outputs.open_for_writing(FAILED_SOURCES) as file:
        _write_json_lines(chain([first_row], row_iterator), file)


def _write_json_lines(rows: Iterable[Mapping[str, object]], file: IO[bytes]) -> None:
    for row in rows:
        file.write(json.dumps(row).encode() + b"\n")


def _write_parquet(rows: Iterable[OutputRow], file: IO[bytes]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package(
            f"Writing {PARQUET}", "pyarrow", "langchain-image-variation[batch]"
        ) from None
    schema = pyarrow.schema(
        [(name, pyarrow.type_for_alias(_PARQUET_TYPES.get(name, "string"))) for name in COLUMNS]
    )
    row_iterator = iter(rows)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(row_iterator, _ROWS_PER_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def read_manifest(
    path: str, column: str, *, name: str
) -> Iterator[dict[str, object] | ImageVariationError]:
    """Yield the rows of a list of sources. A row that cannot be read is yielded as an error.

    Args:
        path: The local path of the file. Its suffix determines the format.
        column: The column that holds the paths. A Parquet file without it yields one empty row.
        name: The name of the file in error messages.

    Raises:
        SourceError: If the file cannot be read, or has two columns of the same name.
        MissingExtraError: If it is a Parquet file, and pyarrow is not installed.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # A pipe could be read only once, but a run reads its manifests several times.
        raise SourceError(f"{name!r} is not a regular file; write the manifest to a regular file.")
    try:
        if suffix(path) == ".parquet":
            yield from _read_parquet(path, column, name)
        elif suffix(path) == ".csv":
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                yield from _read_csv(file, column, name)
        else:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _read_json_lines(file, name)
    except OSError as error:
        raise SourceError(f"{name!r} cannot be read: {error.strerror or 'corrupt file'}.") from None


def _read_parquet(path: str, column: str, name: str) -> Iterator[dict[str, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package(
            f"Reading {name!r}", "pyarrow", "langchain-image-variation[batch]"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_duplicates(names, column, name)
            columns = [key for key in (column, *OPTIONAL_COLUMNS) if key in names]
            if column not in columns:
                yield {}
                return
            for group in file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=columns):
                yield from group.to_pylist()
    except pyarrow.ArrowException:
        raise SourceError(f"{name!r} is not a valid Parquet file.") from None


def _read_csv(
    file: IO[str], column: str, name: str
) -> Iterator[dict[str, object] | ImageVariationError]:
    lines = csv.reader(_read_lines(file), strict=True)
    header: list[str] | None = None
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error:
            yield _line_error(lines.line_num, name, "is not valid CSV")
            continue
        if header is None:
            _check_duplicates(values, column, name)
            header = values
        elif len(values) > len(header):
            yield _line_error(lines.line_num, name, "has more values than there are columns")
        elif values:
            yield dict(zip(header, values, strict=False))


def _check_duplicates(names: Sequence[str], column: str, name: str) -> None:
    for key in (column, *OPTIONAL_COLUMNS):
        if names.count(key) > 1:
            raise SourceError(f"{name!r} has more than one column {excerpt(key)}; rename one.")


def _read_json_lines(file: IO[str], name: str) -> Iterator[dict[str, object] | ImageVariationError]:
    for number, line in enumerate(_read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            content: Any = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, Mapping):
            yield dict(content)
        else:
            yield _line_error(number, name, "is not a JSON object")


def _read_lines(file: IO[str]) -> Iterable[str]:
    """Yield the lines of a file, cut to `MAX_LINE_LENGTH`."""
    while line := file.readline(MAX_LINE_LENGTH):
        yield line
        while len(line) == MAX_LINE_LENGTH and not line.endswith("\n"):
            line = file.readline(MAX_LINE_LENGTH)


def _line_error(number: int, name: str, problem: str) -> ImageVariationError:
    return InvalidRequestError(f"Line {number} of {name!r} {problem}.")
