"""`PictureFolder`: the pictures an agent may use, by handle or relative path, and no others."""

import heapq
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath

from langchain_image_variation.exceptions import SourceError

__all__ = ["PictureFolder"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""What the names of pictures end in, for listing them; reading goes by content."""

_LISTED = 12
"""So many pictures of each kind are named in an error: enough to choose from, few tokens."""

_LOOKED_AT = 2_000
"""So many entries of a folder are looked at to list pictures: some milliseconds."""


class PictureFolder:
    """A folder of pictures with a folder of results inside it.

    A handle is the name, without its suffix, of a file among the results. Nothing outside `root`
    can be reached: a path is resolved, symbolic links included, before it is compared.

    Args:
        root: The folder whose pictures may be used, in subfolders too.
        results: Where results are kept, relative to `root`.

    Raises:
        SourceError: If `results` is absolute or leads out of `root`.
    """

    def __init__(self, root: Path, results: PurePath) -> None:
        if results.is_absolute() or ".." in results.parts:
            raise SourceError("The output folder must be relative to the root and stay inside it.")
        self.root = root
        self.results = results

    def find(self, image: str) -> Path:
        """Return the resolved path of a picture.

        Args:
            image: A handle, or a path relative to the root.

        Raises:
            SourceError: If it names no file under the root; the message lists what does.
        """
        for candidate in (self.root / image, self.root / self.results / f"{image}.png"):
            try:
                path = candidate.resolve()
                if path.is_relative_to(self.root.resolve()) and path.is_file():
                    return path
            # A name too long for the file system, a NUL inside it, or a loop of links.
            except (OSError, ValueError, RuntimeError):
                continue
        raise SourceError(f"There is no picture {_shown(image)} here. {self.choices()}")

    def choices(self) -> str:
        """Return one line that names the pictures that may be used, the newest results first."""
        handles = [Path(name).stem for name in self._newest(self.root / self.results)]
        files = self._newest(self.root)
        lines = []
        if files:
            lines.append(f"Files: {', '.join(files)}.")
        if handles:
            lines.append(f"Earlier results: {', '.join(handles)}.")
        return " ".join(lines) or "The picture folder is empty."

    def _newest(self, folder: Path) -> list[str]:
        newest = heapq.nlargest(_LISTED, islice(_pictures(folder), _LOOKED_AT))
        return [name for _, name in newest]


def _pictures(folder: Path) -> Iterator[tuple[float, str]]:
    """Yield the time of change, in seconds, and the name of each picture in a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if Path(name).suffix.lower() not in SUFFIXES or not name.isprintable():
                    continue
                if not name.startswith(".") and entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_mtime, name
    except OSError:
        return


def _shown(image: str) -> str:
    # A model may pass a whole picture in base64, or an absolute path it has seen elsewhere.
    name = PurePath(image).name if PurePath(image).is_absolute() else image
    return repr(name if len(name) <= 60 else name[:60] + "…")
