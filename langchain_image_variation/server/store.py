"""The images that clients get as URLs: files in a folder, under signed names that expire."""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

import anyio

from langchain_image_variation.exceptions import ExpiredURLError, NotFoundError
from langchain_image_variation.images.png import MAX_PNG_BYTES
from langchain_image_variation.server.store_folder import Reservation, StoreFolder

__all__ = ["ImageStore", "StoredImage"]

LOGGER = logging.getLogger("langchain_image_variation.server")

_SUFFIX = ".png"
_MAX_TIDY_SECONDS = 60.0
_MAX_IMAGE_BYTES = 2 * MAX_PNG_BYTES
"""A longer file cannot come from the server, and is not read. The longest image, noise of
1024 x 1024 pixels with alpha, takes little more than half of this."""
_BYTES_PER_PIXEL = 4
"""The room that is reserved for an image before it is made: 8 bits for each of red, green, blue and
alpha. Compression only makes it smaller."""
_DEFAULT_SIDE = 1024
_MAX_CHECKED_FILES = 1000
"""How many intact files to remember, because checking a file of 2 MB takes 2 ms."""


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

    A URL contains the name of a file, its own expiry time in milliseconds, and an HMAC of both. The
    folder contains the key of the HMAC. The name is the hash of the file's content, and it is
    checked before an image is sent. So a file that somebody replaced is never sent.

    Args:
        directory: The folder. See `StoreFolder`.
        ttl: For how many seconds a URL works.
        max_bytes: The maximum total size of the files in the store, in bytes.

    Raises:
        OutputError: If the folder cannot be used.
    """

    def __init__(self, directory: Path, *, ttl: float, max_bytes: int) -> None:
        self.ttl = ttl
        """For how many seconds a URL works."""
        self.tidy_seconds = min(_MAX_TIDY_SECONDS, ttl)
        """How often to look for expired files."""
        self.folder = StoreFolder(directory, max_bytes=max_bytes, tidy_seconds=self.tidy_seconds)
        """Where the images are."""
        self._checked_files: set[tuple[object, ...]] = set()

    @asynccontextmanager
    async def reserve(self, count: int, side: int) -> AsyncIterator[None]:
        """Reserve room on the disk for square images of this side, until the block ends.

        Raises:
            ServiceUnavailableError: If there is no room.
        """
        reservation = Reservation(count * side * side * _BYTES_PER_PIXEL)
        try:
            await anyio.to_thread.run_sync(self.folder.reserve, reservation)
            yield
        finally:
            self.folder.release(reservation)

    def has_room(self) -> bool:
        """Return whether there is room for the images of a request without optional fields."""
        return self.folder.has_room(_DEFAULT_SIDE**2 * _BYTES_PER_PIXEL)

    def add_all(self, pngs: Iterable[bytes]) -> list[str]:
        """Store the images of one answer, and return the last part of the URL of each.

        To make room, older images are removed, but none of these.

        Raises:
            ServiceUnavailableError: If an image cannot be written.
        """
        expiry = time.time() + self.ttl
        milliseconds = int(expiry * 1000)
        addresses = []
        file_names: set[str] = set()
        for png in pngs:
            name = hashlib.sha256(png).hexdigest()
            file_names.add(f"{name}{_SUFFIX}")
            self.folder.store(
                f"{name}{_SUFFIX}",
                png,
                expiry=expiry,
                is_intact=partial(self._is_intact, name=name),
                keep=file_names,
            )
            signature = self._signature(name, milliseconds)
            addresses.append(f"{name}{_SUFFIX}?se={milliseconds}&sig={signature}")
        return addresses

    def open(self, file_name: str, expires: str, signature: str) -> StoredImage:
        """Open the image of a URL.

        Args:
            file_name: The name of the file.
            expires: The `se` of the URL.
            signature: The `sig` of the URL.

        Raises:
            ExpiredURLError: If the URL has expired, or the signature is wrong.
            NotFoundError: If the image was evicted, or its file was replaced.
        """
        name = file_name.removesuffix(_SUFFIX)
        # Compared as bytes: a client can send any characters.
        is_signed = expires.isdecimal() and hmac.compare_digest(
            self._signature(name, int(expires[:15])).encode(), signature.encode()
        )
        seconds = int(expires[:15]) / 1000 - time.time() if is_signed else 0
        if seconds <= 0:
            raise ExpiredURLError("The URL of this image has expired or is invalid.")
        file = self.folder.open(f"{name}{_SUFFIX}")
        if file is not None and self._is_intact(file, name=name):
            return StoredImage(file, os.fstat(file.fileno()).st_size, int(seconds))
        if file is not None:
            file.close()
        raise NotFoundError("This image was removed to make room for newer ones.")

    def tidy(self) -> None:
        """Remove expired files."""
        self.folder.tidy()

    def _signature(self, name: str, milliseconds: int) -> str:
        return self.folder.sign(f"{name}\n{milliseconds}")

    def _is_intact(self, file: BufferedReader, *, name: str) -> bool:
        """Return whether a file has the content that its name promises."""
        status = os.fstat(file.fileno())
        # Any change of a file changes its ctime.
        times = (status.st_mtime_ns, status.st_ctime_ns)
        identity = (name, status.st_dev, status.st_ino, status.st_size, *times)
        if identity in self._checked_files:
            return True
        is_intact = (
            status.st_size <= _MAX_IMAGE_BYTES
            and hashlib.file_digest(file, "sha256").hexdigest() == name
        )
        if not is_intact:
            LOGGER.warning("The content of a file of the store was replaced: %s%s", name, _SUFFIX)
            return False
        file.seek(0)
        if len(self._checked_files) >= _MAX_CHECKED_FILES:
            self._checked_files.clear()
        self._checked_files.add(identity)
        return True
