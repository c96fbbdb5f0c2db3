"""The images that clients get as URLs: under signed names that expire."""

import hashlib
import hmac
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable
from contextlib import AbstractAsyncContextManager
from typing import BinaryIO, NamedTuple

from langchain_image_variation.exceptions import (
    ExpiredURLError,
    NotFoundError,
    ServiceUnavailableError,
)
from langchain_image_variation.images.png import MAX_PNG_BYTES
from langchain_image_variation.server.store.answer_record import AnswerRecords

__all__ = [
    "BYTES_PER_PIXEL",
    "DEFAULT_SIDE",
    "IMAGE_SUFFIX",
    "MAX_IMAGE_BYTES",
    "RETRY_SECONDS",
    "ImageStore",
    "StoredImage",
    "unavailable_error",
]

_LOGGER = logging.getLogger("langchain_image_variation.server")

RETRY_SECONDS = 30.0
"""How long a client should wait if its images cannot be stored, in seconds."""
IMAGE_SUFFIX = ".png"
MAX_IMAGE_BYTES = 2 * MAX_PNG_BYTES
"""A longer file cannot come from the server, and is not read. The longest image, noise of
1024 x 1024 pixels with alpha, takes little more than half of this."""
BYTES_PER_PIXEL = 4
"""The room that is reserved for an image before it is made: 8 bits for each of red, green, blue and
alpha. Compression only makes it smaller."""
DEFAULT_SIDE = 1024
_MAX_TIDY_SECONDS = 60.0


class StoredImage(NamedTuple):
    """An image of the store, ready to be read."""

    file: BinaryIO
    """The open file. It can be read to its end even if the store removes it in the meantime."""
    length: int
    """How many bytes the file has."""
    seconds: int
    """For how many more seconds its URL works."""


class ImageStore(ABC):
    """Keeps images for a while, together with answers to requests with an `Idempotency-Key`.

    A URL contains the hash of an image's content, its own expiry time in milliseconds, and an HMAC
    of both. The content is checked before an image is sent. So a file that somebody replaced is
    never sent.

    Args:
        ttl: For how many seconds a URL works.
    """

    def __init__(self, *, ttl: float) -> None:
        self.ttl = ttl
        """For how many seconds a URL works."""
        self.tidy_seconds = min(_MAX_TIDY_SECONDS, ttl)
        """How often to look for expired files."""

    def add_all(self, pngs: Iterable[bytes]) -> list[str]:
        """Store the images of one answer, and return the last part of the URL of each.

        Older images may be removed to make room, but none of the new ones.

        Raises:
            ServiceUnavailableError: If an image cannot be written.
        """
        milliseconds = int((time.time() + self.ttl) * 1000)
        addresses = []
        file_names: set[str] = set()
        for png in pngs:
            name = hashlib.sha256(png).hexdigest()
            file_names.add(f"{name}{IMAGE_SUFFIX}")
            self._store(name, png, milliseconds, keep=file_names)
            signature = self._signature(name, milliseconds)
            addresses.append(f"{name}{IMAGE_SUFFIX}?se={milliseconds}&sig={signature}")
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
            ServiceUnavailableError: If the store cannot be read now.
        """
        name = file_name.removesuffix(IMAGE_SUFFIX)
        milliseconds = int(expires[:15]) if expires.isdecimal() else 0
        # Compared as bytes: a client can send any characters.
        is_signed = hmac.compare_digest(
            self._signature(name, milliseconds).encode(), signature.encode()
        )
        seconds = milliseconds / 1000 - time.time() if is_signed else 0
        if seconds <= 0:
            raise ExpiredURLError("The URL of this image has expired or is invalid.")
        opened = self._open(name, milliseconds)
        if opened is None:
            raise NotFoundError("This image was removed to make room for newer ones.")
        return StoredImage(*opened, int(seconds))

    def _signature(self, name: str, milliseconds: int) -> str:
        return self.sign(f"{name}\n{milliseconds}")

    @abstractmethod
    def reserve(self, count: int, side: int) -> AbstractAsyncContextManager[None]:
        """Make sure that square images of this side can be stored until the block ends.

        Raises:
            ServiceUnavailableError: If they cannot.
        """

    @abstractmethod
    def has_room(self) -> bool:
        """Return whether the images of a request without optional fields could be stored now."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove expired files."""

    @abstractmethod
    def sign(self, text: str) -> str:
        """Return an HMAC-SHA256 (RFC 2104) of a text with the store's key, in hex."""

    @abstractmethod
    def answer_records(self, engine: str) -> AnswerRecords:
        """Return the records of the answers of an engine.

        Args:
            engine: A text that identifies the engine. Servers with different engines share no
                answers.
        """

    @abstractmethod
    def _store(self, name: str, png: bytes, milliseconds: int, *, keep: Container[str]) -> None:
        """Store an image, or keep the existing one at least until a time.

        Args:
            name: The hash of its content.
            png: Its content.
            milliseconds: When it may be removed, in milliseconds since 1970.
            keep: The names in URLs of images that must not be removed to make room for this one.

        Raises:
            ServiceUnavailableError: If the image cannot be written.
        """

    @abstractmethod
    def _open(self, name: str, milliseconds: int) -> tuple[BinaryIO, int] | None:
        """Open an image, and return the file and its length. Return None if it is not there.

        Args:
            name: The hash of its content. An image with other content is not there.
            milliseconds: The time that it was stored with.

        Raises:
            ServiceUnavailableError: If the store cannot be read now.
        """


def unavailable_error(reason: str) -> ServiceUnavailableError:
    """Log why images cannot be stored, and return the error for the client."""
    _LOGGER.warning("The store cannot keep images: %s", reason)
    error = ServiceUnavailableError(
        f"The server cannot store images now. Please try again in {RETRY_SECONDS:.0f}s, or request "
        "response_format=b64_json."
    )
    error.retry_after = RETRY_SECONDS
    return error
