"""`StoredOutputs`: outputs at a URL, in a file system of fsspec."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.files.atomic import TEMPORARY_NAME
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.shared_file_system import SharedFileSystem
from langchain_image_variation.files.storage_policy import DEFAULT_POLICY, StoragePolicy
from langchain_image_variation.files.storage_urls import (
    has_password,
    is_url,
    strip_trailing_slashes,
)
from langchain_image_variation.files.temporary_folder import make_temporary_folder

__all__ = ["StoredOutputs", "open_outputs"]

_PROBE = ".writable"
"""The file that `create` writes to check that the outputs are writable."""


def open_outputs(
    output_dir: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    policy: StoragePolicy = DEFAULT_POLICY,
) -> Outputs:
    """Return the outputs in a folder, or at a URL that the policy allows.

    Args:
        output_dir: A folder, or a URL such as "s3://bucket/prefix". "file://" is a folder too.
        storage_options: Passed to the file system of a URL, like fsspec's `storage_options`.
        policy: Which stores a URL may name.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If `output_dir` is empty, or a URL of a kind that is not allowed, of
            several file systems or with a password.
        OutputError: If the file system refuses the options, or cannot be reached.
    """
    if not isinstance(output_dir, str | os.PathLike) or "\0" in os.fsdecode(output_dir):
        raise InvalidRequestError("output_dir must be a folder or a URL.", param="output_dir")
    if not os.fspath(output_dir):
        raise InvalidRequestError(
            "output_dir is empty; pass a folder or a URL.", param="output_dir"
        )
    if not isinstance(output_dir, str) or not is_url(output_dir):
        return OutputFolder(output_dir)
    outputs = StoredOutputs(output_dir, storage_options or {}, policy)
    return outputs if outputs.folder is None else OutputFolder(outputs.folder)


class StoredOutputs(Outputs):
    """Outputs in a file system, below a URL.

    A file appears complete or not at all if the file system renames files itself (local, SFTP, SMB,
    HDFS) or uploads files as a whole (memory, and object stores such as S3).

    An instance pickles. Each process and thread opens the file system for itself.

    Args:
        url: The URL, such as "s3://bucket/prefix". The bucket must exist.
        options: Passed to the file system, like fsspec's `storage_options`.
        policy: Which stores the URL may name.

    Raises:
        ImageVariationError: See `open_outputs`.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any], policy: StoragePolicy = DEFAULT_POLICY
    ) -> None:
        if has_password(url):
            raise InvalidRequestError(
                "output_dir contains a password, which manifests and messages would show. Put it "
                "into storage_options or fsspec's configuration.",
                param="output_dir",
            )
        self.url = strip_trailing_slashes(url)
        self._open = partial(FileSystem, options=dict(options), param="output_dir", policy=policy)
        self._shared = SharedFileSystem(partial(self._open, self.url))
        self.kind = self._file_system.kind

    @property
    def folder(self) -> str | None:
        """The local folder that the URL refers to, if any."""
        return self._file_system.folder

    def subfolder(self, name: str) -> FileSystem:
        """Return a folder below the URL."""
        return self._open(self.display_path(name))

    def create(self) -> None:
        """Create the folder of the URL, and check that it is writable.

        Raises:
            OutputError: If it is not.
        """
        with self._file_system.translate_errors(
            "cannot be written to; check its address, options and permissions"
        ):
            self._file_system.write_in_folder("", lambda: self._file_system.write(_PROBE, b""))
        # The name is fixed because some users may write but not remove files.
        with suppress(OutputError):
            self.remove(_PROBE)

    def display_path(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name. Raises `OutputError` if it fails."""
        with self._file_system.translate_read_errors(name):
            return self._file_system.has(name)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None. Raises `OutputError` if it cannot be read."""
        with self._file_system.translate_read_errors(name):
            return self._file_system.read(name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the result of `read` for several files. Raises `OutputError` if one fails."""
        with self._file_system.translate_read_errors(names[0] if names else ""):
            contents = self._file_system.read_all(names)
        yield from contents

    def remove(self, name: str) -> None:
        """Remove a file if it exists. Raises `OutputError` if it cannot be removed."""
        with self._file_system.translate_errors(
            f"could not remove {name!r}; check its permissions"
        ):
            self._file_system.remove(name)

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write files. Raises `OutputError` if one cannot be written."""
        folders: dict[str, dict[str, bytes]] = {}
        for name, data in files.items():
            folders.setdefault(_folder(name), {})[name] = data
        for folder, contents in folders.items():
            with self._write_errors(next(iter(contents))):
                self._file_system.write_in_folder(
                    folder, partial(self._file_system.write_all, contents)
                )

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears at the end of the block. Raises `OutputError` if it fails."""
        # A file that is uploaded in parts could be left incomplete, so it is written locally first.
        try:
            with make_temporary_folder("A manifest at a URL") as folder:
                path = Path(folder, "upload")
                with path.open("xb") as file:
                    yield file
                self.upload(name, path)
        except OSError as error:
            raise OutputError(
                f"{name!r} cannot be written: {error.strerror}. Free some space for temporary "
                "files."
            ) from None

    def upload(self, name: str, path: Path) -> None:
        """Copy a local file to the outputs, and replace an existing one.

        Raises:
            OutputError: If the file cannot be written.
        """
        with self._write_errors(name):
            self._file_system.write_in_folder(
                _folder(name), lambda: self._file_system.upload(name, path)
            )

    def download(self, name: str, path: Path) -> bool:
        """Copy a file to a local path, and return whether it exists.

        Raises:
            OutputError: If the file cannot be read.
        """
        with self._file_system.translate_read_errors(name):
            return self._file_system.download(name, path)

    def remove_temporary_files(self, folders: Iterable[str]) -> int:
        """Remove the temporary files of killed processes. Raises `OutputError` if it fails."""
        if not self._file_system.can_rename:
            return 0
        count = 0
        with self._file_system.translate_errors(
            "could not list or remove temporary files; check its permissions"
        ):
            backend = self._file_system.backend
            tops = [self._file_system.path(name) for name in folders]
            listings = [backend.ls(self._file_system.root, detail=False)]
            listings += [backend.find(top) for top in tops if backend.exists(top)]
            for path in (path for paths in listings for path in paths):
                if TEMPORARY_NAME.fullmatch(str(path).rpartition("/")[2]):
                    backend.rm_file(path)
                    count += 1
        return count

    def _write_errors(self, name: str) -> AbstractContextManager[None]:
        return self._file_system.translate_errors(
            f"could not write {name!r}; free some space, or check its permissions"
        )

    @property
    def _file_system(self) -> FileSystem:
        return self._shared.get()


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
