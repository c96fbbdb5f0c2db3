"""`Outputs`: where a bulk run writes, and `OutputFolder`: a folder of this machine.

In a folder a file stands under its name whole or not at all: it is written under another name
beside its own, brought to the disk, and renamed, and then the folder is brought to the disk too. So
neither a process that is killed nor a power cut leaves half a file, and what was reported as
written stays.
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
    """A place for files that are written whole.

    Names are relative, with "/" between their parts. Folders below are made when they are needed.
    """

    @abstractmethod
    def shown(self, name: str) -> str:
        """Return what to tell a person of where a file is."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Say whether there is a file of that name.

        Raises:
            OutputError: If that cannot be found out.
        """

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None if there is none.

        Raises:
            OutputError: If what has that name cannot be read.
        """

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield what `read` returns for several files, in order.

        Raises:
            OutputError: As `read`.
        """
        yield from map(self.read, names)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            OutputError: If it cannot be removed.
        """

    @abstractmethod
    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files, each in the place of any that has its name.

        Args:
            files: The bytes of each file by its name.

        Raises:
            OutputError: If one cannot be written, such as on a full disk. Those before it stay.
        """

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file to write; it gets its name when the block ends without an error.

        Raises:
            OutputError: If it cannot be written.
        """

    @abstractmethod
    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove unfinished files that a killed process left, and return how many there were.

        No other process may be writing meanwhile.

        Args:
            folders: Which folders to look into, with all below them. The top itself is always
                looked into, but not what else is below it.

        Raises:
            OutputError: If a folder cannot be read or a file not removed.
        """


class OutputFolder(Outputs):
    """A folder of this machine, or of a drive that it sees.

    Args:
        path: The folder; it is not made before something is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._given = Path(path)
        # An engine may go to another folder.
        self.path = self._given.absolute()

    def shown(self, name: str) -> str:
        """Return the path of a file, as the folder was named."""
        return str(self._given / name)

    def has(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none; raise an `OutputError` if it fails."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{name!r} cannot be read: {error.strerror}.") from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; raise an `OutputError` if it fails."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{name!r} cannot be removed: {error.strerror}.") from None

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files, and bring them to the disk; raise an `OutputError` if it fails."""
        for name, data in files.items():
            with self._written(name) as file:
                file.write(data)
        for folder in {(self.path / name).parent for name in files}:
            _sync(folder)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that gets its name at the end; raise an `OutputError` if it fails."""
        with self._written(name) as file:
            yield file
        _sync((self.path / name).parent)

    def clear_leftovers(self, folders: Iterable[str]) -> int:
        """Remove what a killed process left; raise an `OutputError` if it fails."""
        found = 0
        try:
            for folder in (self.path, *_below(self.path / name for name in folders)):
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if TEMPORARY_NAME.fullmatch(entry.name):
                            os.unlink(entry.path)
                            found += 1
        except OSError as error:
            raise OutputError(
                f"{self.path.name!r} cannot be cleared of unfinished files: {error.strerror}."
            ) from None
        return found

    @contextmanager
    def _written(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path / name
        try:
            _make(path.parent)
            with atomic_write(path) as file:
                yield file
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(
                f"{name!r} cannot be written: {reason}. Free some space or choose another folder."
            ) from None


def _make(folder: Path) -> None:
    """Make a folder, with its parents, so that a power cut does not take it with what is in it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    # Another process may make it at the same time.
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _below(tops: Iterable[Path]) -> Iterator[Path]:
    for top in tops:
        for folder, _, _ in os.walk(top):
            yield Path(folder)


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    if os.name == "nt":
        # A folder cannot be opened there.
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network drives know no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OutputError(f"{folder.name!r} cannot be written: {error.strerror}.") from None
