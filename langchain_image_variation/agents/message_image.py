"""`MessageImage`: an image in a message. Its name is a hash of its content.

The name is therefore the same in every process, agent and framework, and never comes to mean
another image, however the messages are trimmed, edited or resumed.
"""

import hashlib
import re
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    SourceError,
)
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.formats import recognize_supported
from langchain_image_variation.images.normalize import upright_size
from langchain_image_variation.images.pixels import open_image
from langchain_image_variation.images.work_limits import check_size
from langchain_image_variation.source.read import read_source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["ImageIdentity", "MessageImage", "identify", "image_name", "normalize_name"]

_NAME_DIGITS = 8
_NAME = re.compile(rf"img[_ -]?([0-9a-f]{{{_NAME_DIGITS}}})", re.IGNORECASE)

_MAX_IDENTITIES = 4_096
"""The maximum number of images whose identity is remembered. One takes about 500 bytes."""


def image_name(sha256: str) -> str:
    """Return the name of an image, such as "img_7c1e09ab", from its SHA-256 in hex."""
    return f"img_{sha256[:_NAME_DIGITS]}"


def normalize_name(handle: str) -> str | None:
    """Return the name that a handle spells, or None if it has another form."""
    match = _NAME.fullmatch(handle)
    return match and image_name(match[1].lower())


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """The hash that distinguishes an image from all others, and what its header says."""

    sha256: str
    """The SHA-256, in hex, of the image's file, or of its URL if the message has only that."""
    size: tuple[int, int] | None = None
    """Width and height in pixels, as a viewer shows them, if the file could be read."""
    format: str | None = None
    """The format of the file, if it is one of `FORMATS`."""
    byte_count: int = 0
    """The length of the file, in bytes."""

    @property
    def name(self) -> str:
        """The name of the image, such as "img_7c1e09ab"."""
        return image_name(self.sha256)


@dataclass(frozen=True, slots=True)
class MessageImage:
    """An image in a message from the user, the model or another tool."""

    url: str | None
    """A `data:` or https URL, or None if the message has none."""
    base64: str | bytes | None = None
    """The image in base64: the message's own object, not a copy."""
    file: bytes | None = None
    """The image's file, if the message has it."""

    @property
    def is_link(self) -> bool:
        """Whether the message has only an https URL of the image."""
        return self._content is self.url and (self.url or "")[:8].lower() == "https://"

    @property
    def identity(self) -> ImageIdentity | None:
        """The identity of the image, or None if the message has neither data nor an https URL.

        It is computed once and remembered: decoding and hashing all images of a long conversation
        at each call would take seconds.
        """
        if self.is_link:
            return ImageIdentity(_hash_text(self.url or ""))
        content = self._content
        if content is None:
            return None
        # Not the content itself, which would stay in memory. Python computes the hash of an object
        # once. If two images had the same hash, `read` would refuse the second.
        key = (content is self.file, content is self.url, len(content), hash(content))
        with _lock:
            if key in _identities:
                return _identities[key]
        try:
            identity = identify(read_source(self._source(), None)[0])
        except SourceError:
            identity = None
        with _lock:
            _identities[key] = identity
            while len(_identities) > _MAX_IDENTITIES:
                del _identities[next(iter(_identities))]
        return identity

    @property
    def name(self) -> str | None:
        """The name of the image, such as "img_7c1e09ab", or None if it has no identity."""
        return self.identity.name if self.identity else None

    def read(self, urls: "URLPolicy | None") -> bytes:
        """Return the image's file.

        Args:
            urls: The hosts from which it may be fetched by URL.

        Raises:
            SourceError: If the message does not have the image, if it is too large, or if it cannot
                be decoded or fetched.
        """
        data, _ = read_source(self._source(), urls)
        identity = self.identity
        if not self.is_link and identity and hashlib.sha256(data).hexdigest() != identity.sha256:
            raise SourceError(
                "The image cannot be told apart from another one. Ask the user to save it in "
                "another format and to send it again."
            )
        return data

    @property
    def _content(self) -> str | bytes | None:
        if self.file is not None:
            return self.file
        return self.url if self.base64 is None else self.base64

    def _source(self) -> str | bytes:
        """Return a source for `read_source`, which would take other text for a path."""
        if self.file is not None:
            return self.file
        if self.base64 is not None:
            text = self.base64
            return f"data:;base64,{text.decode('latin-1') if isinstance(text, bytes) else text}"
        url = self.url or ""
        if url[:5].lower() == "data:" or self.is_link:
            return url
        raise SourceError(
            "The message contains neither the image data nor an https URL. Ask the user to upload "
            "the image itself."
        )

    def __repr__(self) -> str:
        return "MessageImage()"


_identities: dict[tuple[bool, bool, int, int], ImageIdentity | None] = {}
_lock = threading.Lock()


def identify(data: bytes) -> ImageIdentity:
    """Return the identity of an image from its file."""
    return ImageIdentity(
        hashlib.sha256(data).hexdigest(), _read_size(data), recognize_supported(data), len(data)
    )


def _read_size(data: bytes) -> tuple[int, int] | None:
    """Return the upright width and height of an image in pixels, or None. Nothing is decoded."""
    format = recognize_supported(data)
    if format is None:
        return None
    try:
        if format == "PNG":
            # Pillow would also decompress text and profiles.
            width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
            check_size(width, height)
            return (width, height) if width and height else None
        with (
            translate_decoder_errors(lambda: SourceError("The image is corrupt.")),
            open_image(data, (format,)) as image,
        ):
            return upright_size(image)
    except (InvalidRequestError, MissingExtraError):
        return None


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
