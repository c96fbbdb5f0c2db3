"""`UploadFolder`: the uploads of a conversation in a local folder."""

import contextlib
import os
import time
from itertools import islice
from pathlib import PurePosixPath

from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.agents.uploads import (
    MAX_UPLOADS,
    KeptUpload,
    UploadLimits,
    Uploads,
    is_upload_file,
)
from langchain_image_variation.exceptions import OutputError, SourceError
from langchain_image_variation.files.atomic import atomic_write, is_left_over
from langchain_image_variation.files.listing import list_files
from langchain_image_variation.files.removal import remove_files
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

__all__ = ["UploadFolder"]


class UploadFolder(Uploads):
    """Uploads in a local folder.

    Args:
        image_folder: The folder of images, which confines the folder of uploads.
        folder: The folder of uploads, relative to `image_folder`.
        limits: How many are kept.
    """

    def __init__(
        self, image_folder: ImageFolder, folder: PurePosixPath, limits: UploadLimits
    ) -> None:
        super().__init__(limits)
        self._image_folder = image_folder
        self._relative_folder = folder
        self._folder = image_folder.root / folder

    def renew(self, upload: KeptUpload, data: bytes) -> None:
        """Record that an upload was used now, if that is possible."""
        self._set_newest(upload.file_name)

    def delete_all(self) -> None:
        """Delete all uploads, and their folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or an upload cannot be deleted.
        """
        self._check_folder()
        remove_files(self._folder, is_upload_file)

    def _list(self) -> list[KeptUpload]:
        self._check_folder()
        uploads = []
        try:
            for name, status in islice(list_files(self._folder), MAX_UPLOADS):
                upload = KeptUpload.parse(name, status.st_size, status.st_mtime)
                if upload is not None:
                    uploads.append(upload)
                elif is_left_over(name, status.st_mtime):
                    self._delete(name)
        except FileNotFoundError:
            return []
        except OSError:
            raise OutputError(
                "The uploads of this conversation cannot be listed.",
                hint="Check the permissions of output_dir.",
            ) from None
        return uploads

    def _read(self, file_name: str) -> bytes | None:
        try:
            file = self._image_folder.open((self._relative_folder / file_name).as_posix())
        except SourceError:
            # A link is not the file that was written.
            return None
        if file is None:
            return None
        with file:
            return file.read(MAX_SOURCE_BYTES + 1)

    def _write(self, file_name: str, data: bytes) -> None:
        self._check_folder()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._folder / file_name) as file:
                file.write(data)
            self._set_newest(file_name)
        except OSError as error:
            raise OutputError(
                "An image of a message cannot be kept for later calls: "
                f"{error.strerror or type(error).__name__}. Free some space, or check the "
                "permissions of output_dir."
            ) from None

    def _delete(self, file_name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / file_name).unlink()

    def _set_newest(self, file_name: str) -> None:
        # If the clock was set back, other uploads must not count as newer.
        now = max(time.time_ns(), int(self._newest_time * 1e9) + 10_000)
        self._newest_time = now / 1e9
        with contextlib.suppress(OSError):
            os.utime(self._folder / file_name, ns=(now, now))

    def _check_folder(self) -> None:
        """Check that files in the folder are not those of another folder."""
        # It is in the folder of a conversation, which may also be a link.
        is_link = self._folder.is_symlink() or self._folder.parent.is_symlink()
        if is_link or not self._image_folder.contains(self._relative_folder):
            raise OutputError("The folder of a conversation's uploads is a link. Delete the link.")
