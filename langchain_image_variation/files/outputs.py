"""`Outputs`: where a batch writes its files. `OutputFolder`: a folder of this machine.

A file in an `OutputFolder` is written atomically and flushed to the disk, and then its folder is
flushed too. Neither a killed process nor a power cut leaves half a file, and a file that was
reported as written stays.
"""

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.atomic import TEMPORARY_NAME, atomic_write

__all__ = ["OutputFolder", "Outputs"]


class Outputs(ABC):
    """A place where files are written atomically.

    Names are relative paths with "/" between their parts. Folders are created when needed.
    """

    @abstractmethod
    def display_path(self, name: str) -> str:
        """Return the path or URL of a file, to be shown to a person."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether there is a file of that name.

        Raises:
            OutputError: If the file system does not say.
        """

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist.

        Raises:
            OutputError: If the file cannot be read.
        """

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield what `read` returns for several files, in order.

        Raises:
            OutputError: As `read`.
        """
        yield from map(self.read, names)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists.

        Raises:
            OutputError: If it cannot be removed.
        """

    @abstractmethod
    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files, replacing existing files of the same names.

        Args:
            files: The bytes of each file by its name.

        Raises:
            OutputError: If a file cannot be written, for example because the disk is full. The
                files before it stay.
        """

    @abstractmethod
    def open_for_writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that appears under its name when the block ends without an error.

        Raises:
            OutputError: If it cannot be written.
        """

    @abstractmethod
    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove the temporary files of a killed process, and return how many there were.

        No other process may be writing at the same time.

        Args:
            folders: The folders to search with everything below them. The top folder is always
                searched too, but not its other subfolders.

        Raises:
            OutputError: If a folder cannot be read or a file cannot be removed.
        """


class OutputFolder(Outputs):
    """A folder of this machine, or of a drive that is mounted on it.

    Args:
        path: The folder. It is created with the first file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._requested_path = Path(path)
        # An engine may change the current folder.
        self.path = self._requested_path.absolute()

    def display_path(self, name: str) -> str:
        """Return the path of a file, relative if the folder was given as a relative path."""
        return str(self._requested_path / name)

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes | None:
        """Return a file, or None if it does not exist; raise an `OutputError` if that fails."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{name!r} cannot be read: {error.strerror}.") from None

    def remove(self, name: str) -> None:
        """Remove a file if it exists; raise an `OutputError` if that fails."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{name!r} cannot be removed: {error.strerror}.") from None

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files and flush them to the disk; raise an `OutputError` if that fails."""
        for name, data in files.items():
            with self._open_atomic(name) as file:
                file.write(data)
        for folder in {(self.path / name).parent for name in files}:
            _sync(folder)

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears when the block ends; raise an `OutputError` if that fails."""
        with self._open_atomic(name) as file:
            yield file
        _sync((self.path / name).parent)

    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove a killed process's temporary files; raise an `OutputError` if that fails."""
        count = 0
        try:
            for folder in (self.path, *_walk(self.path / name for name in folders)):
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if TEMPORARY_NAME.fullmatch(entry.name):
                            os.unlink(entry.path)
                            count += 1
        except OSError as error:
            raise OutputError(
                f"The temporary files in {self.path.name!r} cannot be removed: {error.strerror}."
            ) from None
        return count

    @contextmanager
    def _open_atomic(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path / name
        try:
            _make_folder(path.parent)
            with atomic_write(path) as file:
                yield file
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(
                f"{name!r} cannot be written: {reason}. Free some space or choose another folder."
            ) from None


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, and flush them, so that they survive a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    # Another process may create it at the same time.
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _walk(tops: Iterable[Path]) -> Iterator[Path]:
    for top in tops:
        for folder, _, _ in os.walk(top):
            yield Path(folder)


def _sync(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the system can."""
    if os.name == "nt":
        # Windows cannot open folders.
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network drives cannot flush folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OutputError(f"{folder.name!r} cannot be written: {error.strerror}.") from None
