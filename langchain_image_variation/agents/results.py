"""`Results`: where the variations that a tool makes are kept, and found again by handle.

A handle is the name of a result's file without ".png". A conversation that has an identity keeps
its results in a place of its own, its scope, and finds no others. `ResultFolder` keeps them in a
folder; `ResultStorage` of the module `storage` in any file system that fsspec knows.
"""

import contextlib
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from langchain_image_variation.agents.conversation import LISTED
from langchain_image_variation.agents.image_folder import PictureFolder
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import OutputError, SourceError
from langchain_image_variation.files.atomic import atomic_write, place_file
from langchain_image_variation.output import (
    DATED_NAME,
    RESULT_NAME,
    PlacedImage,
    make_output_dir,
    place_images,
)

__all__ = ["MAX_RECORD_BYTES", "RECORDS", "ResultFolder", "Results"]

MAX_RECORD_BYTES = 64 * 1024
"""So many bytes of a record are read, some twenty times as many as any has."""

RECORDS = ".variation-cache"
"""The folder of records, beside the results that belong to no scope."""


class Results(ABC):
    """The results of one conversation, and the folder of pictures that the tool may read.

    Args:
        pictures: The folder of pictures.
        most: So many results are kept in the scope; the oldest go first. By default all are.
    """

    _at_once = False
    """Whether several results may be put there at once: not every file system's client can."""

    def __init__(self, pictures: PictureFolder, *, most: int | None) -> None:
        self.pictures = pictures
        self.most = most

    @property
    @abstractmethod
    def place(self) -> str:
        """Where results are kept, to be shown to a model."""

    @property
    @abstractmethod
    def hidden(self) -> PurePath | None:
        """The folder of all results, if `pictures` might reach it: a path relative to that one."""

    @abstractmethod
    def make(self) -> None:
        """Make the place, and check that files can be written there.

        Raises:
            OutputError: If not.
        """

    def save(self, response: ImagesResponse, *, name: str) -> list[tuple[str, PlacedImage]]:
        """Keep the variations of an answer; return the path of each, to be shown, and its facts.

        Raises:
            OutputError: If an entry holds no readable picture, or a file cannot be written.
        """
        placed = place_images(response, self._put, name=name, concurrent=self._at_once)
        if self.most is not None:
            self._remove_older_than(self.most, {image.name for image in placed})
        return [(self._shown(image.name), image) for image in placed]

    @abstractmethod
    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by the path that `save` returned, or return None.

        Raises:
            SourceError: If it may not be read.
        """

    @abstractmethod
    def find(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Raises:
            SourceError: If it may not be read.
        """

    def newest(self) -> list[str]:
        """Return the handles of the newest results of this scope."""
        return [name.removesuffix(".png") for _, name in self._results()[:LISTED]]

    @abstractmethod
    def record(self, name: str) -> bytes | None:
        """Return a small file that belongs to all scopes and is no picture, or None.

        Raises:
            SourceError: If it may not be read.
        """

    @abstractmethod
    def keep_record(self, name: str, data: bytes) -> None:
        """Write such a file whole, in the place of an older one.

        Raises:
            OutputError: If it cannot be written.
        """

    @abstractmethod
    def _put(self, name: str, data: bytes) -> bytes | None:
        """Put a result into this scope, as a `Place` does."""

    @abstractmethod
    def _shown(self, name: str) -> str:
        """Return the path of a result of this scope, as `open` takes it."""

    @abstractmethod
    def _results(self) -> list[tuple[float, str]]:
        """Return the time of change, in seconds, and the name of each result, the newest first."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Remove a result of this scope, if that can be done."""

    def _remove_older_than(self, most: int, new: set[str]) -> None:
        older = [
            name
            for _, name in self._results()
            if name not in new and not DATED_NAME.fullmatch(name)
        ]
        for name in older[max(most - len(new), 0) :]:
            self._remove(name)


class ResultFolder(Results):
    """A folder for results below the folder of pictures.

    Args:
        pictures: The folder of pictures.
        output_dir: The folder for results, below that one.
        scope: The name of a conversation's own folder below it, from `scope_name`.
        most: So many results are kept there; the oldest go first. By default all are.

    Raises:
        SourceError: If the folder for results leads out of that of the pictures, or is it.
    """

    _at_once = True

    def __init__(
        self,
        pictures: PictureFolder,
        output_dir: PurePosixPath,
        *,
        scope: str | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__(pictures, most=most)
        if output_dir.is_absolute() or ".." in output_dir.parts:
            # Where results are is shown, and a way through other folders leads to none of them.
            output_dir = pictures.relative(output_dir) or output_dir
        self.output_dir = output_dir
        self.relative = output_dir / scope if scope else output_dir
        if not self._is_inside():
            raise SourceError("The output folder must be inside the root; name one below it.")

    @property
    def place(self) -> str:
        """Where results are kept, to be shown: relative to the folder of pictures."""
        return f"{self.relative.as_posix()}/"

    @property
    def hidden(self) -> PurePath:
        """The folder of all results, relative to that of the pictures."""
        return self.output_dir

    def make(self) -> None:
        """Make the folder, and check that files can be written there.

        Raises:
            OutputError: If not.
        """
        make_output_dir(self._folder)

    def save(self, response: ImagesResponse, *, name: str) -> list[tuple[str, PlacedImage]]:
        """Do what `Results.save` does; the last picture counts as the newest.

        Raises:
            OutputError: As `Results.save`, or if the folder leads out of that of the pictures.
        """
        # It may have become a link while the engine worked.
        if not self._is_inside():
            raise OutputError("The output folder leads out of the root now; remove the link.")
        saved = super().save(response, name=name)
        now = time.time_ns()
        for index, (_, image) in enumerate(saved):
            # Threads wrote them in any order, and a picture may have been there already.
            with contextlib.suppress(OSError):
                os.utime(self._folder / image.name, ns=(now, now + 10_000 * index))
        return saved

    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by the path that `save` returned, or return None.

        Raises:
            SourceError: If it may not be read.
        """
        steps = PurePosixPath(path)
        if ".." in steps.parts or not steps.is_relative_to(self.output_dir):
            return None
        return self.pictures.open(path)

    def find(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Raises:
            SourceError: If it may not be read.
        """
        names = dict.fromkeys((handle, f"{handle}.png", handle.removeprefix(self.place)))
        for name in names:
            if name == PurePosixPath(name).name and name.endswith(".png"):
                file = self.pictures.open(f"{self.place}{name}")
                if file is not None:
                    return file
        return None

    def record(self, name: str) -> bytes | None:
        """Return a small file that belongs to all scopes and is no picture, or None.

        Raises:
            SourceError: If it may not be read.
        """
        file = self.pictures.open((self.output_dir / RECORDS / name).as_posix())
        if file is None:
            return None
        with file:
            return file.read(MAX_RECORD_BYTES)

    def keep_record(self, name: str, data: bytes) -> None:
        """Write such a file whole, in the place of an older one.

        Raises:
            OutputError: If it cannot be written.
        """
        folder = self.output_dir / RECORDS
        # It may have become a link to elsewhere.
        if not self.pictures.has_below(folder):
            raise OutputError(f"{RECORDS} leads out of the root; remove it.")
        path = self.pictures.root / folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            # A record lost in a power cut costs one repeated call.
            with atomic_write(path, sync=False) as file:
                file.write(data)
        except OSError:
            raise OutputError("The record of a call cannot be written.") from None

    def _is_inside(self) -> bool:
        return all(self.pictures.has_below(path) for path in (self.output_dir, self.relative))

    @property
    def _folder(self) -> Path:
        return self.pictures.root / self.relative

    def _put(self, name: str, data: bytes) -> bytes | None:
        if not self._folder.is_dir():
            # It was removed while the engine worked.
            make_output_dir(self._folder)
        return place_file(self._folder, name, data)

    def _shown(self, name: str) -> str:
        return f"{self.place}{name}"

    def _results(self) -> list[tuple[float, str]]:
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    (entry.stat(follow_symlinks=False).st_mtime, entry.name)
                    for entry in entries
                    if RESULT_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                ]
        except OSError:
            return []
        return sorted(found, reverse=True)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()
