"""`Inputs`: the sources of a bulk run, from files, folders, globs and manifests, in a fixed order.

Each of them may be named by a URL of any file system that fsspec knows. Nothing is kept: what is
named is walked anew each time, so memory does not grow with the number of sources, but with that of
the names in a single folder, which are sorted.
"""

import glob
import os
import posixpath
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_image_variation.batch.manifest_rows import (
    MANIFESTS,
    OPTIONAL,
    manifest_rows,
    suffix,
)
from langchain_image_variation.batch.stored_inputs import StoredInputs
from langchain_image_variation.batch.variation_batch import PICTURES
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    OutputError,
    SourceError,
    shown,
)
from langchain_image_variation.files.file_system import FileSystem, is_url
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.stored_outputs import OutputStorage

__all__ = ["GALLERY", "SUFFIXES", "Entry", "Inputs"]

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Files of a folder that are taken; a file that is named itself may have any other."""

_PACKED = {".bz2", ".gz", ".xz", ".zip", ".zst"}

GALLERY = "gallery"
"""The folder below the output folder that holds the pages."""


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
    is a JSON Lines, CSV or Parquet file; its paths are relative to its own folder, or URLs.

    Args:
        named: Paths or URLs of files, folders and manifests, and globs.
        outputs: Where the results go.
        column: The column of a manifest that holds the paths.
        storage_options: Passed to the file systems of URLs, as fsspec's own.

    Raises:
        SourceError: If one does not exist or matches nothing, or a manifest has no such column.
        InvalidRequestError: If one is a folder of the results themselves, or a URL of no known kind
            or with a password.
        MissingExtraError: If there is a Parquet file, and pyarrow is not installed, or a URL, and a
            package for its kind is not.
    """

    def __init__(
        self,
        named: Sequence[str],
        *,
        outputs: Outputs,
        column: str = "path",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._column = column
        self._results: list[Path] = []
        stored: list[FileSystem] = []
        if isinstance(outputs, OutputFolder):
            self._results = [outputs.path / name for name in (PICTURES, GALLERY)]
        elif isinstance(outputs, OutputStorage):
            stored = [outputs.subfolder(name) for name in (PICTURES, GALLERY)]
        self._fetched = _Fetched(storage_options or {})
        self._named: list[str | StoredInputs] = []
        for name in named:
            given: str | StoredInputs = name
            if is_url(name):
                given = StoredInputs(name, storage_options or {}, stored)
                given = given.local or given
            self._check(given)
            self._named.append(given)

    def __iter__(self) -> Iterator[Entry]:
        for name in self._named:
            if isinstance(name, StoredInputs):
                yield from self._stored(name)
            elif os.path.isdir(name):
                yield from self._below(name)
            elif os.path.lexists(name):
                yield from self._file(name)
            else:
                for match in sorted(_matches(name)):
                    yield from self._file(match)

    def count(self) -> int:
        """Return how many there are, by walking all of them."""
        return sum(1 for _ in self)

    def _check(self, name: str | StoredInputs) -> None:
        if isinstance(name, StoredInputs):
            if not name.is_folder and (url := next(iter(name), None)) is not None:
                self._check_manifest(str(url))
            return
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
        else:
            self._check_manifest(name)

    def _check_manifest(self, name: str) -> None:
        packed, kind = os.path.splitext(name)
        if kind.lower() in _PACKED and suffix(packed) in MANIFESTS:
            raise SourceError(f"{Path(name).name[:80]!r} is packed; unpack it first.")
        if suffix(name) not in MANIFESTS:
            return
        first = next(self._rows(name), None)
        if first is not None and isinstance(first, dict) and self._column not in first:
            raise SourceError(
                f"{Path(name).name[:80]!r} has no column {shown(self._column)}; name the one that "
                "holds the paths with --column."
            )

    def _stored(self, named: StoredInputs) -> Iterator[Entry]:
        for url in named:
            if isinstance(url, ImageVariationError):
                yield Entry({}, url)
            elif not named.is_folder:
                yield from self._file(url)
            elif suffix(url) in SUFFIXES:
                yield Entry({"path": url})

    def _file(self, name: str) -> Iterator[Entry]:
        if suffix(name) not in MANIFESTS:
            yield Entry({"path": name})
            return
        for number, row in enumerate(self._rows(name), start=1):
            if isinstance(row, ImageVariationError):
                yield Entry({}, row)
                continue
            path = row.get(self._column)
            if not isinstance(path, str | bytes) or not path:
                short = Path(name).name[:80]
                yield Entry({}, SourceError(f"Row {number} of {short!r} has no path."))
                continue
            path = _beside(name, os.fsdecode(path))
            yield Entry({"path": path, **{key: row[key] for key in OPTIONAL if key in row}})

    def _rows(self, name: str) -> Iterator[dict[str, object] | ImageVariationError]:
        return manifest_rows(self._fetched.path(name), self._column, name=Path(name).name)

    def _below(self, folder: str) -> Iterator[Entry]:
        names: list[bytes] = []
        folders: set[bytes] = set()
        try:
            # A million names fit into the memory, and little more of each does.
            with os.scandir(folder) as found:
                for entry in found:
                    name = os.fsencode(entry.name)
                    if name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.add(name)
                    elif suffix(entry.name) not in SUFFIXES or not _is_meant(entry):
                        continue
                    names.append(name)
        except OSError as error:
            short = os.path.basename(folder)[:80]
            problem = SourceError(f"The folder {short!r} cannot be read: {error.strerror}.")
            yield Entry({"path": folder}, problem)
            return
        names.sort()
        for name in names:
            path = os.path.join(folder, os.fsdecode(name))
            if name not in folders:
                yield Entry({"path": path})
            elif not self._is_result(path):
                yield from self._below(path)

    def _is_result(self, folder: str) -> bool:
        try:
            return any(own.exists() and own.samefile(folder) for own in self._results)
        except OSError:
            return False


def _is_meant(entry: os.DirEntry[str]) -> bool:
    """Say whether a picture's name is that of a file, or of a link, which may lead nowhere."""
    return entry.is_symlink() or entry.is_file()


def _matches(pattern: str) -> Iterator[str]:
    """Yield the files that a glob matches; as for folders, "**" follows no links to folders."""
    fixed = pattern.partition("**")[0].count(os.sep) if "**" in pattern else None
    for path in glob.iglob(pattern, recursive=True):
        if not os.path.isdir(path) and (fixed is None or not _is_linked(path, fixed)):
            yield path


def _is_linked(path: str, fixed: int) -> bool:
    """Say whether a path leads through a link to a folder, but for its first parts."""
    parts = path.split(os.sep)
    folders = (os.sep.join(parts[:end]) for end in range(fixed + 1, len(parts)))
    return any(os.path.islink(folder) for folder in folders)


class _Fetched:
    """Manifests that are elsewhere, fetched when they are first read, and kept as they then were.

    Args:
        options: Passed to the file systems of URLs.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._folder: str | None = None
        self._paths: dict[str, str] = {}

    def path(self, name: str) -> str:
        """Return the path of this machine of a manifest.

        Raises:
            SourceError: If it cannot be fetched.
        """
        if not is_url(name):
            return name
        if name not in self._paths:
            if self._folder is None:
                self._folder = tempfile.mkdtemp()
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            path = os.path.join(self._folder, f"{len(self._paths)}{suffix(name)}")
            short = Path(name).name[:80]
            try:
                at = FileSystem(name, self._options, param="path")
                with at.translate_errors(
                    f"cannot give {short!r} now; try again, or check its rights"
                ):
                    if not at.download("", path):
                        raise SourceError(f"There is no file {short!r}; check the URL.")
            except OutputError as error:
                raise SourceError(error.message) from None
            self._paths[name] = path
        return self._paths[name]


def _beside(manifest: str, path: str) -> str:
    """Return a path that a manifest names, which is relative to the manifest's folder."""
    if is_url(path):
        return path
    if not is_url(manifest):
        return os.path.join(os.path.dirname(manifest), path)
    if os.path.isabs(path):
        return path
    kind, mark, place = manifest.partition("://")
    beside = f"{place.rpartition('/')[0]}/{path}"
    if {".", ".."} & set(path.split("/")):
        # To an object store these are names like any other.
        beside = posixpath.normpath(beside)
    return kind + mark + beside
