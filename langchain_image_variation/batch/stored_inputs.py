"""`StoredInputs`: the files that a URL refers to: one file, a folder and its subfolders, or a glob.

Like a local folder, a folder at a URL is listed each time, and only its names are kept in memory.
The matches of a glob are found once and kept.
"""

import glob
import os
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    OutputError,
    SourceError,
)
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.shown_names import shown_name
from langchain_image_variation.files.storage_policy import StoragePolicy
from langchain_image_variation.files.storage_urls import has_password, strip_trailing_slashes

__all__ = ["StoredInputs"]


class StoredInputs:
    """The files that a URL refers to. Iterating yields URLs, in the same order each time.

    Args:
        url: The URL.
        options: Passed to the file system, like fsspec's `storage_options`.
        result_folders: The folders of the batch's own results, which are skipped.
        policy: Which stores the URL may name.

    Raises:
        SourceError: If nothing exists at the URL, or the file system cannot be reached.
        InvalidRequestError: If the URL has a password or a kind that is not allowed, or is a folder
            of the results.
        MissingExtraError: If a package for this kind of URL is not installed.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        result_folders: list[FileSystem],
        policy: StoragePolicy,
    ) -> None:
        if has_password(url):
            raise InvalidRequestError(
                "The URL of a source contains a password, which the manifest would show. Put it "
                "into fsspec's configuration.",
                param="path",
            )
        self._url = strip_trailing_slashes(url)
        self._matches: list[str] = []
        self._name = shown_name(self._url)
        try:
            self._file_system = FileSystem(self._url, options, param="path", policy=policy)
            self._result_folders = {
                folder.path("")
                for folder in result_folders
                if folder.backend == self._file_system.backend
            }
            with self._file_system.translate_errors(
                f"could not find {self._name!r}; try again, or check its permissions"
            ):
                self._kind = self._find_kind()
        except OutputError as error:
            raise SourceError(error.message) from None
        if self._kind == "directory" and self._is_result_folder(self._file_system.root):
            raise InvalidRequestError(
                "The source folder contains this batch's own results. To make variations of them, "
                "choose another place for the outputs with --output-dir.",
                param="output_dir",
            )

    @property
    def local_path(self) -> str | None:
        """The local path that the URL refers to, if any."""
        return self._file_system.folder

    @property
    def is_folder(self) -> bool:
        """Whether the URL is a folder. Only its images are used."""
        return self._kind == "directory"

    def __iter__(self) -> Iterator[str | ImageVariationError]:
        if self._kind == "directory":
            yield from self._walk(self._file_system.root)
        elif self._kind == "file":
            yield self._url
        else:
            yield from (self._as_url(path) for path in self._matches)

    def _find_kind(self) -> str:
        # The file system may have cached a listing that is out of date.
        self._file_system.backend.invalidate_cache()
        try:
            return str(self._file_system.backend.info(self._file_system.root)["type"])
        except (FileNotFoundError, NotADirectoryError):
            if glob.has_magic(self._file_system.root):
                self._matches = sorted(self._glob(), key=os.fsencode)
                if self._matches:
                    return "glob"
        raise SourceError(f"There is no file or folder {self._name!r}; check the URL.")

    def _glob(self) -> list[str]:
        pattern = self._file_system.root
        matches = self._file_system.backend.glob(pattern, detail=True)
        # Cached listings would fill the memory.
        self._file_system.backend.invalidate_cache()
        paths = [str(path) for path, info in matches.items() if info["type"] == "file"]
        # Like a local glob, this matches hidden files only if the pattern starts with a dot.
        matches_hidden = "/." in pattern
        return [path for path in paths if matches_hidden or "/." not in path]

    def _walk(self, folder: str) -> Iterator[str | ImageVariationError]:
        try:
            with self._file_system.translate_errors(
                f"could not list {shown_name(folder)!r}; try again, or check its permissions"
            ):
                entries = self._list(folder)
        except OutputError as error:
            yield SourceError(error.message)
            return
        for path, is_folder in entries:
            if not is_folder:
                yield self._as_url(path)
            elif not self._is_result_folder(path):
                yield from self._walk(path)

    def _list(self, folder: str) -> list[tuple[str, bool]]:
        """Return the paths in a folder that are not hidden, and whether each is a folder."""
        entries = self._file_system.backend.ls(folder, detail=True)
        # Cached listings would fill the memory.
        self._file_system.backend.invalidate_cache()
        folder_flags = {
            str(entry["name"]).rstrip("/"): entry["type"] == "directory" for entry in entries
        }
        return [
            (path, folder_flags[path])
            for path in sorted(folder_flags, key=os.fsencode)
            # The listing of an object store may contain the folder itself.
            if path.lstrip("/") != folder.lstrip("/")
            and not path.rpartition("/")[2].startswith(".")
        ]

    def _is_result_folder(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{folder}/") for folder in self._result_folders)

    def _as_url(self, path: str) -> str:
        """Return the URL of a listed path, which may lack the server's name."""
        root, url = self._file_system.root, self._url
        if self._kind != "directory":
            root, url = _fixed_part(root), _fixed_part(url)
        relative = path.lstrip("/").removeprefix(root.strip("/")).lstrip("/")
        return f"{url}/{relative}"


def _fixed_part(pattern: str) -> str:
    """Return the folders of a glob before the first part with a wildcard."""
    parts = pattern.split("/")
    first_magic = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first_magic])
