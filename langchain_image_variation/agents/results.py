"""`Results`: saves variations as results, and opens them again by handle.

The handle of a result is the name of its file without ".png". A conversation with an identity has
its own folder of results, called its scope, and cannot find results in others. `ResultFolder` saves
results in a local folder, `ResultStorage` in any file system that fsspec supports.
"""

import contextlib
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from langchain_image_variation.agents.image_folder import MAX_PATH_LENGTH, ImageFolder
from langchain_image_variation.agents.upload_folder import UploadFolder
from langchain_image_variation.agents.uploads import (
    UPLOADS_FOLDER,
    UploadLimits,
    Uploads,
)
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import OutputError, SourceError
from langchain_image_variation.files.atomic import atomic_write, is_left_over, place_file
from langchain_image_variation.files.listing import list_files
from langchain_image_variation.files.removal import remove_files
from langchain_image_variation.output import make_output_dir
from langchain_image_variation.output.names import DATED_NAME, RESULT_NAME
from langchain_image_variation.output.placed_images import PlacedImage, place_images

__all__ = ["CACHE_FOLDER", "MAX_RECORD_BYTES", "ResultFolder", "Results", "is_result_file"]

MAX_RECORD_BYTES = 64 * 1024
"""The maximum number of bytes to read from a cache record. Real ones are about 20 times smaller."""

CACHE_FOLDER = ".variation-cache"
"""The folder of cache records, which all scopes share."""


class Results(ABC):
    """The results of one conversation, and the folder with the images that the tool may read.

    Args:
        image_folder: The folder of images.
        max_results: The maximum number of results to keep in the scope. The oldest are deleted. By
            default all are kept.
    """

    _writes_in_parallel = False
    """Whether several results may be written at once. Not every file system supports that."""

    def __init__(self, image_folder: ImageFolder, *, max_results: int | None) -> None:
        self.image_folder = image_folder
        self._max_results = max_results

    @property
    @abstractmethod
    def location(self) -> str:
        """Where results are saved, as stated in messages to a model."""

    @property
    @abstractmethod
    def path_prefix(self) -> str:
        """What the paths of all results begin with: what leads to `output_dir`."""

    @property
    @abstractmethod
    def all_results_folder(self) -> PurePath | None:
        """The folder of all scopes, relative to `image_folder`, or None if it is out of reach."""

    @abstractmethod
    def ensure_writable(self) -> None:
        """Create the folder, and check that files can be written to it.

        Raises:
            OutputError: If the folder cannot be created or written to.
        """

    def save(self, response: ImagesResponse, *, name: str) -> list[tuple[str, PlacedImage]]:
        """Save the variations of a response.

        Args:
            response: The response of the engine.
            name: The name of the original image, with which the names of the files begin.

        Returns:
            For each variation, the path that messages and artifacts show, and the saved image.

        Raises:
            OutputError: If an image of the response cannot be read, or a file cannot be written.
        """
        placed_images = place_images(
            response, self._write, name=name, concurrent=self._writes_in_parallel
        )
        if self._max_results is not None:
            self._delete_oldest(self._max_results, {image.name for image in placed_images})
        return [(self._result_path(image.name), image) for image in placed_images]

    @abstractmethod
    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by a path that `save` returned, or return None.

        Raises:
            SourceError: If the file cannot be read.
            OutputError: If the file system cannot be read.
        """

    @abstractmethod
    def open_handle(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Raises:
            SourceError: If the file cannot be read.
            OutputError: If the file system cannot be read.
        """

    def newest_handles(self) -> list[str]:
        """Return the handles of the results of this scope, the newest first."""
        return [name.removesuffix(".png") for _, name in self._list()]

    @abstractmethod
    def delete_all(self) -> None:
        """Delete all results of this scope, and its folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or a result cannot be deleted.
        """

    @abstractmethod
    def open_uploads(self, limits: UploadLimits) -> Uploads | None:
        """Return the uploads of the conversation, or None without a scope."""

    @abstractmethod
    def read_record(self, name: str) -> bytes | None:
        """Return a cache record, or None if there is none of that name.

        Raises:
            SourceError: If the file cannot be read.
            OutputError: If the file system cannot be read.
        """

    @abstractmethod
    def write_record(self, name: str, data: bytes) -> None:
        """Write a cache record, replacing an older one completely.

        Raises:
            OutputError: If it cannot be written.
        """

    @abstractmethod
    def _write(self, name: str, data: bytes) -> bytes | None:
        """Write a result of this scope. This is the `Place` of `place_images`."""

    @abstractmethod
    def _result_path(self, name: str) -> str:
        """Return the path by which `open` finds a result of this scope."""

    @abstractmethod
    def _list(self) -> list[tuple[float, str]]:
        """Return the modification time, in seconds, and the name of each result, newest first."""

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Delete a result of this scope. A result that cannot be deleted stays."""

    def _delete_oldest(self, max_results: int, new_names: set[str]) -> None:
        old_names = [
            name
            for _, name in self._list()
            if name not in new_names and not DATED_NAME.fullmatch(name)
        ]
        for name in old_names[max(max_results - len(new_names), 0) :]:
            self._delete(name)


class ResultFolder(Results):
    """Results in a local folder, below the folder of images.

    Args:
        image_folder: The folder of images.
        output_dir: The folder for results, relative to `image_folder`.
        scope: The name of a conversation's own folder below it, from `scope_name`.
        max_results: The maximum number of results to keep in that folder. The oldest are deleted.
            By default all are kept.

    Raises:
        SourceError: If the folder for results is not below the folder of images.
    """

    _writes_in_parallel = True

    def __init__(
        self,
        image_folder: ImageFolder,
        output_dir: PurePosixPath,
        *,
        scope: str | None = None,
        max_results: int | None = None,
    ) -> None:
        super().__init__(image_folder, max_results=max_results)
        if output_dir.is_absolute() or ".." in output_dir.parts:
            # The path is shown to the model, so it must not name other folders.
            output_dir = image_folder.relative_path(output_dir) or output_dir
        self._output_dir = output_dir
        self._scope_dir = output_dir / scope if scope else output_dir
        if not self._is_inside():
            raise SourceError("output_dir must be inside root_dir. Choose a folder below it.")

    @property
    def location(self) -> str:
        """Where results are saved, relative to the folder of images."""
        return f"{self._scope_dir.as_posix()}/"

    @property
    def path_prefix(self) -> str:
        """The folder of all scopes: paths are relative to the folder of images."""
        return f"{self._output_dir.as_posix()}/"

    @property
    def all_results_folder(self) -> PurePath:
        """The folder of all scopes, relative to the folder of images."""
        return self._output_dir

    def ensure_writable(self) -> None:
        """Create the folder, and check that files can be written to it.

        Raises:
            OutputError: If the folder cannot be created or written to.
        """
        try:
            make_output_dir(self._folder)
        except OutputError:
            # The conversation may have been deleted in between.
            make_output_dir(self._folder)

    def save(self, response: ImagesResponse, *, name: str) -> list[tuple[str, PlacedImage]]:
        """Do what `Results.save` does. The last image of the response counts as the newest.

        Raises:
            OutputError: See `Results.save`. Also if the folder now leads out of `image_folder`.
        """
        # It may have become a link while the engine worked.
        if not self._is_inside():
            raise OutputError("output_dir now leads out of root_dir. Remove the link.")
        earlier_results = self._list()
        saved = super().save(response, name=name)
        now = time.time_ns()
        if earlier_results:
            # If the clock was set back, the new images must not count as the oldest.
            now = max(now, int(earlier_results[0][0] * 1e9) + 10_000)
        for index, (_, image) in enumerate(saved):
            # Threads wrote them in any order, and some files may have existed before.
            with contextlib.suppress(OSError):
                os.utime(self._folder / image.name, ns=(now, now + 10_000 * index))
        return saved

    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by a path that `save` returned, or return None.

        Raises:
            SourceError: If it cannot be read.
        """
        # A forged message may contain any path, and comparing a long one takes minutes.
        if len(path) > MAX_PATH_LENGTH:
            return None
        steps = PurePosixPath(path)
        if ".." in steps.parts or not steps.is_relative_to(self._output_dir):
            return None
        if not RESULT_NAME.fullmatch(steps.name):
            return None
        return self.image_folder.open(path)

    def open_handle(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Raises:
            SourceError: If it cannot be read.
        """
        names = dict.fromkeys((handle, f"{handle}.png", handle.removeprefix(self.location)))
        for name in names:
            if name == PurePosixPath(name).name and name.endswith(".png"):
                file = self.image_folder.open(f"{self.location}{name}")
                if file is not None:
                    return file
        return None

    def delete_all(self) -> None:
        """Delete all results of this scope, and its folder if it is then empty.

        Raises:
            OutputError: If the folder is a link, or a result cannot be deleted.
        """
        if self._folder.is_symlink() or not self._is_inside():
            raise OutputError("The folder of a conversation's results is a link. Delete the link.")
        remove_files(self._folder, is_result_file)

    def open_uploads(self, limits: UploadLimits) -> UploadFolder | None:
        """Return the uploads of the conversation, or None without a scope."""
        if self._scope_dir == self._output_dir:
            return None
        return UploadFolder(self.image_folder, self._scope_dir / UPLOADS_FOLDER, limits)

    def read_record(self, name: str) -> bytes | None:
        """Return a cache record, or None if there is none of that name.

        Raises:
            SourceError: If it cannot be read.
        """
        file = self.image_folder.open((self._output_dir / CACHE_FOLDER / name).as_posix())
        if file is None:
            return None
        with file:
            return file.read(MAX_RECORD_BYTES)

    def write_record(self, name: str, data: bytes) -> None:
        """Write a cache record, replacing an older one completely.

        Raises:
            OutputError: If it cannot be written.
        """
        folder = self._output_dir / CACHE_FOLDER
        # It may have become a link.
        if not self.image_folder.contains(folder):
            raise OutputError(f"{CACHE_FOLDER} leads out of root_dir. Delete it.")
        path = self.image_folder.root / folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            # A record lost in a power cut costs one repeated call.
            with atomic_write(path, sync=False) as file:
                file.write(data)
        except OSError:
            raise OutputError("The cache record cannot be written.") from None

    def _is_inside(self) -> bool:
        return all(self.image_folder.contains(path) for path in (self._output_dir, self._scope_dir))

    @property
    def _folder(self) -> Path:
        return self.image_folder.root / self._scope_dir

    def _write(self, name: str, data: bytes) -> bytes | None:
        try:
            return place_file(self._folder, name, data)
        except OutputError:
            # The folder may have been deleted while the engine worked.
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
            return place_file(self._folder, name, data)

    def _result_path(self, name: str) -> str:
        return f"{self.location}{name}"

    def _list(self) -> list[tuple[float, str]]:
        try:
            files = list_files(self._folder, RESULT_NAME.fullmatch)
            return sorted(((status.st_mtime, name) for name, status in files), reverse=True)
        except OSError:
            return []

    def _delete(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()


def is_result_file(name: str, mtime: float) -> bool:
    """Return whether a file is a result, or what is left of one that was never finished.

    Args:
        name: The name of the file.
        mtime: Its modification time, in seconds since 1970.
    """
    return RESULT_NAME.fullmatch(name) is not None or is_left_over(name, mtime)
