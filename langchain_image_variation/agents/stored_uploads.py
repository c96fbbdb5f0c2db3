"""`UploadStorage`: the uploads of a conversation in any file system that fsspec supports."""

import time
from contextlib import suppress

from langchain_image_variation.agents.uploads import (
    MAX_UPLOADS,
    KeptUpload,
    UploadLimits,
    Uploads,
    is_upload_file,
)
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.files.removal import remove_stored_files
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

__all__ = ["UploadStorage"]

_RENEWAL_INTERVAL = 3600.0
"""An upload is written again at most once in this many seconds, because it may have megabytes."""


class UploadStorage(Uploads):
    """Uploads in a folder below a URL.

    Args:
        file_system: The file system.
        folder: The folder of uploads in it.
        limits: How many are kept.
    """

    def __init__(self, file_system: FileSystem, folder: str, limits: UploadLimits) -> None:
        super().__init__(limits)
        self._file_system = file_system
        self._folder = folder

    def renew(self, upload: KeptUpload, data: bytes) -> None:
        """Write an upload again, because few file systems can set a time."""
        if time.time() - upload.time > _RENEWAL_INTERVAL:
            with suppress(OutputError):
                self._write(upload.file_name, data)

    def delete_all(self) -> None:
        """Delete all uploads, and their folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or an upload cannot be deleted.
        """
        remove_stored_files(self._file_system, self._folder, is_upload_file)

    def _list(self) -> list[KeptUpload]:
        with self._file_system.translate_errors("cannot be listed"):
            files = self._file_system.list_folder(self._folder, MAX_UPLOADS)
        uploads = (KeptUpload.parse(*file) for file in files)
        return [upload for upload in uploads if upload is not None]

    def _read(self, file_name: str) -> bytes | None:
        with self._file_system.translate_errors("cannot be read; try again"):
            return self._file_system.read(f"{self._folder}/{file_name}", MAX_SOURCE_BYTES + 1)

    def _write(self, file_name: str, data: bytes) -> None:
        path = f"{self._folder}/{file_name}"
        with self._file_system.translate_errors("cannot keep an image of a message"):
            self._file_system.write_in_folder(
                self._folder, lambda: self._file_system.write(path, data)
            )

    def _delete(self, file_name: str) -> None:
        with suppress(Exception):
            self._file_system.remove(f"{self._folder}/{file_name}")
