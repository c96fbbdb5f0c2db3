"""The images that clients get as URLs: files in a folder, under signed names that expire."""

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from langchain_image_variation.exceptions import ExpiredURLError, NotFoundError, OutputError
from langchain_image_variation.files.atomic import TEMPORARY_NAME, atomic_write

__all__ = ["ImageStore", "StoredImage"]

_KEY_BYTES = 32
_SUFFIX = ".png"
_MODE = 0o600
# The files that the store writes. It never touches any other file in the folder.
_FILE_NAME = re.compile(r"[0-9a-f]{64}\.png|" + TEMPORARY_NAME.pattern)
_MAX_TIDY_SECONDS = 60.0
_PART_SECONDS = 600.0
"""How long a file may take to be written."""


class StoredImage(NamedTuple):
    """An image of the store, ready to be read."""

    file: BinaryIO
    """The open file. It can be read to its end even if the store removes it in the meantime."""
    length: int
    """How many bytes the file has."""
    seconds: int
    """For how many more seconds its URL works."""


class ImageStore:
    """Keeps images for a while, in a folder that outlives the process.

    A URL contains the name of a file, the time when the URL expires in milliseconds, and an
    HMAC-SHA256 (RFC 2104) of both. The folder contains the key for it. Each file's mtime is its
    expiry time, so stores with different settings can share a folder. Files are written atomically.
    Expired files, and the oldest ones if there are too many, are removed when an image is added;
    `tidy` removes them too.

    Args:
        directory: The folder. If it does not exist, it is created so that only this user can read
            it.
        ttl: For how many seconds a URL works.
        max_bytes: The maximum size of all images together, in bytes.

    Raises:
        OutputError: If the folder cannot be used.
    """

    def __init__(self, directory: Path, *, ttl: float, max_bytes: int) -> None:
        self._directory = directory
        self.ttl = ttl
        """For how many seconds a URL works."""
        self.tidy_seconds = min(_MAX_TIDY_SECONDS, ttl)
        """How often to look for expired files."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._free_bytes = 0
        self._next_scan = 0.0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = _load_key(directory / "key")
            self._evict(0)
        except OSError:
            raise OutputError(
                f"The folder {directory.name!r} cannot be used to store images. Choose another one."
            ) from None

    def add(self, png: bytes) -> str:
        """Store an image, and return the last part of its URL.

        Raises:
            OutputError: If the image cannot be written.
        """
        expiry = time.time() + self.ttl
        milliseconds = int(expiry * 1000)
        name = hashlib.sha256(png).hexdigest()
        path = self._directory / f"{name}{_SUFFIX}"
        try:
            with self._lock:
                self._evict(len(png))
                # With the lock, or another thread could be about to remove the file as expired.
                exists = _extend(path, expiry)
            if not exists:
                with atomic_write(path, mode=_MODE, mtime=expiry) as file:
                    file.write(png)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(f"The image cannot be stored: {reason}.") from None
        return f"{name}{_SUFFIX}?se={milliseconds}&sig={self._signature(name, milliseconds)}"

    def open(self, file_name: str, expires: str, signature: str) -> StoredImage:
        """Open the image of a URL. A symbolic link is never followed.

        Args:
            file_name: The name of the file.
            expires: The `se` of the URL.
            signature: The `sig` of the URL.

        Raises:
            ExpiredURLError: If the URL has expired, or the signature is wrong.
            NotFoundError: If the image was evicted.
        """
        name = file_name.removesuffix(_SUFFIX)
        # Compared as bytes: a client can send any characters.
        is_signed = expires.isdecimal() and hmac.compare_digest(
            self._signature(name, int(expires[:15])).encode(), signature.encode()
        )
        seconds = int(expires[:15]) / 1000 - time.time() if is_signed else 0
        if seconds <= 0:
            raise ExpiredURLError("The URL of this image has expired or is invalid.")
        try:
            file = open(self._directory / f"{name}{_SUFFIX}", "rb", opener=_open_file)
        except OSError:
            raise NotFoundError("This image was removed to make room for newer ones.") from None
        return StoredImage(file, os.fstat(file.fileno()).st_size, int(seconds))

    def tidy(self) -> None:
        """Remove expired files. If the folder cannot be read now, the next call tries again."""
        with self._lock, suppress(OSError):
            self._next_scan = 0.0
            self._evict(0)

    def _signature(self, name: str, milliseconds: int) -> str:
        text = f"{name}\n{milliseconds}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()

    def _evict(self, length: int) -> None:
        """Remove expired files, and the oldest ones until an image of this length fits.

        A folder can hold very many files. It is only scanned from time to time, and when it could
        be full.
        """
        self._free_bytes -= length
        if self._free_bytes >= 0 and time.monotonic() < self._next_scan:
            return
        files = sorted(self._files())
        now = time.time()
        total = length + sum(size for _, size, _ in files)
        for expiry, size, path in files:
            if expiry >= now and total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._free_bytes = self._max_bytes - total
        self._next_scan = time.monotonic() + self.tidy_seconds

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the expiry, the size and the path of each file."""
        for path in self._directory.iterdir():
            if _FILE_NAME.fullmatch(path.name):
                # Another process may have removed it.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    # The mtime of a file that is being written is not its expiry yet.
                    grace = _PART_SECONDS if path.suffix == ".part" else 0.0
                    yield status.st_mtime + grace, status.st_size, path


def _load_key(path: Path) -> bytes:
    """Return the folder's key. The first process makes it."""
    if not path.exists():
        # Unlike a rename, a link never replaces the key of another process.
        with suppress(FileExistsError), atomic_write(path, publish=os.link, mode=_MODE) as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError("the key is corrupt")
    return key


def _open_file(path: str, flags: int) -> int:
    # Windows has no such flag, and only administrators can make symbolic links there.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _extend(path: Path, expiry: float) -> bool:
    """Keep a file at least until a time. Return whether it exists."""
    try:
        if path.stat().st_mtime < expiry:
            os.utime(path, (expiry, expiry))
    except FileNotFoundError:
        return False
    return True
