"""The rows of a manifest that lists sources: JSON Lines, CSV or Parquet."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    SourceError,
    shown,
)

__all__ = ["MANIFESTS", "MAX_LINE", "OPTIONAL", "manifest_rows", "suffix"]

MANIFESTS = {".csv", ".jsonl", ".ndjson", ".parquet"}
"""Files that list sources."""

MAX_LINE = 1024 * 1024
"""A line of a manifest may have at most this many characters."""

OPTIONAL = ("n", "size", "seed", "strength")
"""What a row may say besides its path."""

_BATCH = 1024


def suffix(name: str) -> str:
    """Return the suffix of a file's name, in small letters."""
    return os.path.splitext(name)[1].lower()


def manifest_rows(
    path: str, column: str, *, name: str
) -> Iterator[dict[str, object] | ImageVariationError]:
    """Yield the rows of a manifest, and an error in the place of one that cannot be read.

    Args:
        path: Its path on this machine; the suffix says what it is.
        column: The column that holds the paths; of a Parquet file without it, one empty row comes.
        name: What messages call it.

    Raises:
        SourceError: If it cannot be read, or names a column twice.
        MissingExtraError: If it is a Parquet file, and pyarrow is not installed.
    """
    short = name[:80]
    if os.path.exists(path) and not os.path.isfile(path):
        # It is read more than once.
        raise SourceError(f"{short!r} is no regular file; write the manifest to one.")
    try:
        if suffix(path) == ".parquet":
            yield from _parquet(path, column, short)
        elif suffix(path) == ".csv":
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                yield from _csv(file, column, short)
        else:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _json_lines(file, short)
    except OSError as error:
        raise SourceError(f"{short!r} cannot be read: {error.strerror or 'damaged'}.") from None


def _parquet(path: str, column: str, short: str) -> Iterator[dict[str, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package(
            f"Reading {short!r}", "pyarrow", "langchain-image-variation[batch]"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, column, short)
            wanted = [key for key in (column, *OPTIONAL) if key in file.schema_arrow.names]
            if column not in wanted:
                yield {}
                return
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except pyarrow.ArrowException:
        raise SourceError(f"{short!r} is no readable Parquet file.") from None


def _csv(
    file: IO[str], column: str, short: str
) -> Iterator[dict[str, object] | ImageVariationError]:
    lines = csv.reader(_lines(file), strict=True)
    header: list[str] | None = None
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error:
            yield _bad(lines.line_num, short, "is no CSV")
            continue
        if header is None:
            _check_names(values, column, short)
            header = values
        elif len(values) > len(header):
            yield _bad(lines.line_num, short, "has more fields than the first line has names")
        elif values:
            yield dict(zip(header, values, strict=False))


def _check_names(names: Sequence[str], column: str, short: str) -> None:
    for name in (column, *OPTIONAL):
        if names.count(name) > 1:
            raise SourceError(f"{short!r} has more than one column {shown(name)}; rename one.")


def _json_lines(file: IO[str], short: str) -> Iterator[dict[str, object] | ImageVariationError]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            content: Any = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, Mapping):
            yield dict(content)
        else:
            yield _bad(number, short, "is no JSON object")


def _lines(file: IO[str]) -> Iterable[str]:
    """Yield the lines of a file, of one that is too long only its beginning."""
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith("\n"):
            line = file.readline(MAX_LINE)


def _bad(number: int, short: str, what: str) -> ImageVariationError:
    return InvalidRequestError(f"Line {number} of {short!r} {what}.")
