"""`StoredInputs`: the files that a URL names: one, those of a folder and below, or of a glob.

Of a folder nothing is kept, as of those of this machine: the names in it are in the memory while it
is walked. What a glob matches is looked for once, and stays there.
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
from langchain_image_variation.files.file_system import (
    FileSystem,
    has_password,
    strip_trailing_slashes,
)

__all__ = ["StoredInputs"]


class StoredInputs:
    """What a URL names. Iterating yields URLs, in the same order each time.

    Args:
        url: The URL.
        options: Passed to the file system, as fsspec's `storage_options`.
        results: The folders of the run's own results, which are left out.

    Raises:
        SourceError: If there is nothing of that name, or the file system cannot be reached.
        InvalidRequestError: If it holds a password, is of no known kind, or names results.
        MissingExtraError: If a package for this kind of URL is missing.
    """

    def __init__(self, url: str, options: Mapping[str, Any], results: list[FileSystem]) -> None:
        if has_password(url):
            raise InvalidRequestError(
                "The URL of a source holds a password, which the manifest would show; put it into "
                "fsspec's configuration.",
                param="path",
            )
        self._url = strip_trailing_slashes(url)
        self._found: list[str] = []
        self._short = self._url.rpartition("/")[2][:80]
        try:
            self._at = FileSystem(self._url, options, param="path")
            self._results = {own.path("") for own in results if own.files == self._at.files}
            with self._at.translate_errors(
                f"cannot say what {self._short!r} is; try again, or check its rights"
            ):
                self._kind = self._kind_of()
        except OutputError as error:
            raise SourceError(error.message) from None
        if self._kind == "directory" and self._is_result(self._at.root):
            raise InvalidRequestError(
                "The pictures of an earlier run are varied only to another place; name one with "
                "--output-dir.",
                param="output_dir",
            )

    @property
    def local(self) -> str | None:
        """The path of this machine that the URL is, if it is one."""
        return self._at.folder

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, of which only pictures are meant."""
        return self._kind == "directory"

    def __iter__(self) -> Iterator[str | ImageVariationError]:
        if self._kind == "directory":
            yield from self._below(self._at.root)
        elif self._kind == "file":
            yield self._url
        else:
            yield from (self._as_url(path) for path in self._found)

    def _kind_of(self) -> str:
        # What was listed earlier may have changed since.
        self._at.files.invalidate_cache()
        try:
            return str(self._at.files.info(self._at.root)["type"])
        except (FileNotFoundError, NotADirectoryError):
            if glob.has_magic(self._at.root):
                self._found = sorted(self._matches(), key=os.fsencode)
                if self._found:
                    return "glob"
        raise SourceError(f"There is no file or folder {self._short!r}; check the URL.")

    def _matches(self) -> list[str]:
        pattern = self._at.root
        found = self._at.files.glob(pattern, detail=True)
        # A file system that remembers what it listed would fill the memory.
        self._at.files.invalidate_cache()
        files = [str(path) for path, info in found.items() if info["type"] == "file"]
        # As for files of this machine, what is hidden must be asked for.
        asked = "/." in pattern
        return [path for path in files if asked or "/." not in path]

    def _below(self, folder: str) -> Iterator[str | ImageVariationError]:
        try:
            with self._at.translate_errors(
                f"cannot list {_name(folder)[:80]!r}; try again, or check its rights"
            ):
                found = self._names(folder)
        except OutputError as error:
            yield SourceError(error.message)
            return
        for path, is_folder in found:
            if not is_folder:
                yield self._as_url(path)
            elif not self._is_result(path):
                yield from self._below(path)

    def _names(self, folder: str) -> list[tuple[str, bool]]:
        """Return the paths in a folder that are not hidden, and whether they are folders."""
        listed = self._at.files.ls(folder, detail=True)
        # A file system that remembers what it listed would fill the memory.
        self._at.files.invalidate_cache()
        # An object store may list the folder itself.
        found = {str(info["name"]).rstrip("/"): info["type"] == "directory" for info in listed}
        return [
            (path, found[path])
            for path in sorted(found, key=os.fsencode)
            if path.lstrip("/") != folder.lstrip("/") and not _name(path).startswith(".")
        ]

    def _is_result(self, path: str) -> bool:
        return any(f"{path}/".startswith(f"{own}/") for own in self._results)

    def _as_url(self, path: str) -> str:
        """Return the URL of a path: a file system may leave out the server in what it lists."""
        root, url = self._at.root, self._url
        if self._kind != "directory":
            root, url = _fixed(root), _fixed(url)
        below = path.lstrip("/").removeprefix(root.strip("/")).lstrip("/")
        return f"{url}/{below}"


def _fixed(pattern: str) -> str:
    """Return a glob up to its last folder before the first magic character."""
    parts = pattern.split("/")
    magic = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:magic])


def _name(path: str) -> str:
    return path.rpartition("/")[2]
