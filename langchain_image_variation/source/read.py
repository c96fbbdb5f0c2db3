"""Reads the bytes of a source, wherever they are."""

import base64
import binascii
import os
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

from PIL import Image

from langchain_image_variation.exceptions import (
    DownloadError,
    InvalidRequestError,
    OutputError,
    SourceError,
)
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.regular_file import open_regular_file
from langchain_image_variation.files.shown_names import shown_name
from langchain_image_variation.files.storage_policy import DEFAULT_POLICY, StoragePolicy
from langchain_image_variation.files.storage_urls import has_password

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = [
    "MAX_SOURCE_BYTES",
    "ImageSource",
    "printable_stem",
    "read_file",
    "read_source",
    "read_stored_file",
]

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""A path, a `data:` or https URL, the bytes of an image file, an open binary file, or a PIL image.
"""

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""The maximum size of a source, in bytes."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NAME_LENGTH = 80


def read_source(source: object, urls: "URLPolicy | None") -> tuple[bytes, str]:
    """Return the bytes of a source, and its name without the suffix, or "image".

    Args:
        source: Any `ImageSource` but a PIL image.
        urls: The hosts that https URLs may be fetched from. None allows no URL.

    Raises:
        SourceError: If the source is of another type, does not exist, cannot be read or fetched, is
            empty, or is larger than `MAX_SOURCE_BYTES`.
        InvalidRequestError: If `urls` has an async transport.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _check_length(bytes(source)), "image"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _read_data_url(source), "image"
    if isinstance(source, str) and _URL.match(source):
        return _fetch_url(source, urls)
    if isinstance(source, str | os.PathLike):
        return read_file(source)
    if hasattr(source, "read"):
        return _read_open_file(cast(IO[bytes], source))
    raise SourceError(
        "image must be a path, bytes, an open binary file, a data: URL or a PIL image, "
        f"got {type(source).__name__}."
    )


def read_file(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Read a source from a file, and return its bytes and its name without the suffix.

    Raises:
        SourceError: If there is no such file, if it is not a regular file, is empty, is larger than
            `MAX_SOURCE_BYTES` or cannot be read.
    """
    path = Path(os.fsdecode(source))
    if not os.fspath(source):
        raise SourceError("The path is empty; pass the path of an image.")
    name = shown_name(str(path))
    try:
        file = open_regular_file(path, follow_link=True)
        if file is None:
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise SourceError(f"{name!r} is {kind}; pass the path of an image.")
        with file:
            return _check_length(file.read(MAX_SOURCE_BYTES + 1)), printable_stem(path.name)
    except FileNotFoundError:
        raise SourceError(f"There is no file {name!r}; check the path.") from None
    except PermissionError:
        raise SourceError(f"{name!r} cannot be read.", hint="Check its permissions.") from None
    except (OSError, ValueError):
        raise SourceError(f"{name!r} cannot be read; check the path.") from None


def read_stored_file(
    url: str, options: Mapping[str, Any], policy: StoragePolicy = DEFAULT_POLICY
) -> tuple[bytes, str]:
    """Read a source from a file system that fsspec knows; return its bytes and its name.

    Args:
        url: The URL of the file, such as "s3://bucket/photo.jpg".
        options: Passed to the file system, as fsspec's `storage_options`.
        policy: Which stores the URL may name.

    Raises:
        SourceError: If there is no such file, if it is empty, is larger than `MAX_SOURCE_BYTES` or
            cannot be read, or if the URL contains a password, or names several file systems or one
            that is not allowed.
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
    """
    if has_password(url):
        raise SourceError(
            "The URL of the source contains a password; move it to fsspec's configuration."
        )
    name = shown_name(url)
    try:
        policy.check_row(url)
        file_system = FileSystem(url, options, param="path", policy=policy)
        if file_system.folder is not None:
            return read_file(file_system.folder)
        with file_system.translate_read_errors(name):
            data = file_system.read("", MAX_SOURCE_BYTES + 1)
    except (InvalidRequestError, OutputError) as error:
        raise SourceError(error.message) from None
    if data is None:
        raise SourceError(f"There is no file {name!r}; check the URL.")
    return _check_length(data), printable_stem(name)


def _read_open_file(file: IO[bytes]) -> tuple[bytes, str]:
    parts: list[bytes] = []
    remaining = MAX_SOURCE_BYTES + 1
    # An unbuffered file may return fewer bytes than requested.
    while remaining > 0:
        try:
            part = file.read(remaining)
        except (OSError, TypeError, ValueError):
            raise SourceError("The open file cannot be read; is it closed?") from None
        if not isinstance(part, bytes | bytearray | memoryview):
            raise SourceError("The open file returns text; open it in binary mode ('rb').")
        if not part:
            break
        parts.append(bytes(part))
        remaining -= len(part)
    return _check_length(b"".join(parts)), printable_stem(getattr(file, "name", ""))


def _read_data_url(url: str) -> bytes:
    """Decode a `data:` URL (RFC 2397), in base64 or percent-encoded."""
    start = url.find(",") + 1
    if start == 0:
        raise SourceError("The data: URL has no comma before its data.")
    # Percent-encoding takes up to three characters a byte, more than base64.
    if len(url) - start > 3 * MAX_SOURCE_BYTES:
        raise SourceError(f"The data: URL exceeds the limit of {MAX_SOURCE_BYTES:,} bytes.")
    try:
        data = _percent_decode(url, start)
    except UnicodeEncodeError:
        raise SourceError(
            "The data: URL contains characters that URLs cannot contain; encode it again."
        ) from None
    if url[:start].lower().endswith(";base64,"):
        # Line breaks and missing padding are common and harmless.
        data = data.translate(None, _WHITE_SPACE)
        data += b"=" * (-len(data) % 4)
        try:
            return _check_length(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise SourceError("The data: URL does not contain valid base64.") from None
    return _check_length(bytes(data))


def _percent_decode(text: str, start: int) -> bytearray:
    """Decode the rest of a text in pieces, because `unquote_to_bytes` takes 70 times its length."""
    data = bytearray()
    while start < len(text):
        end = start + _PIECE
        # An escape such as "%89" must not be cut in two.
        percent = text.rfind("%", end - 2, end)
        if percent >= 0 and end < len(text):
            end = percent
        data += unquote_to_bytes(text[start:end])
        start = end
    return data


_PIECE = 65_536
_WHITE_SPACE = string.whitespace.encode("ascii")


def _fetch_url(url: str, urls: "URLPolicy | None") -> tuple[bytes, str]:
    if urls is None:
        raise SourceError(
            "URLs are not fetched by default.",
            hint="Download the image and pass its path, or allow its host with "
            "urls=URLPolicy(hosts=[...]).",
        )
    # Imported here because few sources are URLs, and httpx is slow to import.
    from langchain_image_variation.http.address import parse_url
    from langchain_image_variation.http.fetch import fetch
    from langchain_image_variation.http.flow import Driver

    if urls.transport is not None and not hasattr(urls.transport, "handle_request"):
        raise InvalidRequestError(
            "urls has an async transport; pass a URLPolicy with a sync one.", param="urls"
        )
    try:
        data = Driver(None).run(fetch(url, urls))
        return _check_length(data), printable_stem(parse_url(url).file_name)
    except DownloadError as error:
        raise SourceError(error.problem, hint=error.hint) from None


def _check_length(data: bytes) -> bytes:
    if not data:
        raise SourceError("The source is empty; pass an image file.")
    if len(data) > MAX_SOURCE_BYTES:
        raise SourceError(
            f"The source exceeds the limit of {MAX_SOURCE_BYTES:,} bytes (64 MB). Scale it down "
            "first."
        )
    return data


def printable_stem(name: object) -> str:
    """Return a file's name without its suffix, as one printable line."""
    # An open file's name may be a descriptor number, and a PIL image's may be bytes.
    stem = Path(name).stem if isinstance(name, str) else ""
    return "".join(c if c.isprintable() else "-" for c in stem)[:_NAME_LENGTH] or "image"
