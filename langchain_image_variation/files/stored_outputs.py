"""`OutputStorage`: the outputs of a bulk run in any file system that fsspec knows."""

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
from langchain_image_variation.files.file_system import FileSystem, has_password, is_url, trimmed
from langchain_image_variation.files.outputs import OutputFolder, Outputs

__all__ = ["OutputStorage", "open_outputs"]

_PROBE = ".writable"


def open_outputs(
    output_dir: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Outputs:
    """Return where to write: a folder, or a URL of any file system that fsspec knows.

    Args:
        output_dir: A folder, or a URL such as "s3://bucket/prefix". "file://" means a folder too.
        storage_options: Passed to the file system of a URL, as fsspec's own.

    Raises:
        MissingExtraError: If fsspec is not installed, or the package for this kind of URL.
        InvalidRequestError: If it is empty, no file system is known for the URL, or it names
            several or a password.
        OutputError: If the file system refuses the options, or cannot be reached.
    """
    if not isinstance(output_dir, str | os.PathLike) or "\0" in os.fsdecode(output_dir):
        raise InvalidRequestError("output_dir must be a folder or a URL.", param="output_dir")
    if not os.fspath(output_dir):
        raise InvalidRequestError(
            "output_dir is empty; name a folder or a URL.", param="output_dir"
        )
    if not isinstance(output_dir, str) or not is_url(output_dir):
        return OutputFolder(output_dir)
    storage = OutputStorage(output_dir, storage_options or {})
    return storage if storage.folder is None else OutputFolder(storage.folder)


class OutputStorage(Outputs):
    """A place in a file system, named by a URL.

    A file appears whole or not at all where the file system has renames of its own (local, SFTP,
    SMB, HDFS) or takes files whole (memory, and object stores such as S3).

    It pickles; the file system is opened anew where it is then used.

    Args:
        url: The place, such as "s3://bucket/prefix". A bucket is not made.
        options: Passed to the file system, as fsspec's `storage_options`.

    Raises:
        ImageVariationError: As `open_outputs`.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        if has_password(url):
            raise InvalidRequestError(
                "output_dir holds a password, which manifests and messages would show; put it into "
                "storage_options or fsspec's configuration.",
                param="output_dir",
            )
        self.url = trimmed(url)
        self._options = dict(options)
        self._opened = threading.local()
        self.kind = self._at.kind

    @property
    def folder(self) -> str | None:
        """The folder of this machine that it is, if it is one."""
        return self._at.folder

    def below(self, name: str) -> FileSystem:
        """Return a folder below the place."""
        return FileSystem(self.shown(name), self._options, param="output_dir")

    def make(self) -> None:
        """Make the place, and check that files can be written there.

        Raises:
            OutputError: If not.
        """
        with self._at.failures("cannot be written to; check its address, options and rights"):
            self._at.with_folder("", lambda: self._at.write(_PROBE, b""))
        # Always of the same name, since not everyone who may write may remove.
        with suppress(OutputError):
            self.remove(_PROBE)

    def shown(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def has(self, name: str) -> bool:
        """Say whether there is a file of that name; raise an `OutputError` if it fails."""
        with self._giving(name):
            return self._at.has(name)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none; raise an `OutputError` if it fails."""
        with self._giving(name):
            return self._at.read(name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Do what `read` does with several files; raise an `OutputError` if it fails."""
        with self._giving(names[0] if names else ""):
            found = self._at.read_all(names)
        yield from found

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; raise an `OutputError` if it fails."""
        with self._at.failures(f"cannot remove {name!r}; check its rights"):
            self._at.remove(name)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files; raise an `OutputError` if it fails."""
        folders: dict[str, dict[str, bytes]] = {}
        for name, data in files.items():
            folders.setdefault(_folder(name), {})[name] = data
        for folder, within in folders.items():
            with self._taking(next(iter(within))):
                self._at.with_folder(folder, partial(self._at.write_all, within))

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that gets its name at the end; raise an `OutputError` if it fails."""
        # A file that is written in parts could be left half there.
        try:
            with tempfile.TemporaryDirectory() as temporary:
                local = Path(temporary, "whole")
                with local.open("xb") as file:
                    yield file
                self.send(name, local)
        except OSError as error:
            raise OutputError(
                f"{name!r} cannot be written: {error.strerror}. Make room for temporary files."
            ) from None

    def send(self, name: str, local: Path) -> None:
        """Write a file of this machine, in the place of any that has the name.

        Raises:
            OutputError: If it cannot be written.
        """
        with self._taking(name):
            self._at.with_folder(_folder(name), lambda: self._at.copy_in(name, local))

    def fetch(self, name: str, local: Path) -> bool:
        """Copy a file to this machine, and say whether there is one.

        Raises:
            OutputError: If it cannot be read.
        """
        with self._giving(name):
            return self._at.copy_out(name, local)

    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove what a killed process may leave; raise an `OutputError` if it fails."""
        if not self._at.renames:
            return 0
        found = 0
        with self._at.failures("cannot be cleared of unfinished files; check its rights"):
            tops = [self._at.path(name) for name in folders]
            listed = [self._at.files.ls(self._at.root, detail=False)]
            listed += [self._at.files.find(top) for top in tops if self._at.files.exists(top)]
            for path in (path for paths in listed for path in paths):
                if TEMPORARY_NAME.fullmatch(str(path).rpartition("/")[2]):
                    self._at.files.rm_file(path)
                    found += 1
        return found

    def _giving(self, name: str) -> AbstractContextManager[None]:
        return self._at.failures(f"cannot give {name!r} now; try again, or check its rights")

    def _taking(self, name: str) -> AbstractContextManager[None]:
        return self._at.failures(f"did not take {name!r}; make room, or check its rights")

    @property
    def _at(self) -> FileSystem:
        # A connection is nothing to share between threads, or with a process that was forked.
        process, at = getattr(self._opened, "last", (None, None))
        if at is None or process != os.getpid():
            at = FileSystem(self.url, self._options, param="output_dir")
            self._opened.last = os.getpid(), at
        return at

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _opened=threading.local())


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
