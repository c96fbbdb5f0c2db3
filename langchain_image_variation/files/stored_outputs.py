"""`OutputStorage`: the outputs of a batch in any file system that fsspec knows."""

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.files.atomic import TEMPORARY_NAME
from langchain_image_variation.files.file_system import (
    FileSystem,
    has_password,
    is_url,
    strip_trailing_slashes,
)
from langchain_image_variation.files.outputs import OutputFolder, Outputs

__all__ = ["OutputStorage", "open_outputs"]

_PROBE = ".writable"


def open_outputs(
    output_dir: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Outputs:
    """Return the outputs in a folder, or at a URL of any file system that fsspec knows.

    Args:
        output_dir: A folder, or a URL such as "s3://bucket/prefix". "file://" means a folder too.
        storage_options: Passed to the file system, as fsspec's `storage_options`.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If `output_dir` is empty, or if it is a URL that contains a password,
            names several file systems or an unknown one.
        OutputError: If the file system refuses the options or cannot be reached.
    """
    if not isinstance(output_dir, str | os.PathLike) or "\0" in os.fsdecode(output_dir):
        raise InvalidRequestError("output_dir must be a folder or a URL.", param="output_dir")
    if not os.fspath(output_dir):
        raise InvalidRequestError(
            "output_dir is empty; pass a folder or a URL.", param="output_dir"
        )
    if not isinstance(output_dir, str) or not is_url(output_dir):
        return OutputFolder(output_dir)
    storage = OutputStorage(output_dir, storage_options or {})
    return storage if storage.folder is None else OutputFolder(storage.folder)


class OutputStorage(Outputs):
    """Outputs at the URL of a file system.

    Writes are atomic if the file system can rename files (local, SFTP, SMB, HDFS) or uploads each
    file as a whole (memory, and object stores such as S3).

    An instance can be pickled. It opens the file system again in the process that uses it.

    Args:
        url: The URL, such as "s3://bucket/prefix". A missing bucket is not created.
        options: Passed to the file system, as fsspec's `storage_options`.

    Raises:
        ImageVariationError: As `open_outputs`.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        if has_password(url):
            raise InvalidRequestError(
                "output_dir contains a password, which manifests and messages would show; move it "
                "to storage_options or fsspec's configuration.",
                param="output_dir",
            )
        self.url = strip_trailing_slashes(url)
        self._options = dict(options)
        self._connection = threading.local()
        self.kind = self._files.kind

    @property
    def folder(self) -> str | None:
        """The local folder that the URL stands for, or None."""
        return self._files.folder

    def subfolder(self, name: str) -> FileSystem:
        """Return the file system of a subfolder."""
        return FileSystem(self.display_path(name), self._options, param="output_dir")

    def make(self) -> None:
        """Create the folder, and check that files can be written to it.

        Raises:
            OutputError: If that fails.
        """
        with self._files.translate_errors(
            "cannot be written to; check its URL, options and permissions"
        ):
            self._files.write_in_folder("", lambda: self._files.write(_PROBE, b""))
        # The name is always the same, because not everyone who may write may also remove.
        with suppress(OutputError):
            self.remove(_PROBE)

    def display_path(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name; raise an `OutputError` if that fails."""
        with self._read_errors(name):
            return self._files.has(name)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None if it does not exist; raise an `OutputError` if that fails."""
        with self._read_errors(name):
            return self._files.read(name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read several files at once; raise an `OutputError` if that fails."""
        with self._read_errors(names[0] if names else ""):
            contents = self._files.read_all(names)
        yield from contents

    def remove(self, name: str) -> None:
        """Remove a file if it exists; raise an `OutputError` if that fails."""
        with self._files.translate_errors(f"could not remove {name!r}; check its permissions"):
            self._files.remove(name)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files; raise an `OutputError` if that fails."""
        files_by_folder: dict[str, dict[str, bytes]] = {}
        for name, data in files.items():
            files_by_folder.setdefault(_folder(name), {})[name] = data
        for folder, folder_files in files_by_folder.items():
            with self._write_errors(next(iter(folder_files))):
                self._files.write_in_folder(folder, partial(self._files.write_all, folder_files))

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears when the block ends; raise an `OutputError` if that fails."""
        # A remote file that is written in parts could be left incomplete.
        try:
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder, "complete")
                with local.open("xb") as file:
                    yield file
                self.upload(name, local)
        except OSError as error:
            raise OutputError(
                f"{name!r} cannot be written: {error.strerror}. Free some space for temporary "
                "files."
            ) from None

    def upload(self, name: str, local: Path) -> None:
        """Copy a file from this machine, replacing an existing file of that name.

        Raises:
            OutputError: If it cannot be written.
        """
        with self._write_errors(name):
            self._files.write_in_folder(_folder(name), lambda: self._files.upload(name, local))

    def download(self, name: str, local: Path) -> bool:
        """Copy a file to this machine, and return whether it exists.

        Raises:
            OutputError: If it cannot be read.
        """
        with self._read_errors(name):
            return self._files.download(name, local)

    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove a killed process's temporary files; raise an `OutputError` if that fails."""
        if not self._files.can_rename:
            return 0
        count = 0
        with self._files.translate_errors(
            "could not remove temporary files; check its permissions"
        ):
            tops = [self._files.path(name) for name in folders]
            listings = [self._files.files.ls(self._files.root, detail=False)]
            listings += [
                self._files.files.find(top) for top in tops if self._files.files.exists(top)
            ]
            for path in (path for paths in listings for path in paths):
                if TEMPORARY_NAME.fullmatch(str(path).rpartition("/")[2]):
                    self._files.files.rm_file(path)
                    count += 1
        return count

    def _read_errors(self, name: str) -> AbstractContextManager[None]:
        return self._files.translate_errors(
            f"could not read {name!r}; try again, or check its permissions"
        )

    def _write_errors(self, name: str) -> AbstractContextManager[None]:
        return self._files.translate_errors(
            f"could not write {name!r}; free some space, or check its permissions"
        )

    @property
    def _files(self) -> FileSystem:
        # A connection must not be shared between threads, or with a forked process.
        process, files = getattr(self._connection, "latest", (None, None))
        if files is None or process != os.getpid():
            files = FileSystem(self.url, self._options, param="output_dir")
            self._connection.latest = os.getpid(), files
        return files

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_connection"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _connection=threading.local())


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
