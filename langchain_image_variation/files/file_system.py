"""`FileSystem`: a folder in any file system that fsspec knows, such as a bucket or a server.

Errors of the file system become our own. Their text and the URL are dropped, because they may
contain a password.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from langchain_image_variation.error_translation import ErrorTranslation
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.atomic import temporary_name
from langchain_image_variation.files.fsspec_folder import open_fsspec_folder
from langchain_image_variation.files.storage_policy import DEFAULT_POLICY, StoragePolicy

__all__ = ["FileSystem", "ListedFile"]

_Result = TypeVar("_Result")

_NO_LIMIT = 2**40
"""A limit above the size of any file that is read."""
_FOLDER_RETRIES = 3
"""How often to try again when other processes create the same nested folders."""
_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "modify", "created")
"""The keys under which file systems list the modification time."""


class ListedFile(NamedTuple):
    """A file, as a folder lists it."""

    name: str
    """Its name, without the folder."""
    byte_count: int
    """Its length, in bytes, or 0 if the file system does not list it."""
    mtime: float
    """When it was changed, in seconds since 1970, or 0 if the file system does not list it."""


def _modification_time(entry: Mapping[str, Any]) -> float:
    value = next((entry[key] for key in _TIME_KEYS if entry.get(key) is not None), 0)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
    return value.timestamp() if isinstance(value, datetime) else float(value)


class FileSystem:
    """A folder in a file system, and the files below it.

    Writes are atomic if the file system can rename files (local, SFTP, SMB, HDFS) or uploads each
    file as a whole (memory, and object stores such as S3).

    Methods raise the file system's own exceptions: call them inside `translate_errors`.

    `backend` is fsspec's object for the file system, and `root` the path of the folder in it.

    Args:
        url: The URL of the folder, such as "s3://bucket/prefix".
        options: Passed to the file system, as fsspec's `storage_options`.
        param: The name of the URL in messages.
        policy: Which stores the URL may name.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If the URL names several file systems or one that is not allowed.
        OutputError: If the file system refuses the options or cannot be reached.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        param: str,
        policy: StoragePolicy = DEFAULT_POLICY,
    ) -> None:
        self.kind, self.backend, self.root = open_fsspec_folder(
            url, options, param=param, policy=policy
        )
        # Object stores upload a file as a whole, and their "rename" is a copy. So is the rename of
        # any file system that inherits it from fsspec.
        from fsspec import AbstractFileSystem

        backend_class = type(self.backend)
        innermost = self.backend
        while (inner := getattr(innermost, "fs", None)) is not None:
            # Some file systems wrap another one.
            innermost = inner
        self.is_async = bool(backend_class.async_impl and getattr(innermost, "async_impl", False))
        self.can_rename = (
            not backend_class.async_impl and backend_class.mv is not AbstractFileSystem.mv
        )

    @property
    def folder(self) -> str | None:
        """The path of the folder if it is on this machine, or None."""
        return _local_path(self.backend, self.root)

    def path(self, name: str) -> str:
        """Return the file system's own path of a file in the folder."""
        return f"{self.root}/{name}".rstrip("/")

    def read(self, name: str, limit: int = _NO_LIMIT) -> bytes | None:
        """Return the first `limit` bytes of a file, or None if it does not exist."""
        (content,) = self.read_all([name], limit)
        return content

    def read_all(self, names: Sequence[str], limit: int = _NO_LIMIT) -> list[bytes | None]:
        """Read several files, concurrently if the file system supports it."""
        paths = [self.path(name) for name in names]
        if not self.is_async:
            return [self._read(path, limit) for path in paths]
        # Without a range, some file systems request the size first.
        results = self.backend.cat_ranges(paths, 0, limit, on_error="return")
        return [
            self._empty_or_missing(path, result)
            if isinstance(result, BaseException)
            else bytes(result)
            for path, result in zip(paths, results, strict=True)
        ]

    def _read(self, path: str, limit: int) -> bytes | None:
        byte_range = {} if limit == _NO_LIMIT else {"start": 0, "end": limit}
        try:
            return bytes(self.backend.cat_file(path, **byte_range))
        except Exception as error:
            return self._empty_or_missing(path, error)

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        if self.is_async:
            # `info` would request the file first, and then a folder of that name.
            return self.read(name, 1) is not None
        # Other processes write to the folder, and some file systems cache listings.
        self.backend.invalidate_cache()
        # `exists` returns False for every error.
        try:
            return str(self.backend.info(self.path(name))["type"]) == "file"
        except (FileNotFoundError, NotADirectoryError):
            return False

    def list_folder(self, folder: str, limit: int | None = None) -> list[ListedFile]:
        """Return the files among the first `limit` entries of a folder, or [] if it is missing."""
        return [
            ListedFile(
                str(entry["name"]).rpartition("/")[2],
                entry.get("size") or 0,
                _modification_time(entry),
            )
            for entry in self._entries(folder)[:limit]
            if entry.get("type") == "file"
        ]

    def remove_empty_folder(self, folder: str) -> None:
        """Remove a folder if it exists and is empty. Object stores have no folders to remove."""
        path = self.path(folder)
        # Some file systems would remove a folder together with its files.
        if self.backend.async_impl or self._entries(folder) or not self.backend.exists(path):
            return
        # Another process may have written a file to it, or may have removed it.
        with suppress(Exception):
            self.backend.rmdir(path)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        try:
            self.backend.rm_file(self.path(name))
        except FileNotFoundError:
            return
        except Exception:
            # FTP returns the same error for everything that it refuses.
            if self.has(name):
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write a file to an existing folder, replacing an existing file of that name."""
        self._write_atomically(name, lambda path: self.backend.pipe_file(path, data))

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write several files, concurrently if the file system supports it."""
        if self.is_async:
            self.backend.pipe({self.path(name): data for name, data in files.items()})
            return
        for name, data in files.items():
            self.write(name, data)

    def upload(self, name: str, local: str | os.PathLike[str]) -> None:
        """Copy a file from this machine, like `write`, without loading it into memory."""
        self._write_atomically(name, lambda path: self.backend.put_file(os.fspath(local), path))

    def download(self, name: str, local: str | os.PathLike[str]) -> bool:
        """Copy a file to this machine without loading it into memory; return whether it exists."""
        try:
            self.backend.get_file(self.path(name), os.fspath(local))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except Exception:
            if self.has(name):
                raise
            return False
        return True

    def create(self, name: str, data: bytes) -> bool:
        """Write a file, unless there is one of that name. Return whether it was written.

        Object stores decide this in one step, so only one of several writers gets True. In other
        file systems, all writers that start at the same moment may get True. The file of the last
        one then replaces the others.
        """
        if self.can_rename:
            if self.has(name):
                return False
            self.write(name, data)
            return True
        try:
            self.backend.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        except Exception:
            # Not every file system raises FileExistsError.
            if not self.has(name):
                raise
            return False
        return True

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove several files if they exist, with few requests if the file system supports it."""
        # fsspec would expand these characters, and remove other files.
        if self.is_async and names and not re.search(r"[*?\[\]]", self.root):
            # Some file systems report a file that another process has removed.
            with suppress(FileNotFoundError):
                self.backend.rm([self.path(name) for name in names])
                return
        for name in names:
            self.remove(name)

    def write_in_folder(self, folder: str, write: Callable[[], _Result]) -> _Result:
        """Call `write`. If it fails, create the folder and call it again.

        A missing bucket is not created, because its name may be a typo.
        """
        try:
            return write()
        except Exception:
            # A relative path begins with a bucket, or its counterpart in another file system.
            bucket = self.root.partition("/")[0]
            if bucket and not self.backend.exists(bucket):
                raise
        for _ in range(_FOLDER_RETRIES if self.can_rename else 0):
            # Other processes may create the same folders at the same time.
            with suppress(Exception):
                self.backend.invalidate_cache()
                self.backend.makedirs(self.path(folder), exist_ok=True)
                return write()
        self.backend.makedirs(self.path(folder), exist_ok=True)
        return write()

    def translate_errors(self, problem: str) -> ErrorTranslation:
        """Return a context manager that turns errors of the file system into `OutputError`.

        Args:
            problem: The rest of a sentence about the storage, such as "could not read 'a.png'".
        """
        return ErrorTranslation(
            lambda error: OutputError(
                f"The {self.kind} storage {problem} ({type(error).__name__})."
            )
        )

    def translate_read_errors(self, name: str) -> ErrorTranslation:
        """Do what `translate_errors` does, for reading a file.

        Args:
            name: What messages call the file.
        """
        return self.translate_errors(
            f"could not read {name!r}; try again, or check its permissions"
        )

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        path = self.path(folder)
        # Other processes write to the folder, and some file systems cache listings.
        self.backend.invalidate_cache(path)
        try:
            return list(self.backend.ls(path, detail=True))
        except FileNotFoundError:
            return []
        except Exception:
            # Not every file system raises FileNotFoundError.
            if self.backend.exists(path):
                raise
            return []

    def _write_atomically(self, name: str, write: Callable[[str], None]) -> None:
        if not self.can_rename:
            write(self.path(name))
            return
        folder, slash, _ = name.rpartition("/")
        temporary = self.path(f"{folder}{slash}{temporary_name()}")
        try:
            write(temporary)
            try:
                self.backend.mv(temporary, self.path(name))
            except Exception:
                # Some file systems, such as SMB, do not replace a file when they rename another.
                if not self.has(name):
                    raise
                self.remove(name)
                self.backend.mv(temporary, self.path(name))
        except BaseException:
            with suppress(Exception):
                self.backend.rm_file(temporary)
            raise

    def _empty_or_missing(self, path: str, error: BaseException) -> bytes | None:
        """Return None if a read failed because the file is missing, or b"" if it is empty.

        Raises:
            BaseException: The error itself, if it has another reason.
        """
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        # S3 refuses to read a range of an empty file.
        if self._is_empty(path):
            return b""
        raise error

    def _is_empty(self, path: str) -> bool:
        try:
            return bool(self.backend.info(path).get("size") == 0)
        except Exception:
            return False


def _local_path(backend: Any, root: str) -> str | None:
    """Return the path on this machine of a path in a file system, or None if there is none."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    while not isinstance(backend, LocalFileSystem):
        if isinstance(backend, DirFileSystem):
            root = f"{str(backend.path).rstrip('/')}/{root.lstrip('/')}".rstrip("/")
        # Some file systems wrap another one.
        backend = getattr(backend, "fs", None) or getattr(backend, "sync_fs", None)
        if backend is None:
            return None
    return root or "/"
