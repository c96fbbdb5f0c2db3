"""`ResultStorage`: results in any file system that fsspec supports, such as a bucket or SFTP."""

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.agents.results import (
    CACHE_FOLDER,
    MAX_RECORD_BYTES,
    Results,
    is_result_file,
)
from langchain_image_variation.agents.stored_uploads import UploadStorage
from langchain_image_variation.agents.uploads import UPLOADS_FOLDER, UploadLimits
from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.removal import remove_stored_files
from langchain_image_variation.files.storage_policy import StoragePolicy
from langchain_image_variation.output.names import RESULT_NAME
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

__all__ = ["ResultStorage"]

_SCOPE = re.compile(r"\w[\w-]{0,63}")
_PROBE = ".writable"
_MAX_ENTRIES = 10_000
"""The maximum number of listed files to look at. Looking at this many takes about ten ms."""


class ResultStorage(Results):
    """Results under a URL. Nothing else under the URL or next to it is read or written.

    This package generates every name below the URL: those of results, scopes and records. A handle
    or path of any other form is never requested. So no name leads outside, no matter how a file
    system interprets dots, percent signs, backslashes or colons.

    A file appears whole or not at all if the file system has a real rename (local, SFTP, SMB, HDFS)
    or takes files whole (memory, and object stores such as S3). An existing file is not replaced.
    If two programs write different files under one name at the same moment, one of them wins. The
    name contains a hash of the pixels, so both files show the same image.

    No message contains text from fsspec, nor the URL, which may include a password.

    Args:
        image_folder: The folder with the images that the tool may read.
        url: Where to save results, such as "s3://bucket/prefix".
        options: Options for the file system, as fsspec's `storage_options`.
        scope: The name of a conversation's own folder below the URL, from `scope_name`.
        max_results: The maximum number of results to keep in that folder. The oldest are deleted.
            By default all are kept.

    Raises:
        MissingExtraError: If fsspec is not installed, or the package for this kind of URL.
        InvalidRequestError: If no file system is known for the URL, or if it chains several.
        SourceError: If the URL is a local folder that contains the images, or if the scope is not a
            name from `scope_name`.
        OutputError: If the file system refuses the options, or cannot be reached.
    """

    def __init__(
        self,
        image_folder: ImageFolder,
        url: str,
        options: Mapping[str, Any],
        *,
        scope: str | None = None,
        max_results: int | None = None,
    ) -> None:
        super().__init__(image_folder, max_results=max_results)
        if scope is not None and not _SCOPE.fullmatch(scope):
            raise SourceError("The scope of a conversation must be a name from scope_name.")
        self._scope = f"{scope}/" if scope else ""
        self._file_system = FileSystem(
            url, options, param="output_dir", policy=StoragePolicy.for_kind_of(url)
        )
        self._local_folder = self._file_system.folder
        folder = self.all_results_folder
        if folder is not None and image_folder.root.resolve().is_relative_to(folder):
            # Otherwise all images would count as results.
            raise SourceError("output_dir must not contain root_dir. Choose another folder.")

    @property
    def location(self) -> str:
        """Where results are saved: the kind of file system, without the URL."""
        storage = f"{self._file_system.kind} storage"
        return f"{self._scope} in {storage}" if self._scope else storage

    @property
    def path_prefix(self) -> str:
        """Nothing: paths are relative to the URL."""
        return ""

    @property
    def all_results_folder(self) -> PurePath | None:
        """The folder of all scopes, if it is a local one."""
        return None if self._local_folder is None else Path(self._local_folder or "/").resolve()

    def ensure_writable(self) -> None:
        """Create the folder, and check that files can be written to it.

        A bucket is never created: its name may be a typo.

        Raises:
            OutputError: If the folder cannot be created or written to.
        """
        with self._file_system.translate_errors(
            "cannot be written to; check its address, options and permissions"
        ):
            # The name is always the same, because a user who may write may not be able to delete.
            probe = self._file_system.path(f"{self._scope}{_PROBE}")
            write = self._file_system.backend.pipe_file
            self._file_system.write_in_folder(self._scope, lambda: write(probe, b""))

    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by a path that `save` returned, or return None.

        Raises:
            OutputError: If it cannot be read.
        """
        scope, slash, name = path.rpartition("/")
        if (slash and not _SCOPE.fullmatch(scope)) or not RESULT_NAME.fullmatch(name):
            return None
        data = self._read(path, MAX_SOURCE_BYTES + 1)
        return None if data is None else _NamedFile(data, name)

    def open_handle(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Without a scope, results of all scopes can be opened by their paths.

        Raises:
            OutputError: If it cannot be read.
        """
        name = handle.removeprefix(self._scope).removesuffix(".png")
        return self.open(f"{self._scope}{name}.png")

    def delete_all(self) -> None:
        """Delete all results of this scope, and its folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or a result cannot be deleted.
        """
        remove_stored_files(self._file_system, self._scope.rstrip("/"), _is_result_file)

    def open_uploads(self, limits: UploadLimits) -> UploadStorage | None:
        """Return the uploads of the conversation, or None without a scope."""
        if not self._scope:
            return None
        return UploadStorage(self._file_system, f"{self._scope}{UPLOADS_FOLDER}", limits)

    def read_record(self, name: str) -> bytes | None:
        """Return a cache record, or None if there is none of that name.

        Raises:
            OutputError: If it cannot be read.
        """
        return self._read(f"{CACHE_FOLDER}/{name}", MAX_RECORD_BYTES)

    def write_record(self, name: str, data: bytes) -> None:
        """Write a cache record, replacing an older one completely.

        Raises:
            OutputError: If it cannot be written.
        """
        path = f"{CACHE_FOLDER}/{name}"
        with self._file_system.translate_errors("cannot be written to"):
            self._file_system.write_in_folder(
                CACHE_FOLDER, lambda: self._file_system.write(path, data)
            )

    def _result_path(self, name: str) -> str:
        return f"{self._scope}{name}"

    def _write(self, name: str, data: bytes) -> bytes | None:
        with self._file_system.translate_errors(
            f"cannot store {name!r}; free some space, or check its permissions"
        ):
            path = f"{self._scope}{name}"
            existing_data = self._file_system.read(path, max(len(data), MAX_SOURCE_BYTES) + 1)
            if existing_data is None:
                # The folder may have been deleted while the engine worked.
                self._file_system.write_in_folder(
                    self._scope, lambda: self._file_system.write(path, data)
                )
            return data if existing_data is None else existing_data

    def _list(self) -> list[tuple[float, str]]:
        try:
            files = self._file_system.list_folder(self._scope, _MAX_ENTRIES)
        # A file system may raise any error of the library below it.
        except Exception:
            return []
        results = [(file.mtime, file.name) for file in files if RESULT_NAME.fullmatch(file.name)]
        return sorted(results, reverse=True)

    def _delete(self, name: str) -> None:
        with suppress(Exception):
            self._file_system.remove(f"{self._scope}{name}")

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        with self._file_system.translate_errors("cannot be read; try again"):
            return self._file_system.read(path, max_bytes)


def _is_result_file(name: str, mtime: float) -> bool:
    return is_result_file(name, mtime) or name == _PROBE


class _NamedFile(io.BytesIO):
    """A file in memory. Variations of it are named after it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name
