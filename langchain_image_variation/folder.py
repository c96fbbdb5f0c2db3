"""`PictureFolder`: the pictures an agent may use, by handle or relative path, and no others."""

import heapq
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath, PureWindowsPath

from langchain_image_variation.exceptions import SourceError, shown

__all__ = ["PictureFolder"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
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
        results: Where results are kept: a folder below `root`, relative to it.

    Raises:
        SourceError: If there is no folder `root`, or `results` leads out of it.
    """

    def __init__(self, root: Path, results: PurePath) -> None:
        if not root.is_dir():
            raise SourceError(f"There is no folder {root.name!r}; make it, or name another root.")
        self.root = root
        self.results = root / results
        if not self._reaches(self.results):
            raise SourceError("The output folder must be inside the root; name one below it.")

    def find(self, image: str) -> Path:
        """Return the resolved path of a picture.

        Args:
            image: A handle, or a path relative to the root. White space and quotes around it are
                left out, and a handle may end in ".png".

        Raises:
            SourceError: If it names no file under the root; the message lists what does.
        """
        name = image.strip().strip("\"'`")
        for candidate in (self.root / name, self.results / name, self.results / f"{name}.png"):
            try:
                if self._reaches(candidate) and candidate.is_file():
                    return candidate.resolve()
            # A name too long for the file system, a NUL inside it, or a loop of links.
            except (OSError, ValueError, RuntimeError):
                continue
        raise SourceError(
            f"There is no picture {shown(_without_folders(name))} here. {self.choices()}"
        )

    def choices(self) -> str:
        """Return one line that names the pictures that may be used, the newest first."""
        handles = [Path(name).stem for name in _newest(self.results, frozenset({".png"}))]
        files = _newest(self.root, _SUFFIXES)
        lines = []
        if files:
            lines.append(f"Files: {', '.join(files)}.")
        if handles:
            lines.append(f"Earlier results: {', '.join(handles)}.")
        return " ".join(lines) or "The picture folder is empty."

    def _reaches(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())


def _newest(folder: Path, suffixes: frozenset[str]) -> list[str]:
    newest = heapq.nlargest(_LISTED, islice(_pictures(folder, suffixes), _LOOKED_AT))
    return [name for _, name in newest]


def _pictures(folder: Path, suffixes: frozenset[str]) -> Iterator[tuple[float, str]]:
    """Yield the time of change, in seconds, and the name of each picture in a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if Path(name).suffix.lower() not in suffixes or not name.isprintable():
                    continue
                if not name.startswith(".") and entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_mtime, name
    except OSError:
        return


def _without_folders(image: str) -> str:
    # A model may have seen an absolute path elsewhere; it is not repeated.
    absolute = PurePath(image).is_absolute() or PureWindowsPath(image).is_absolute()
    return PureWindowsPath(image).name if absolute else image
