"""Pictures that are given as addresses: files of a folder, under signed names that expire."""

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
from typing import BinaryIO

from langchain_image_variation.exceptions import ExpiredURLError, NotFoundError, OutputError
from langchain_image_variation.files.atomic import TEMPORARY_NAME, atomic_write

__all__ = ["PictureStore"]

_KEY_BYTES = 32
_SUFFIX = ".png"
_MODE = 0o600
# What the store writes itself; whatever else is in the folder is not touched.
_OURS = re.compile(r"[0-9a-f]{64}\.png|" + TEMPORARY_NAME.pattern)
_MOST_LOOK_SECONDS = 60.0
_PART_SECONDS = 600.0


class PictureStore:
    """Keeps pictures for a while, in a folder that outlives the process.

    An address is a file's name, the millisecond at which it expires, and an HMAC-SHA256 (RFC 2104)
    of both with a key that is kept in the folder too. Files are written whole or not at all, and
    carry as their time of change until when they are kept, so that stores of one folder need not
    agree on their settings. What is too much is removed when more comes, what is too
    old then too, and by `tidy`.

    Args:
        directory: The folder; made if it is missing, for this user alone.
        ttl: Seconds for which an address works.
        max_bytes: The most bytes that all pictures together may have; the oldest go first.

    Raises:
        OutputError: If the folder cannot be used.
    """

    def __init__(self, directory: Path, *, ttl: float, max_bytes: int) -> None:
        self._directory = directory
        self.ttl = ttl
        """Seconds for which an address works."""
        self.look_seconds = min(_MOST_LOOK_SECONDS, ttl)
        """How often what is too old is looked for."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._room = 0
        self._next_look = 0.0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = _key(directory / "key")
            self._make_room(0)
        except OSError:
            raise OutputError(
                f"The folder {directory.name!r} cannot be used for pictures; name another."
            ) from None

    def add(self, png: bytes) -> str:
        """Keep a picture and return its address, relative to where pictures are served.

        Raises:
            OutputError: If it cannot be written.
        """
        until = time.time() + self.ttl
        expires = int(until * 1000)
        name = hashlib.sha256(png).hexdigest()
        path = self._directory / f"{name}{_SUFFIX}"
        try:
            with self._lock:
                self._make_room(len(png))
                # Within the lock: another thread may be about to remove it as too old.
                is_kept = _kept(path, until)
            if not is_kept:
                with atomic_write(path, mode=_MODE, mtime=until) as file:
                    file.write(png)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(f"The picture cannot be kept: {reason}.") from None
        return f"{name}{_SUFFIX}?se={expires}&sig={self._signature(name, expires)}"

    def find(self, file_name: str, expires: str, signature: str) -> tuple[BinaryIO, int, int]:
        """Return the file of an address, open, its bytes, and for how many seconds more it works.

        Once open it stays whole, even if it makes room for others meanwhile.

        Raises:
            ExpiredURLError: If its time is over, or it was not given out here.
            NotFoundError: If the picture had to make room for others.
        """
        name = file_name.removesuffix(_SUFFIX)
        # Compared as bytes, for text of a stranger may hold any character.
        known = expires.isdecimal() and hmac.compare_digest(
            self._signature(name, int(expires[:15])).encode(), signature.encode()
        )
        left = int(expires[:15]) / 1000 - time.time() if known else 0
        if left <= 0:
            raise ExpiredURLError("The address of the picture has expired, or was never given out.")
        try:
            file = (self._directory / f"{name}{_SUFFIX}").open("rb")
            return file, os.fstat(file.fileno()).st_size, int(left)
        except OSError:
            raise NotFoundError("The picture is gone; it made room for newer ones.") from None

    def tidy(self) -> None:
        """Remove what has expired; a folder that cannot be read now is left for the next time."""
        with self._lock, suppress(OSError):
            self._next_look = 0.0
            self._make_room(0)

    def _signature(self, name: str, expires: int) -> str:
        text = f"{name}\n{expires}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()

    def _make_room(self, length: int) -> None:
        """Remove what has expired, and the oldest of what is too much.

        A folder may hold very many files, so it is looked through now and then, or when it must be
        full.
        """
        self._room -= length
        if self._room >= 0 and time.monotonic() < self._next_look:
            return
        files = sorted(self._files())
        now = time.time()
        total = length + sum(size for _, size, _ in files)
        for until, size, path in files:
            if until >= now and total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._room = self._max_bytes - total
        self._next_look = time.monotonic() + self.look_seconds

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield until when each file is kept, its bytes, and its path."""
        for path in self._directory.iterdir():
            if _OURS.fullmatch(path.name):
                # Another process may remove it meanwhile.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    # One that is being written has its own time still.
                    grace = _PART_SECONDS if path.suffix == ".part" else 0.0
                    yield status.st_mtime + grace, status.st_size, path


def _key(path: Path) -> bytes:
    """Return the folder's key, made by whoever comes first."""
    if not path.exists():
        # Unlike a rename, a link never replaces the key of another process.
        with suppress(FileExistsError), atomic_write(path, publish=os.link, mode=_MODE) as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError("the key is broken")
    return key


def _kept(path: Path, until: float) -> bool:
    """Keep a file that is there already at least as long."""
    try:
        if path.stat().st_mtime < until:
            os.utime(path, (until, until))
    except FileNotFoundError:
        return False
    return True
