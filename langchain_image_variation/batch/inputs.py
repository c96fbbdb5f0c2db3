"""`Inputs`: the sources of a batch, from files, folders, globs, manifests and URLs.

The order is the same each time. Nothing is kept between iterations, so memory does not grow with
the number of sources. It grows only with the number of names in the largest folder, which are
sorted.
"""

import glob
import os
import posixpath
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_image_variation.batch.folders import GALLERY_DIR, IMAGES_DIR
from langchain_image_variation.batch.job import OPTIONAL_COLUMNS
from langchain_image_variation.batch.manifest import MANIFEST_SUFFIXES, read_manifest, suffix
from langchain_image_variation.batch.stored_inputs import StoredInputs
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    OutputError,
    SourceError,
    excerpt,
)
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.shown_names import shown_name, shown_path
from langchain_image_variation.files.storage_policy import DEFAULT_POLICY, StoragePolicy
from langchain_image_variation.files.storage_urls import is_url
from langchain_image_variation.files.stored_outputs import StoredOutputs
from langchain_image_variation.files.temporary_folder import make_temporary_folder
from langchain_image_variation.images.formats import SUFFIXES

__all__ = ["Input", "Inputs"]

_ARCHIVE_SUFFIXES = {".bz2", ".gz", ".xz", ".zip", ".zst"}


@dataclass(frozen=True, slots=True)
class Input:
    """One source."""

    row: dict[str, object]
    """Its `path`, and the `n`, `size`, `seed` and `strength` of a manifest."""
    error: ImageVariationError | None = None
    """Why the source cannot be used, such as an invalid line of a manifest."""


class Inputs:
    """All sources of a batch, in the same order each time.

    A folder stands for the images in it and its subfolders, sorted by name. Hidden files, links to
    folders and the results of the batch itself are skipped. A path that does not exist is used as a
    glob. A manifest is a JSON Lines, CSV or Parquet file. Its paths are URLs or relative to its own
    folder.

    Args:
        paths: Paths or URLs of files, folders and manifests, and globs.
        outputs: Where the batch writes its results.
        column: The column of a manifest that holds the paths.
        storage_options: Passed to the file systems of URLs, like fsspec's `storage_options`.
        policy: Which stores URLs may name.

    Raises:
        SourceError: If a path does not exist or matches nothing, or a manifest has no such column.
        InvalidRequestError: If a path is the folder of the results, or a URL of a kind that is not
            allowed or with a password.
        MissingExtraError: If pyarrow, for a Parquet file, or a package for a URL is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        outputs: Outputs,
        column: str = "path",
        storage_options: Mapping[str, Any] | None = None,
        policy: StoragePolicy = DEFAULT_POLICY,
    ) -> None:
        self._column = column
        self._result_folders: list[Path] = []
        stored_result_folders: list[FileSystem] = []
        if isinstance(outputs, OutputFolder):
            self._result_folders = [outputs.path / name for name in (IMAGES_DIR, GALLERY_DIR)]
        elif isinstance(outputs, StoredOutputs):
            stored_result_folders = [outputs.subfolder(name) for name in (IMAGES_DIR, GALLERY_DIR)]
        self._downloads = _Downloads(storage_options or {}, policy)
        self._paths: list[str | StoredInputs] = []
        for path in paths:
            local_or_stored: str | StoredInputs = path
            if is_url(path):
                stored_inputs = StoredInputs(
                    path, storage_options or {}, stored_result_folders, policy
                )
                local_or_stored = stored_inputs.local_path or stored_inputs
            self._check(local_or_stored)
            self._paths.append(local_or_stored)

    def __iter__(self) -> Iterator[Input]:
        for path in self._paths:
            if isinstance(path, StoredInputs):
                yield from self._list_storage(path)
            elif os.path.isdir(path):
                yield from self._list_folder(path)
            elif os.path.lexists(path):
                yield from self._list_file(path)
            else:
                for match in sorted(_glob(path)):
                    yield from self._list_file(match)

    def count(self) -> int:
        """Return the number of sources, by iterating over them."""
        return sum(1 for _ in self)

    def _check(self, path: str | StoredInputs) -> None:
        if isinstance(path, StoredInputs):
            if not path.is_folder and (url := next(iter(path), None)) is not None:
                self._check_manifest(str(url))
            return
        try:
            is_folder, exists = os.path.isdir(path), os.path.lexists(path)
        except ValueError:
            is_folder = exists = False
        if is_folder:
            real_path = Path(os.path.realpath(path))
            if any(
                real_path.is_relative_to(os.path.realpath(folder))
                for folder in self._result_folders
            ):
                raise InvalidRequestError(
                    "The source folder contains this batch's own results. To make variations of "
                    "them, choose another output folder with --output-dir.",
                    param="output_dir",
                )
        elif not exists:
            if not glob.has_magic(path) or next(glob.iglob(path, recursive=True), None) is None:
                what = "file that matches" if glob.has_magic(path) else "file or folder"
                raise SourceError(f"There is no {what} {shown_path(path)!r}; check the path.")
        else:
            self._check_manifest(path)

    def _check_manifest(self, path: str) -> None:
        stem, last_suffix = os.path.splitext(path)
        if last_suffix.lower() in _ARCHIVE_SUFFIXES and suffix(stem) in MANIFEST_SUFFIXES:
            raise SourceError(f"{shown_path(path)!r} is compressed; decompress it first.")
        if suffix(path) not in MANIFEST_SUFFIXES:
            return
        has_rows = False
        # A line of JSON Lines or a short row of CSV may have no path.
        for row in self._read_manifest(path):
            if isinstance(row, dict):
                if self._column in row:
                    return
                has_rows = True
        if has_rows:
            raise SourceError(
                f"{shown_path(path)!r} has no column {excerpt(self._column)}; name the column "
                "of paths with --column."
            )

    def _list_storage(self, stored_inputs: StoredInputs) -> Iterator[Input]:
        for url in stored_inputs:
            if isinstance(url, ImageVariationError):
                yield Input({}, url)
            elif not stored_inputs.is_folder:
                yield from self._list_file(url)
            elif suffix(url) in SUFFIXES:
                yield Input({"path": url})

    def _list_file(self, path: str) -> Iterator[Input]:
        if suffix(path) not in MANIFEST_SUFFIXES:
            yield Input({"path": path})
            return
        for number, row in enumerate(self._read_manifest(path), start=1):
            if isinstance(row, ImageVariationError):
                yield Input({}, row)
                continue
            source = row.get(self._column)
            if not isinstance(source, str | bytes) or not source:
                yield Input({}, SourceError(f"Row {number} of {shown_name(path)!r} has no path."))
                continue
            source = _resolve(path, os.fsdecode(source))
            options = {key: row[key] for key in OPTIONAL_COLUMNS if key in row}
            yield Input({"path": source, **options})

    def _read_manifest(self, path: str) -> Iterator[dict[str, object] | ImageVariationError]:
        return read_manifest(self._downloads.local_path(path), self._column, name=shown_name(path))

    def _list_folder(self, folder: str) -> Iterator[Input]:
        names: list[bytes] = []
        subfolders: set[bytes] = set()
        try:
            # Only names are kept, so that a folder of a million files fits into memory.
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        subfolders.add(name)
                    elif suffix(entry.name) not in SUFFIXES or not _is_file_or_link(entry):
                        continue
                    names.append(name)
        except OSError as error:
            message = f"The folder {shown_name(folder)!r} cannot be read: {error.strerror}."
            yield Input({"path": folder}, SourceError(message))
            return
        names.sort()
        for name in names:
            path = os.path.join(folder, os.fsdecode(name))
            if name not in subfolders:
                yield Input({"path": path})
            elif not self._is_result_folder(path):
                yield from self._list_folder(path)

    def _is_result_folder(self, folder: str) -> bool:
        try:
            return any(
                results.exists() and results.samefile(folder) for results in self._result_folders
            )
        except OSError:
            return False


def _is_file_or_link(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link. A dead link is reported when it is read."""
    return entry.is_symlink() or entry.is_file()


def _glob(pattern: str) -> Iterator[str]:
    """Yield the files that match a glob. Like a folder, "**" does not follow links to folders."""
    fixed_parts = pattern.partition("**")[0].count(os.sep) if "**" in pattern else None
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            continue
        if fixed_parts is None or not _has_linked_folder(path, fixed_parts):
            yield path


def _has_linked_folder(path: str, fixed_parts: int) -> bool:
    """Return whether a path contains a link to a folder after its first parts."""
    parts = path.split(os.sep)
    folders = (os.sep.join(parts[:end]) for end in range(fixed_parts + 1, len(parts)))
    return any(os.path.islink(folder) for folder in folders)


class _Downloads:
    """Local copies of manifests at URLs, each made when it is first read.

    Args:
        storage_options: Passed to the file systems of URLs.
        policy: Which stores the URLs may name.
    """

    def __init__(self, storage_options: Mapping[str, Any], policy: StoragePolicy) -> None:
        self._storage_options = storage_options
        self._policy = policy
        self._folder: str | None = None
        self._paths: dict[str, str] = {}

    def local_path(self, path: str) -> str:
        """Return the local path of a manifest.

        Raises:
            SourceError: If the manifest cannot be downloaded.
            OutputError: If there is no place for temporary files.
        """
        if not is_url(path):
            return path
        if path not in self._paths:
            if self._folder is None:
                folder = make_temporary_folder("A manifest at a URL")
                weakref.finalize(self, folder.cleanup)
                self._folder = folder.name
            copy = os.path.join(self._folder, f"{len(self._paths)}{suffix(path)}")
            name = shown_name(path)
            try:
                file_system = FileSystem(
                    path, self._storage_options, param="path", policy=self._policy
                )
                with file_system.translate_read_errors(name):
                    if not file_system.download("", copy):
                        raise SourceError(f"There is no file {name!r}; check the URL.")
            except OutputError as error:
                raise SourceError(error.message) from None
            self._paths[path] = copy
        return self._paths[path]


def _resolve(manifest: str, path: str) -> str:
    """Return a path from a manifest. A relative path is relative to the manifest's folder."""
    if is_url(path):
        return path
    if not is_url(manifest):
        return os.path.join(os.path.dirname(manifest), path)
    if os.path.isabs(path):
        return path
    scheme, separator, location = manifest.partition("://")
    target = f"{location.rpartition('/')[0]}/{path}"
    if {".", ".."} & set(path.split("/")):
        # An object store would take "." and ".." as ordinary names.
        target = posixpath.normpath(target)
    return scheme + separator + target
