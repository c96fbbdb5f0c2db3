"""The folder of a store: its files, limited by `max_bytes` and the disk, and its signing key."""

import errno
import hashlib
import hmac
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.atomic import atomic_write
from langchain_image_variation.files.regular_file import open_regular_file
from langchain_image_variation.server.store.folder_files import oldest_first, server_files
from langchain_image_variation.server.store.folder_key import has_key, load_key
from langchain_image_variation.server.store.image_store import IMAGE_SUFFIX, unavailable_error

__all__ = ["LimitedFolder", "Reservation"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

_PROBE_NAME = "probe"
_FILE_MODE = 0o600
_PROBE_SECONDS = 1.0
"""After a failed write, the minimum time between two attempts to write, in seconds."""
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(eq=False, slots=True)
class Reservation:
    """Reserved disk space for files that will be stored."""

    length: int
    """In bytes."""
    is_over: bool = False


class LimitedFolder:
    """The folder of a store. It keeps files until they expire or it runs out of room.

    It also keeps the key that signs URLs and answers, which all servers of the folder share.

    The mtime of each file is its expiry time, so servers with different settings can share a
    folder. Files are written atomically. Expired files are removed from time to time. If the files
    exceed `max_bytes`, or the disk is full, the oldest ones are removed too.

    The server reads only regular files that belong to the user who runs it, and ignores everything
    else in the folder. If the folder is removed, it is created again.

    Args:
        path: The folder. If it does not exist, it is created so that only this user can read it.
        max_bytes: The maximum total size of the files, in bytes.
        tidy_seconds: How often to look for expired files.

    Raises:
        OutputError: If the folder cannot be used.
    """

    def __init__(self, path: Path, *, max_bytes: int, tidy_seconds: float) -> None:
        self.path = path
        self._key = b""
        self._owner = 0
        self._identity: tuple[int, int] | None = None
        self._max_bytes = max_bytes
        self._tidy_seconds = tidy_seconds
        self._lock = threading.Lock()
        self._free_bytes = 0
        self._next_scan = 0.0
        self._reservations: set[Reservation] = set()
        self._failure: tuple[int | None, str] | None = None
        self._next_probe = 0.0
        try:
            self._create()
            self._evict()
        except OSError as error:
            raise OutputError(
                f"The folder {path.name!r} cannot be used to store images: {_reason(error)}. "
                "Choose another one with store_dir, or --store-dir.",
                param="store_dir",
            ) from None

    def open(self, name: str) -> BufferedReader | None:
        """Open a file for reading, or return None if there is no such file of this user."""
        try:
            file = open_regular_file(self.path / name)
        except OSError:
            return None
        if file is not None and os.fstat(file.fileno()).st_uid == self._owner:
            return file
        if file is not None:
            file.close()
        _LOGGER.warning("A file of the store was replaced by something else: %s", name)
        return None

    def store(
        self,
        name: str,
        data: bytes,
        *,
        expiry: float,
        is_intact: Callable[[BufferedReader], bool],
        keep: Container[str] = (),
    ) -> None:
        """Store a file, or keep the existing one at least until a time.

        Args:
            name: The name of the file.
            data: The content of the file.
            expiry: When the file may be removed, in seconds since 1970.
            is_intact: Whether an existing file has the right content. Otherwise it is replaced.
            keep: The names of files that must not be removed to make room for this one.

        Raises:
            ServiceUnavailableError: If the file cannot be written.
        """
        try:
            with self._lock:
                self._check_folder()
                self._evict(len(data), keep=keep)
                # Under the lock, because another thread could be removing the file as expired.
                exists = self._renew(name, expiry, is_intact)
            if not exists:
                self._write(self.path / name, data, mtime=expiry)
        except OSError as error:
            self._failure = error.errno, _reason(error)
            raise unavailable_error(_reason(error)) from None

    def open_for_writing(self, name: str) -> int:
        """Open a file for reading and writing, and return its descriptor. Create it if necessary.

        Raises:
            OSError: If it cannot be opened, or if it is not a regular file of this user.
        """
        path = self.path / name
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # A FIFO would otherwise wait for a reader.
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(path, flags, _FILE_MODE)
        except FileNotFoundError:
            self._create()
            descriptor = os.open(path, flags, _FILE_MODE)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == self._owner:
            return descriptor
        os.close(descriptor)
        raise OSError(0, f"{name} was replaced by something else")

    def make_room(self, length: int) -> None:
        """Remove expired files, then the oldest ones until a file of this length is allowed.

        This does not free room on a full disk.

        Raises:
            OSError: If no file of this length is allowed.
        """
        if length > self._max_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._lock:
            self._evict(length)

    def sign(self, text: str) -> str:
        """Return an HMAC-SHA256 (RFC 2104) of a text with the folder's key, in hex."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def reserve(self, reservation: Reservation) -> None:
        """Reserve room on the disk, after removing the oldest files if necessary.

        Raises:
            ServiceUnavailableError: If there is no room even then, or files cannot be written.
        """
        try:
            self._check_writing(reservation.length)
            with self._lock:
                length = self._missing_bytes(reservation.length)
                if length > 0 and self._evict(length_to_free=length) < length:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                # The caller may have gone away in the meantime.
                if not reservation.is_over:
                    self._reservations.add(reservation)
        except OSError as error:
            raise unavailable_error(_reason(error)) from None

    def release(self, reservation: Reservation) -> None:
        """End a reservation."""
        with self._lock:
            reservation.is_over = True
            self._reservations.discard(reservation)

    def has_room(self, length: int) -> bool:
        """Return whether this many bytes could be reserved now."""
        try:
            self._check_writing(length)
            with self._lock:
                stored_bytes = self._max_bytes - self._free_bytes
                return self._missing_bytes(length) <= stored_bytes
        except OSError:
            return False

    def tidy(self) -> None:
        """Remove expired files. If the folder cannot be read now, the next call tries again."""
        with self._lock, suppress(OSError):
            self._next_scan = 0.0
            self._evict()

    def _create(self) -> None:
        """Create the folder and its key, unless they exist."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            # "File exists" would not say what is wrong with it.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        probe_path = self.path / _PROBE_NAME
        with atomic_write(probe_path, publish=_discard, sync=False, mode=_FILE_MODE) as file:
            # On a network drive, it may differ from the user of this process.
            self._owner = os.fstat(file.fileno()).st_uid
        # Look twice, because another process may have made the key and stored images meanwhile.
        if not has_key(self.path) and self._has_images() and not has_key(self.path):
            raise OSError(0, "it has files with the names of stored images, but no key")
        self._key = load_key(self.path, self._owner)
        self._identity = _identity(self.path)

    def _has_images(self) -> bool:
        files = server_files(self.path, self._owner)
        return any(file.path.suffix == IMAGE_SUFFIX for file in files)

    def _check_folder(self) -> None:
        """If the folder was replaced, use the new one. If its key was removed, restore it.

        Raises:
            OSError: If the new folder cannot be used, for example because its files are not ours.
        """
        if self._identity != _identity(self.path):
            self._create()
        elif not has_key(self.path):
            self._key = load_key(self.path, self._owner, self._key)

    def _renew(self, name: str, expiry: float, is_intact: Callable[[BufferedReader], bool]) -> bool:
        """Keep an existing file at least until a time. Return whether it exists and is intact."""
        file = self.open(name)
        if file is None:
            return False
        with file:
            if not is_intact(file):
                return False
            if os.fstat(file.fileno()).st_mtime < expiry:
                target = file.fileno() if os.utime in os.supports_fd else self.path / name
                os.utime(target, (expiry, expiry))
        return True

    def _write(
        self,
        path: Path,
        data: bytes,
        *,
        mtime: float | None = None,
        publish: Callable[[Path, Path], None] = os.replace,
    ) -> None:
        """Write a file. If that fails, try to make room, and write it again."""
        for is_last in (False, True):
            try:
                with atomic_write(path, publish=publish, mode=_FILE_MODE, mtime=mtime) as file:
                    file.write(data)
                return
            except FileNotFoundError:
                if is_last:
                    raise
                self._create()
            except OSError as error:
                if is_last or error.errno not in _FULL:
                    raise
                # A quota may be exceeded although the disk has space.
                with self._lock:
                    if self._evict(length_to_free=len(data)) < len(data):
                        raise

    def _check_writing(self, length: int) -> None:
        """If the last write failed, check whether a file of this length can be written now.

        Raises:
            OSError: If it cannot.
        """
        with self._lock:
            failure, now = self._failure, time.monotonic()
            if failure is None:
                return
            if now < self._next_probe:
                raise OSError(*failure)
            self._next_probe = now + _PROBE_SECONDS
            self._check_folder()
        self._write(self.path / _PROBE_NAME, bytes(length), publish=_discard)
        self._failure = None

    def _missing_bytes(self, length: int) -> int:
        """Return how many bytes the disk lacks for this length and all reservations."""
        try:
            usage = shutil.disk_usage(self.path)
        except FileNotFoundError:
            self._create()
            usage = shutil.disk_usage(self.path)
        return length + sum(each.length for each in self._reservations) - usage.free

    def _evict(self, length: int = 0, *, length_to_free: int = 0, keep: Container[str] = ()) -> int:
        """Remove expired files, then the oldest ones until a file of this length fits.

        Because a folder can hold very many files, it is scanned only from time to time and when it
        could be full.

        Args:
            length: The length of a file that is about to be written, in bytes.
            length_to_free: How many bytes to free on the disk. If the files have fewer in total,
                only expired ones are removed.
            keep: The names of files that must not be removed before they expire.

        Returns:
            How many bytes were freed.
        """
        self._free_bytes -= length
        is_early = time.monotonic() < self._next_scan
        if self._free_bytes >= 0 and length_to_free <= 0 and is_early:
            return 0
        self._check_folder()
        now, freed_bytes = time.time(), 0
        files = oldest_first(server_files(self.path, self._owner), now)
        stored_bytes = sum(file.length for file in files)
        if length_to_free > stored_bytes:
            length_to_free = 0
        for file in files:
            fits = length + stored_bytes - freed_bytes <= self._max_bytes
            is_enough = fits and freed_bytes >= length_to_free
            is_kept = is_enough or file.is_unfinished or file.path.name in keep
            if file.expiry < now or not is_kept:
                # Another process may have removed it already, or it cannot be removed.
                with suppress(OSError):
                    file.path.unlink()
                    freed_bytes += file.length
        self._free_bytes = self._max_bytes - (length + stored_bytes - freed_bytes)
        self._next_scan = time.monotonic() + self._tidy_seconds
        return freed_bytes


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what identifies the folder of this name, or None if it was removed."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _discard(temporary: Path, path: Path) -> None:
    """Give a temporary file no final name, so that it is removed."""


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
