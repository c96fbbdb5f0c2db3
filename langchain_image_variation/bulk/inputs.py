"""`Inputs`: the sources of a bulk run, from files, folders, globs and manifests, in a fixed order.

Nothing is kept: what is named is walked anew each time, so memory does not grow with the number of
sources, but with that of the names in a single folder, which are sorted.
"""

import csv
import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from langchain_image_variation.batch import PICTURES
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    SourceError,
    shown,
)

__all__ = ["GALLERY", "MANIFESTS", "MAX_LINE", "SUFFIXES", "Entry", "Inputs"]

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Files of a folder that are taken; a file that is named itself may have any other."""

MANIFESTS = {".csv", ".jsonl", ".ndjson", ".parquet"}
"""Files that list sources."""

MAX_LINE = 1024 * 1024
"""A line of a manifest may have at most this many characters."""

GALLERY = "gallery"
"""The folder below the output folder that holds the pages."""

_OPTIONAL = ("n", "size", "seed", "strength")
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One source."""

    row: dict[str, object]
    """Its `path`, and what a manifest says of `n`, `size`, `seed` and `strength`."""
    error: ImageVariationError | None = None
    """Why it cannot even be looked for."""


class Inputs:
    """All sources that a command names, in the same order each time.

    A folder stands for the pictures in it and below, by name; hidden names, links to folders and
    the results of the run itself are left out. What does not exist is taken as a glob. A manifest
    is a JSON Lines, CSV or Parquet file; its paths are relative to its own folder.

    Args:
        named: Paths of files, folders and manifests, and globs.
        output_dir: Where the results go.
        column: The column of a manifest that holds the paths.

    Raises:
        SourceError: If one does not exist or matches nothing, or a manifest has no such column.
        InvalidRequestError: If one is a folder of the results themselves.
        MissingExtraError: If there is a Parquet file, and pyarrow is not installed.
    """

    def __init__(
        self, named: Sequence[str], *, output_dir: str | os.PathLike[str], column: str = "path"
    ) -> None:
        self._named = list(named)
        self._column = column
        self._results = [Path(output_dir) / name for name in (PICTURES, GALLERY)]
        for name in self._named:
            self._check(name)

    def __iter__(self) -> Iterator[Entry]:
        for name in self._named:
            if os.path.isdir(name):
                yield from self._below(name)
            elif os.path.lexists(name):
                yield from self._file(name)
            else:
                matches = glob.iglob(name, recursive=True)
                for match in sorted(path for path in matches if not os.path.isdir(path)):
                    yield from self._file(match)

    def count(self) -> int:
        """Return how many there are, by walking all of them."""
        return sum(1 for _ in self)

    def _check(self, name: str) -> None:
        try:
            is_folder, is_there = os.path.isdir(name), os.path.lexists(name)
        except ValueError:
            is_folder = is_there = False
        if is_folder:
            top = os.path.realpath(name)
            if any(Path(top).is_relative_to(os.path.realpath(own)) for own in self._results):
                raise InvalidRequestError(
                    "The pictures of an earlier run are varied only into another folder; name one "
                    "with --output-dir.",
                    param="output_dir",
                )
        elif not is_there:
            if not glob.has_magic(name) or next(glob.iglob(name, recursive=True), None) is None:
                short = Path(name).name[:80]
                raise SourceError(f"There is no file or folder {short!r}; check the path.")
        elif _suffix(name) in MANIFESTS:
            first = next(_rows(name, self._column), None)
            if first is not None and isinstance(first, dict) and self._column not in first:
                raise SourceError(
                    f"{Path(name).name[:80]!r} has no column {shown(self._column)}; name the one "
                    "that holds the paths with --column."
                )

    def _file(self, name: str) -> Iterator[Entry]:
        if _suffix(name) not in MANIFESTS:
            yield Entry({"path": name})
            return
        folder = os.path.dirname(name)
        for row in _rows(name, self._column):
            if isinstance(row, ImageVariationError):
                yield Entry({}, row)
                continue
            path = row.get(self._column)
            if isinstance(path, str) and path:
                path = os.path.join(folder, path)
            yield Entry({"path": path, **{key: row[key] for key in _OPTIONAL if key in row}})

    def _below(self, folder: str) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(
                    (entry for entry in found if not entry.name.startswith(".")),
                    key=lambda entry: os.fsencode(entry.name),
                )
        except OSError as error:
            short = os.path.basename(folder)[:80]
            problem = SourceError(f"The folder {short!r} cannot be read: {error.strerror}.")
            yield Entry({"path": folder}, problem)
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not self._is_result(entry.path):
                    yield from self._below(entry.path)
            elif _suffix(entry.name) in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                yield Entry({"path": entry.path})

    def _is_result(self, folder: str) -> bool:
        try:
            return any(own.exists() and own.samefile(folder) for own in self._results)
        except OSError:
            return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _rows(name: str, column: str) -> Iterator[dict[str, object] | ImageVariationError]:
    """Yield the rows of a manifest, and an error in the place of one that cannot be read."""
    short = Path(name).name[:80]
    try:
        if _suffix(name) == ".parquet":
            yield from _parquet(name, column)
        elif _suffix(name) == ".csv":
            with open(name, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                yield from _csv(file, short)
        else:
            with open(name, encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _json_lines(file, short)
    except OSError as error:
        raise SourceError(f"{short!r} cannot be read: {error.strerror or 'damaged'}.") from None


def _parquet(name: str, column: str) -> Iterator[dict[str, object]]:
    short = Path(name).name[:80]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            f"Reading {short!r} needs the package 'pyarrow', which is not installed; run: pip "
            "install 'langchain-image-variation[batch]'"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(name) as file:
            wanted = [key for key in (column, *_OPTIONAL) if key in file.schema_arrow.names]
            if column not in wanted:
                yield {}
                return
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except pyarrow.ArrowException:
        raise SourceError(f"{short!r} is no readable Parquet file.") from None


def _csv(file: IO[str], short: str) -> Iterator[dict[str, object] | ImageVariationError]:
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
            header = values
        elif len(values) > len(header):
            yield _bad(lines.line_num, short, "has more fields than the first line has names")
        elif values:
            yield dict(zip(header, values, strict=False))


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
