"""`Uploads`: the images that users sent in one conversation. They outlive its messages.

Messages are trimmed and summarized, but a model may still know the names of the images in them. So
each image is kept as it was sent, in the folder `uploads` of the conversation's own folder of
results. `UploadFolder` keeps uploads in a local folder, `UploadStorage` in any file system that
fsspec supports.

The name of a file contains the hash of the image, so a list of the folder describes all uploads.
Whenever a file is read, its content is compared with that hash.
"""

import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.message_image import (
    ImageIdentity,
    MessageImage,
    identify,
    image_name,
)
from langchain_image_variation.exceptions import OutputError, SourceError
from langchain_image_variation.files.atomic import is_left_over

__all__ = [
    "MAX_UPLOADS",
    "UPLOADS_FOLDER",
    "KeptUpload",
    "UploadLimits",
    "Uploads",
    "is_upload_file",
]

UPLOADS_FOLDER = "uploads"
"""The folder of uploads, in the folder of a conversation."""

MAX_UPLOADS = 10_000
"""The maximum number of files to look at, and therefore the maximum of the setting
`max_uploads`. Listing them takes about ten milliseconds."""

_SUFFIXES = {
    "PNG": "png",
    "JPEG": "jpg",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
    "HEIC": "heic",
}
_CONTENT_DIGITS = 32
_FILE_NAME = re.compile(
    rf"img_(?P<sha256>[0-9a-f]{{64}})(?:-(?P<content>[0-9a-f]{{{_CONTENT_DIGITS}}}))?"
    rf"(?:-(?P<width>[0-9]{{1,8}})x(?P<height>[0-9]{{1,8}}))?\.(?:{'|'.join(_SUFFIXES.values())})"
)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How many uploads of a conversation are kept. The least recently used are deleted first."""

    max_count: int
    """The maximum number of uploads."""
    max_bytes: int
    """The maximum size of all uploads together, in bytes."""
    max_age: timedelta | None
    """How long an unused upload is kept after its message is gone, or None for no limit."""


@dataclass(frozen=True, slots=True)
class KeptUpload:
    """An image that is kept, as its file's name describes it."""

    file_name: str
    sha256: str
    """The SHA-256 of its file, or of its URL; see `ImageIdentity`."""
    content_digits: str
    """The SHA-256 of its file, or the beginning of it."""
    size: tuple[int, int] | None
    """Width and height in pixels."""
    byte_count: int
    """The length of its file, in bytes."""
    time: float
    """When it was kept or last varied, in seconds since 1970."""

    @classmethod
    def parse(cls, file_name: str, byte_count: int, time: float) -> Self | None:
        """Return the upload that a file's name describes, or None if the name has another form."""
        match = _FILE_NAME.fullmatch(file_name)
        if match is None:
            return None
        size = (int(match["width"]), int(match["height"])) if match["width"] else None
        content_digits = match["content"] or match["sha256"]
        return cls(file_name, match["sha256"], content_digits, size, byte_count, time)

    @classmethod
    def describe(cls, sha256: str, content: ImageIdentity) -> Self | None:
        """Return a new upload, or None if it is not an image in a supported format.

        Args:
            sha256: The SHA-256 of its file, or of its URL.
            content: The identity of its file.
        """
        if content.format is None:
            return None
        parts = [f"img_{sha256}"]
        if sha256 != content.sha256:
            parts.append(content.sha256[:_CONTENT_DIGITS])
        if content.size is not None:
            parts.append(f"{content.size[0]}x{content.size[1]}")
        file_name = f"{'-'.join(parts)}.{_SUFFIXES[content.format]}"
        return cls.parse(file_name, content.byte_count, time.time())

    @property
    def name(self) -> str:
        """The name of the image, such as "img_7c1e09ab"."""
        return image_name(self.sha256)


def is_upload_file(name: str, mtime: float) -> bool:
    """Return whether a file is an upload, or what is left of one that was never finished.

    Args:
        name: The name of the file.
        mtime: Its modification time, in seconds since 1970.
    """
    return _FILE_NAME.fullmatch(name) is not None or is_left_over(name, mtime)


class Uploads(ABC):
    """The uploads of one conversation.

    Args:
        limits: How many are kept.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._newest_time = 0.0
        """The time of the newest upload that is kept."""

    def keep(self, images: Sequence[MessageImage], *, used_name: str | None) -> list[KeptUpload]:
        """Keep the images in a conversation's messages, and delete what exceeds the limits.

        The images in the messages go before all others, the newest of them first. `add` keeps
        images that are only links, once they were fetched. If an image cannot be kept, a warning is
        logged, and the call continues without it.

        Args:
            images: The images in the messages, the oldest first.
            used_name: The name of an image that the call is about to read. It goes before all
                others.

        Returns:
            The uploads that are kept, the least recently used first.
        """
        try:
            existing_uploads = sorted(self._list(), key=lambda u: (u.time, u.file_name))
        except OutputError as error:
            log_hint(error.message)
            return []
        self._newest_time = existing_uploads[-1].time if existing_uploads else 0.0
        uploads: dict[str, KeptUpload] = {}
        for upload in existing_uploads:
            # Two calls may have fetched different images from one URL. The first one counts.
            uploads.setdefault(upload.sha256, upload)
        images_by_hash: dict[str, MessageImage] = {}
        for image in images:
            if (identity := image.identity) is not None:
                # The last of several equal images counts.
                images_by_hash.pop(identity.sha256, None)
                images_by_hash[identity.sha256] = image
        kept_uploads = self._choose(uploads, images_by_hash, used_name)
        kept_files = {upload.file_name for upload in kept_uploads}
        for upload in existing_uploads:
            if upload.file_name not in kept_files:
                self._delete(upload.file_name)
        existing = set(existing_uploads)
        for upload in [upload for upload in kept_uploads if upload not in existing]:
            try:
                self._write(upload.file_name, images_by_hash[upload.sha256].read(None))
            except (OutputError, SourceError) as error:
                log_hint(error.message)
                kept_uploads.remove(upload)
        return kept_uploads

    def add(self, image: MessageImage, data: bytes) -> None:
        """Keep an image that was fetched from its URL. Its name then means this content.

        Args:
            image: The image.
            data: Its file.
        """
        if not self._limits.max_count or not 0 < len(data) <= self._limits.max_bytes:
            return
        if image.identity is None:
            return
        upload = KeptUpload.describe(image.identity.sha256, identify(data))
        if upload is None:
            return
        try:
            self._write(upload.file_name, data)
        except OutputError as error:
            log_hint(error.message)

    def read(self, upload: KeptUpload) -> bytes | None:
        """Return the file of an upload, or None if it was deleted or changed.

        Raises:
            OutputError: If it cannot be read.
        """
        data = self._read(upload.file_name)
        if data is None or not hashlib.sha256(data).hexdigest().startswith(upload.content_digits):
            return None
        return data

    @abstractmethod
    def renew(self, upload: KeptUpload, data: bytes) -> None:
        """Record that an upload was used now, if that is possible.

        Args:
            upload: The upload.
            data: Its file.
        """

    def _choose(
        self,
        uploads: dict[str, KeptUpload],
        images: dict[str, MessageImage],
        used_name: str | None,
    ) -> list[KeptUpload]:
        """Return the uploads to keep within the limits, the least recently used first."""
        chosen: list[KeptUpload] = []
        byte_count = 0
        for upload in _newest_first(uploads, images, used_name, self._limits.max_age):
            # One that is too large even alone must not displace the others.
            if upload.byte_count > self._limits.max_bytes:
                continue
            byte_count += upload.byte_count
            if len(chosen) == self._limits.max_count or byte_count > self._limits.max_bytes:
                break
            chosen.append(upload)
        return chosen[::-1]

    @abstractmethod
    def delete_all(self) -> None:
        """Delete all uploads, and their folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or an upload cannot be deleted.
        """

    @abstractmethod
    def _list(self) -> list[KeptUpload]:
        """Return all uploads, in any order.

        Raises:
            OutputError: If the folder exists, but cannot be listed.
        """

    @abstractmethod
    def _read(self, file_name: str) -> bytes | None:
        """Return the content of a file, or None if there is no such file.

        Raises:
            OutputError: If it cannot be read.
        """

    @abstractmethod
    def _write(self, file_name: str, data: bytes) -> None:
        """Write a file, replacing an older one completely.

        Raises:
            OutputError: If it cannot be written.
        """

    @abstractmethod
    def _delete(self, file_name: str) -> None:
        """Delete a file. A file that cannot be deleted stays."""


def _newest_first(
    uploads: dict[str, KeptUpload],
    images: dict[str, MessageImage],
    used_name: str | None,
    max_age: timedelta | None,
) -> Iterator[KeptUpload]:
    """Yield the uploads that may be kept: the one in use, those in messages, and all others."""
    ranked: dict[str, None] = dict.fromkeys(reversed(images))
    ranked |= dict.fromkeys(reversed(uploads))
    oldest_time = -1.0 if max_age is None else time.time() - max_age.total_seconds()
    for sha256 in sorted(ranked, key=lambda sha256: image_name(sha256) != used_name):
        image, upload = images.get(sha256), uploads.get(sha256)
        is_in_use = image is not None or image_name(sha256) == used_name
        if upload is not None and not is_in_use and upload.time < oldest_time:
            continue
        identity = None if image is None or image.is_link else image.identity
        # A file of another length is not the whole image.
        if identity and (upload is None or upload.byte_count != identity.byte_count):
            upload = KeptUpload.describe(sha256, identity)
        if upload is not None:
            yield upload
