"""The images of several servers, as files in any file system that fsspec supports."""

import hashlib
import hmac
import io
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

import anyio

from langchain_image_variation.exceptions import (
    OutputError,
    ServiceUnavailableError,
)
from langchain_image_variation.files.atomic import TEMPORARY_NAME, is_left_over
from langchain_image_variation.files.file_system import FileSystem, ListedFile
from langchain_image_variation.files.shared_file_system import SharedFileSystem
from langchain_image_variation.files.storage_policy import StoragePolicy
from langchain_image_variation.server.store.image_store import (
    IMAGE_SUFFIX,
    MAX_IMAGE_BYTES,
    RETRY_SECONDS,
    ImageStore,
    unavailable_error,
)
from langchain_image_variation.server.store.url_answers import (
    ANSWER_NAME,
    MAX_ANSWER_SECONDS,
    URLAnswers,
)

__all__ = ["MAX_OPEN_BYTES", "URLStore"]

_LOGGER = logging.getLogger("langchain_image_variation.server")

MAX_OPEN_BYTES = 256 * 1024 * 1024
"""The maximum total size of the images that a server sends from a URL at the same time, in bytes.
An image stays in memory until its client has read it. 256 MiB are 60 of the longest images."""
_IMAGE_NAME = re.compile(rf"([0-9]{{15}})-[0-9a-f]{{64}}{re.escape(IMAGE_SUFFIX)}")
_PROBE_NAME = ".writable"
_PROBE_SECONDS = 1.0
"""After a failed write, the minimum time between two attempts to write, in seconds."""
_CLOCK_TOLERANCE = 60.0
"""How far the clocks of two servers may differ, in seconds. A file is removed this much later."""
_SPARE_PART = 20
"""If the store is full, one part in 20 is freed, because finding the oldest files takes a request
per thousand files."""


class URLStore(ImageStore):
    """Keeps images below a URL such as "s3://bucket/prefix", for servers on several machines.

    No file is ever changed, so servers cannot disturb each other. The name of an image's file
    contains its expiry time. Object stores cannot set another mtime, and a server that lists the
    files must see which have expired. Files with other names are left alone.

    Each server looks for expired files from time to time, and if the files that it knows of exceed
    `max_bytes`. In between, it does not know what others have stored.

    Args:
        url: The URL. A bucket must exist.
        options: Passed to the file system, as fsspec's `storage_options`.
        signing_key: Signs URLs and answers. All servers need the same.
        ttl: For how many seconds a URL works.
        max_bytes: The maximum total size of the files in the store, in bytes.
        max_open_bytes: The maximum total size of the images that are open, in bytes.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If the URL is of an unknown kind, or names several file systems.
        OutputError: If the store cannot be opened, written to or listed.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        signing_key: str,
        ttl: float,
        max_bytes: int,
        max_open_bytes: int = MAX_OPEN_BYTES,
    ) -> None:
        super().__init__(ttl=ttl)
        self.shared_files = SharedFileSystem(
            partial(
                FileSystem,
                url,
                dict(options),
                param="store_url",
                policy=StoragePolicy.for_kind_of(url),
            )
        )
        """The file system."""
        self.max_bytes = max_bytes
        """The maximum total size of the files in the store, in bytes."""
        self._key = signing_key.encode()
        # Sending an image takes this one, in the event loop too: never hold it during a request.
        self._lock = threading.Lock()
        self._scan_lock = threading.Lock()
        self._free_bytes = 0
        self._next_scan = 0.0
        self._max_open_bytes = max_open_bytes
        self._open_bytes = 0
        self._has_failed = False
        self._next_probe = 0.0
        files = self.shared_files.get()
        problem = "cannot be used by the server; check store_url, its options and its permissions"
        with files.translate_errors(problem):
            files.write_in_folder("", lambda: files.write(_PROBE_NAME, b""))
            self._evict()

    @asynccontextmanager
    async def reserve(self, count: int, side: int) -> AsyncIterator[None]:
        """Check that images can be stored now. A store at a URL cannot reserve room.

        Raises:
            ServiceUnavailableError: If the last write failed, and writing still fails.
        """
        await anyio.to_thread.run_sync(self._check_writing)
        yield

    def has_room(self) -> bool:
        """Return whether images could be stored now."""
        try:
            self._check_writing()
        except ServiceUnavailableError:
            return False
        return True

    def tidy(self) -> None:
        """Remove expired files. If the store cannot be listed now, the next call tries again."""
        try:
            with self._scan_lock:
                self._evict()
        # A file system may raise any error of the library below it.
        except Exception as error:
            _LOGGER.warning("The store cannot be tidied: %s", type(error).__name__)

    def sign(self, text: str) -> str:
        """Return an HMAC-SHA256 (RFC 2104) of a text with the signing key, in hex."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def answer_records(self, engine: str) -> URLAnswers:
        """Return the records of the answers of an engine."""
        return URLAnswers(self, engine)

    def make_room(self, length: int, *, keep: Container[str] = ()) -> None:
        """Before a file is written, remove expired files, and the oldest ones if the store is full.

        Raises:
            Exception: The file system's own, if it cannot be listed.
        """
        if self._take_room(length):
            return
        with self._scan_lock:
            # Another thread may have made room in the meantime.
            if not self._take_room(length):
                self._evict(length, keep=keep)

    def _take_room(self, length: int) -> bool:
        """Count a file as stored, unless the files must be listed first. Return whether it is."""
        with self._lock:
            if self._free_bytes < length or time.monotonic() >= self._next_scan:
                return False
            self._free_bytes -= length
            return True

    def _store(self, name: str, png: bytes, milliseconds: int, *, keep: Container[str]) -> None:
        file_name = _file_name(name, milliseconds)
        try:
            self.make_room(len(png), keep=keep)
            files = self.shared_files.get()
            files.write_in_folder("", lambda: files.write(file_name, png))
        except Exception as error:
            self._has_failed = True
            raise unavailable_error(_reason(error)) from None

    def _open(self, name: str, milliseconds: int) -> tuple[BinaryIO, int] | None:
        try:
            file_name = _file_name(name, milliseconds)
            data = self.shared_files.get().read(file_name, MAX_IMAGE_BYTES + 1)
        except Exception as error:
            _LOGGER.warning("The store cannot be read: %s", _reason(error))
            raise _busy_error("The server cannot read this image now.") from None
        if data is None:
            return None
        if hashlib.sha256(data).hexdigest() != name:
            _LOGGER.warning("The content of a file of the store was replaced: %s", file_name)
            return None
        with self._lock:
            if self._open_bytes + len(data) > self._max_open_bytes:
                raise _busy_error("The server is sending too many images at once.")
            self._open_bytes += len(data)
        return _OpenImage(data, self._release), len(data)

    def _release(self, length: int) -> None:
        with self._lock:
            self._open_bytes -= length

    def _check_writing(self) -> None:
        """If the last write failed, check whether a file can be written now.

        Raises:
            ServiceUnavailableError: If it cannot.
        """
        with self._lock:
            if not self._has_failed:
                return
            if time.monotonic() < self._next_probe:
                raise unavailable_error("the last write failed")
            self._next_probe = time.monotonic() + _PROBE_SECONDS
        try:
            files = self.shared_files.get()
            files.write_in_folder("", lambda: files.write(_PROBE_NAME, b""))
        except Exception as error:
            raise unavailable_error(_reason(error)) from None
        self._has_failed = False

    def _evict(self, length: int = 0, *, keep: Container[str] = ()) -> None:
        """Remove expired files, then the oldest ones until a file of this length fits.

        The caller holds `_scan_lock`, so that waiting threads do not list the files again.

        Raises:
            Exception: The file system's own, if it cannot be listed.
        """
        files = self.shared_files.get()
        with self._lock:
            self._next_scan = time.monotonic() + self.tidy_seconds
            free_bytes = self._free_bytes
        listed_files = [file for file in files.list_folder("") if _is_ours(file.name)]
        stored_bytes = length + sum(file.byte_count for file in listed_files)
        is_full = stored_bytes > self.max_bytes
        target = self.max_bytes - self.max_bytes // _SPARE_PART if is_full else self.max_bytes
        names, now = [], time.time()
        # The store's clock set all of these times.
        for file in sorted(listed_files, key=lambda file: (file.mtime, file.name)):
            is_unfinished = TEMPORARY_NAME.fullmatch(file.name) is not None
            is_needed = is_unfinished or _name_in_url(file.name) in keep
            if _has_expired(file, now) or (stored_bytes > target and not is_needed):
                names.append(file.name)
                stored_bytes -= file.byte_count
        with self._lock:
            # What other threads took during the listing may not be in it.
            taken_bytes = free_bytes - self._free_bytes
            self._free_bytes = self.max_bytes - stored_bytes - taken_bytes
        # Another server may remove the same files. What is left is removed the next time.
        with suppress(Exception):
            files.remove_all(names)


class _OpenImage(io.BytesIO):
    """An image in memory.

    Args:
        data: The image.
        release: Called once with its length, when the file is closed.
    """

    def __init__(self, data: bytes, release: Callable[[int], None]) -> None:
        super().__init__(data)
        self._length, self._release = len(data), release

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._release(self._length)
        super().close()


def _file_name(name: str, milliseconds: int) -> str:
    return f"{milliseconds:015}-{name}{IMAGE_SUFFIX}"


def _name_in_url(file_name: str) -> str:
    return file_name.rpartition("-")[2]


def _is_ours(file_name: str) -> bool:
    patterns = (_IMAGE_NAME, ANSWER_NAME, TEMPORARY_NAME)
    return any(pattern.fullmatch(file_name) for pattern in patterns)


def _has_expired(file: ListedFile, now: float) -> bool:
    """Return whether a file is useless, also to servers whose clocks are late."""
    if match := _IMAGE_NAME.fullmatch(file.name):
        return int(match[1]) / 1000 + _CLOCK_TOLERANCE < now
    if not file.mtime:
        # The file system lists no times.
        return False
    if ANSWER_NAME.fullmatch(file.name):
        return file.mtime + MAX_ANSWER_SECONDS + _CLOCK_TOLERANCE < now
    return is_left_over(file.name, file.mtime)


def _reason(error: Exception) -> str:
    # The text of another library may contain the URL, and a key in it.
    return error.message if isinstance(error, OutputError) else type(error).__name__


def _busy_error(message: str) -> ServiceUnavailableError:
    error = ServiceUnavailableError(f"{message} Please try again in {RETRY_SECONDS:.0f}s.")
    error.retry_after = RETRY_SECONDS
    return error
