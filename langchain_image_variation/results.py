"""`ResultFolder`: where the variations that a tool makes are kept, and found again by handle.

A handle is the name of a result's file without ".png". A conversation that has an identity keeps
its results in a folder of its own, its scope, and finds no others.
"""

import contextlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.folder import PictureFolder
from langchain_image_variation.output import SavedImage, make_output_dir, save_images

__all__ = ["ResultFolder"]

_RESULT = re.compile(r".+-[0-9a-f]{8,64}-[0-9]+\.png")
_LISTED = 12


class ResultFolder:
    """A folder for results below the folder of pictures.

    Args:
        pictures: The folder of pictures.
        output_dir: The folder for results, relative to that one.
        scope: The name of a conversation's own folder below it, from `scope_name`.
        most: So many results are kept there; the oldest go first. By default all are.

    Raises:
        SourceError: If the folder for results leads out of that of the pictures, or is it.
    """

    def __init__(
        self,
        pictures: PictureFolder,
        output_dir: PurePosixPath,
        *,
        scope: str | None = None,
        most: int | None = None,
    ) -> None:
        self.pictures = pictures
        self.output_dir = output_dir
        self.relative = output_dir / scope if scope else output_dir
        self.most = most
        if not pictures.has_below(output_dir) or not pictures.has_below(self.relative):
            raise SourceError("The output folder must be inside the root; name one below it.")

    @property
    def place(self) -> str:
        """Where results are kept, to be shown: relative to the folder of pictures."""
        return f"{self.relative.as_posix()}/"

    def make(self) -> None:
        """Make the folder, and check that files can be written there.

        Raises:
            OutputError: If not.
        """
        make_output_dir(self._folder)

    def save(self, response: ImagesResponse, *, name: str) -> list[tuple[str, SavedImage]]:
        """Keep the variations of an answer; return the path of each, to be shown, and its facts.

        Raises:
            OutputError: If an entry holds no readable picture, or a file cannot be written.
        """
        saved = save_images(response, self._folder, name=name)
        if self.most is not None:
            self._remove_older_than(self.most, {image.path.name for image in saved})
        return [(f"{self.place}{image.path.name}", image) for image in saved]

    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by the path that `save` returned, or return None.

        Raises:
            SourceError: If it may not be read.
        """
        if not PurePosixPath(path).is_relative_to(self.output_dir):
            return None
        return self.pictures.open(path)

    def find(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Raises:
            SourceError: If it may not be read.
        """
        for name in (handle, f"{handle}.png", handle.removeprefix(self.place)):
            if name == PurePosixPath(name).name and name.endswith(".png"):
                file = self.pictures.open(f"{self.place}{name}")
                if file is not None:
                    return file
        return None

    def newest(self) -> list[str]:
        """Return the handles of the newest results of this scope."""
        return [name.removesuffix(".png") for _, name in self._results()[:_LISTED]]

    @property
    def _folder(self) -> Path:
        return self.pictures.root / self.relative

    def _results(self) -> list[tuple[float, str]]:
        """Return the time of change, in seconds, and the name of each result, the newest first."""
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    (entry.stat(follow_symlinks=False).st_mtime, entry.name)
                    for entry in entries
                    if _RESULT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                ]
        except OSError:
            return []
        return sorted(found, reverse=True)

    def _remove_older_than(self, most: int, new: set[str]) -> None:
        older = [name for _, name in self._results() if name not in new]
        for name in older[max(most - len(new), 0) :]:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
