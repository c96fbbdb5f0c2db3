"""`Outputs`: where a batch writes its files, and `OutputFolder`: outputs in a local folder.

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
from langchain_image_variation.files.atomic import TEMPORARY_NAME, atomic_write, unwritable_error
from langchain_image_variation.files.listing import list_files

__all__ = ["OutputFolder", "Outputs"]


class Outputs(ABC):
    """A place for files that are written atomically.

    File names are relative paths with "/" as separator. Subfolders are created when needed.
    """

    @abstractmethod
    def display_path(self, name: str) -> str:
        """Return the path or URL of a file, as shown to the user."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether there is a file of this name.

        Raises:
            OutputError: If this cannot be determined.
        """

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None if it does not exist.

        Raises:
            OutputError: If the file exists but cannot be read.
        """

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the result of `read` for several files, in order.

        Raises:
            OutputError: See `read`.
        """
        yield from map(self.read, names)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists.

        Raises:
            OutputError: If the file cannot be removed.
        """

    @abstractmethod
    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write files, and replace existing ones.

        Args:
            files: The content of each file by its name.

        Raises:
            OutputError: If a file cannot be written, such as on a full disk. The files written
                before it stay.
        """

    @abstractmethod
    def open_for_writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that appears under its name when the block ends without an error.

        Raises:
            OutputError: If the file cannot be written.
        """

    @abstractmethod
    def remove_temporary_files(self, folders: Iterable[str]) -> int:
        """Remove the temporary files of killed processes, and return their number.

        No other process may write to the outputs during this call.

        Args:
            folders: The folders to search recursively. The top folder is always searched, but its
                other subfolders are not.

        Raises:
            OutputError: If a folder cannot be read or a file cannot be removed.
        """


class OutputFolder(Outputs):
    """Outputs in a local folder or on a mounted drive.

    Args:
        path: The folder. It is created when the first file is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._user_path = Path(path)
        # An engine may change the working directory.
        self.path = self._user_path.absolute()

    def display_path(self, name: str) -> str:
        """Return the path of a file, relative or absolute as the user passed the folder."""
        return str(self._user_path / name)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None. Raises `OutputError` if it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{name!r} cannot be read: {error.strerror}.") from None

    def remove(self, name: str) -> None:
        """Remove a file if it exists. Raises `OutputError` if it cannot be removed."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{name!r} cannot be removed: {error.strerror}.") from None

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write files and flush them to the disk. Raises `OutputError` if one cannot be written."""
        for name, data in files.items():
            with self._open_temporary(name) as file:
                file.write(data)
        for folder in {(self.path / name).parent for name in files}:
            _sync(folder)

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that appears at the end of the block. Raises `OutputError` if it fails."""
        with self._open_temporary(name) as file:
            yield file
        _sync((self.path / name).parent)

    def remove_temporary_files(self, folders: Iterable[str]) -> int:
        """Remove the temporary files of killed processes. Raises `OutputError` if it fails."""
        count = 0
        try:
            for folder in (self.path, *_walk(self.path / name for name in folders)):
                for name, _ in list_files(folder, TEMPORARY_NAME.fullmatch):
                    # In a folder with the sticky bit, another user's file stays. The writer may
                    # remove its own in the meantime.
                    with contextlib.suppress(PermissionError, FileNotFoundError):
                        (folder / name).unlink()
                        count += 1
        except OSError as error:
            raise OutputError(
                f"The temporary files in {self.path.name!r} cannot be removed: {error.strerror}."
            ) from None
        return count

    @contextmanager
    def _open_temporary(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path / name
        try:
            _create(path.parent)
            with atomic_write(path) as file:
                yield file
        except OSError as error:
            raise unwritable_error(name, error) from None


def _create(folder: Path) -> None:
    """Create a folder and its parents, and flush each, so that it survives a power cut."""
    if folder.is_dir():
        return
    _create(folder.parent)
    # Another process may create it at the same time.
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _walk(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield folders and all their subfolders."""
    for top in folders:
        for folder, _, _ in os.walk(top):
            yield Path(folder)


def _sync(folder: Path) -> None:
    """Flush a folder's entries to the disk, if the system supports it."""
    if os.name == "nt":
        # Windows cannot open a folder.
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network drives don't support this.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OutputError(f"{folder.name!r} cannot be written: {error.strerror}.") from None
