"""`ResultStorage`: results in any file system that fsspec knows: a bucket, a server, the memory."""

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from langchain_image_variation.agents.image_folder import PictureFolder
from langchain_image_variation.agents.results import MAX_RECORD_BYTES, RECORDS, Results
from langchain_image_variation.exceptions import OutputError, SourceError
from langchain_image_variation.files.file_system import FileSystem
from langchain_image_variation.output import RESULT_NAME
from langchain_image_variation.source import MAX_SOURCE_BYTES

__all__ = ["ResultStorage"]

_SCOPE = re.compile(r"\w[\w-]{0,63}")
_PROBE = ".writable"
_LOOKED_AT = 10_000
"""So many entries of a listing are looked at: some ten milliseconds."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modify", "created")
"""What file systems call the time of change, in their listings."""


class ResultStorage(Results):
    """Results under a URL, and nothing else under it or beside it.

    Every name below the URL is made by the program: that of a result, of a scope or of a record. A
    handle or a path that is not of that form is not even asked for, so none leads out, whatever a
    file system makes of dots, percent signs, backslashes or colons.

    A file appears whole or not at all where the file system has renames of its own (local, SFTP,
    SMB, HDFS) or takes files whole (memory, and object stores such as S3). A name that is taken is
    left alone. Two programs that write different files under one name at the same moment are not
    kept apart, but the name holds a hash of the pixels, so both files show the same.

    Nothing that fsspec says reaches a message, and neither does the URL, which may hold a password.

    Args:
        pictures: The folder of pictures that may be varied.
        url: Where results are kept, such as "s3://bucket/prefix".
        options: Passed to the file system, as fsspec's `storage_options`.
        scope: The name of a conversation's own place below the URL, from `scope_name`.
        most: So many results are kept there; the oldest go first. By default all are.

    Raises:
        MissingExtraError: If fsspec is not installed, or the package for this kind of URL.
        InvalidRequestError: If no file system is known for the URL, or it names several.
        SourceError: If the URL is that of a folder of this machine that holds the pictures, or the
            scope is not a name from `scope_name`.
        OutputError: If the file system refuses the options, or cannot be reached.
    """

    def __init__(
        self,
        pictures: PictureFolder,
        url: str,
        options: Mapping[str, Any],
        *,
        scope: str | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__(pictures, most=most)
        if scope is not None and not _SCOPE.fullmatch(scope):
            raise SourceError("The scope of a conversation must be a name from scope_name.")
        self._scope = f"{scope}/" if scope else ""
        self._at = FileSystem(url, options, param="output_dir")
        self._folder = self._at.folder
        if self.hidden is not None and pictures.root.resolve().is_relative_to(self.hidden):
            # All pictures would count as results.
            raise SourceError("The output folder must not hold the root; name one below it.")

    @property
    def place(self) -> str:
        """Where results are kept, to be shown: the kind of file system, and nothing of the URL."""
        storage = f"{self._at.kind} storage"
        return f"{self._scope} in {storage}" if self._scope else storage

    @property
    def hidden(self) -> PurePath | None:
        """The folder of all results, if it is one of this machine."""
        return None if self._folder is None else Path(self._folder or "/").resolve()

    def make(self) -> None:
        """Make the place, and check that files can be written there.

        A bucket is not made: its name may be a mistake.

        Raises:
            OutputError: If not.
        """
        with self._at.translate_errors(
            "cannot be written to; check its address, options and rights"
        ):
            # Always of the same name, since not everyone who may write may remove.
            probe = self._at.path(f"{self._scope}{_PROBE}")
            self._at.write_in_folder(self._scope, lambda: self._at.files.pipe_file(probe, b""))

    def open(self, path: str) -> BinaryIO | None:
        """Open a result of any scope by the path that `save` returned, or return None.

        Raises:
            SourceError: If it may not be read.
        """
        scope, slash, name = path.rpartition("/")
        if (slash and not _SCOPE.fullmatch(scope)) or not RESULT_NAME.fullmatch(name):
            return None
        data = self._read(path, MAX_SOURCE_BYTES + 1)
        return None if data is None else _File(data, name)

    def find(self, handle: str) -> BinaryIO | None:
        """Open a result of this scope by its handle or its path, or return None.

        Without a scope, results of all scopes are found by their paths.

        Raises:
            SourceError: If it may not be read.
        """
        name = handle.removeprefix(self._scope).removesuffix(".png")
        return self.open(f"{self._scope}{name}.png")

    def record(self, name: str) -> bytes | None:
        """Return a small file that belongs to all scopes and is no picture, or None.

        Raises:
            SourceError: If it may not be read.
        """
        return self._read(f"{RECORDS}/{name}", MAX_RECORD_BYTES)

    def keep_record(self, name: str, data: bytes) -> None:
        """Write such a file whole, in the place of an older one.

        Raises:
            OutputError: If it cannot be written.
        """
        with self._at.translate_errors("cannot be written to"):
            self._at.write_in_folder(RECORDS, lambda: self._at.write(f"{RECORDS}/{name}", data))

    def _shown(self, name: str) -> str:
        return f"{self._scope}{name}"

    def _put(self, name: str, data: bytes) -> bytes | None:
        with self._at.translate_errors(f"did not take {name!r}; make room, or check its rights"):
            path = f"{self._scope}{name}"
            there = self._at.read(path, max(len(data), MAX_SOURCE_BYTES) + 1)
            if there is None:
                self._at.write(path, data)
            return data if there is None else there

    def _results(self) -> list[tuple[float, str]]:
        folder = self._at.path(self._scope)
        try:
            # Others may write there; some file systems remember what they listed.
            self._at.files.invalidate_cache(folder)
            entries = self._at.files.ls(folder, detail=True)[:_LOOKED_AT]
            names = ((str(entry["name"]).rpartition("/")[2], entry) for entry in entries)
            found = [
                (_time(entry), name)
                for name, entry in names
                if RESULT_NAME.fullmatch(name) and entry.get("type") == "file"
            ]
        # A file system raises what the library below it does.
        except Exception:
            return []
        return sorted(found, reverse=True)

    def _remove(self, name: str) -> None:
        with suppress(Exception):
            self._at.files.rm_file(self._at.path(f"{self._scope}{name}"))

    def _read(self, path: str, most: int) -> bytes | None:
        try:
            with self._at.translate_errors("cannot be read now; try again"):
                return self._at.read(path, most)
        except OutputError as error:
            raise SourceError(error.message) from None


class _File(io.BytesIO):
    """A file that was read, with its name, by which variations of it are called."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _time(entry: Mapping[str, Any]) -> float:
    """Return when a file was changed, in seconds, or 0 if the file system does not say."""
    value = next((entry[key] for key in _TIMES if entry.get(key) is not None), 0)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
    return value.timestamp() if isinstance(value, datetime) else float(value)
