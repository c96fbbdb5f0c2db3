"""`FileSystem`: a place in any file system that fsspec knows: a bucket, a server, the memory.

What a file system raises becomes an error of the tree, without its text and without the URL, which
may hold a password.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    shown,
)

__all__ = ["FileSystem", "has_password", "is_url", "without_password"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::[^/]*)?://")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")


def is_url(path: object) -> bool:
    """Say whether a path is a URL rather than that of a file or folder of this machine."""
    return isinstance(path, str) and _URL.match(path) is not None


def has_password(url: str) -> bool:
    """Say whether a URL holds a password."""
    return _PASSWORD.search(url) is not None


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    return _PASSWORD.sub(r"\1:***", url)


class FileSystem:
    """A place in a file system, and what is below it.

    A file that is written appears whole or not at all where the file system has renames of its own
    (local, SFTP, SMB, HDFS) or takes files whole (memory, and object stores such as S3).

    Args:
        url: The place, such as "s3://bucket/prefix".
        options: Passed to the file system, as fsspec's `storage_options`.
        param: What messages call the URL.

    Raises:
        MissingExtraError: If fsspec is not installed, or the package for this kind of URL.
        InvalidRequestError: If no file system is known for the URL, or it names several.
        OutputError: If the file system refuses the options, or cannot be reached.
    """

    def __init__(self, url: str, options: Mapping[str, Any], *, param: str) -> None:
        self.kind, self.files, self.root = _opened(url, options, param)
        # Object stores put a file whole, and their "rename" copies. Elsewhere it is the same for a
        # file system that only inherits its rename.
        from fsspec import AbstractFileSystem

        kind = type(self.files)
        self.renames = not kind.async_impl and kind.mv is not AbstractFileSystem.mv

    @property
    def folder(self) -> str | None:
        """The folder of this machine that the place is, if it is one."""
        return _local(self.files, self.root)

    def path(self, below: str) -> str:
        """Return what the file system itself calls a name below the place."""
        return f"{self.root}/{below}".rstrip("/")

    def read(self, below: str, most: int | None = None) -> bytes | None:
        """Return a file, or its first `most` bytes, or None if there is none.

        What the file system raises is left as it is: see `failures`.
        """
        # A range without an end costs some of them another request.
        span = {} if most is None else {"start": 0, "end": most}
        try:
            return bytes(self.files.cat_file(self.path(below), **span))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception:
            # An empty file has no range that S3 would give.
            if most is None or not self._is_empty(below):
                raise
            return b""

    def write(self, below: str, data: bytes) -> None:
        """Write a file whole, in the place of any that has its name; its folder is there.

        What the file system raises is left as it is: see `failures`.
        """
        self._written(below, lambda path: self.files.pipe_file(path, data))

    def copy_in(self, below: str, local: str | os.PathLike[str]) -> None:
        """Write a file of this machine, as `write` does, without holding it in the memory."""
        self._written(below, lambda path: self.files.put_file(os.fspath(local), path))

    def copy_out(self, below: str, local: str | os.PathLike[str]) -> bool:
        """Copy a file to this machine, without holding it in the memory; say whether there is one.

        What the file system raises is left as it is: see `failures`.
        """
        try:
            self.files.get_file(self.path(below), os.fspath(local))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def with_folder(self, folder: str, write: Callable[[], None]) -> None:
        """Write something; if that fails, make the folder for it and try again.

        A bucket is not made: its name may be a mistake.
        """
        try:
            write()
        except Exception:
            # A path that is not absolute begins with a bucket, or what is called so elsewhere.
            bucket = self.root.partition("/")[0]
            if bucket and not self.files.exists(bucket):
                raise
            self.files.makedirs(self.path(folder), exist_ok=True)
            write()

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn whatever a file system raises into an error of the tree.

        Raises:
            OutputError: Which says that the storage `what`.
        """
        try:
            yield
        except ImageVariationError:
            raise
        except Exception as error:
            raise OutputError(f"The {self.kind} storage {what} ({type(error).__name__}).") from None

    def _is_empty(self, below: str) -> bool:
        try:
            return bool(self.files.info(self.path(below)).get("size") == 0)
        except Exception:
            return False

    def _written(self, below: str, write: Callable[[str], None]) -> None:
        if not self.renames:
            write(self.path(below))
            return
        folder, slash, _ = below.rpartition("/")
        temporary = self.path(f"{folder}{slash}.{secrets.token_hex(8)}.part")
        try:
            write(temporary)
            self.files.mv(temporary, self.path(below))
        except BaseException:
            with suppress(Exception):
                self.files.rm_file(temporary)
            raise


def _opened(url: str, options: Mapping[str, Any], param: str) -> tuple[str, Any, str]:
    """Return the kind of a file system, the file system, and the path in it that a URL means."""
    known = _URL.match(url)
    kind = known[1] if known else ""
    if "::" in url:
        raise InvalidRequestError(
            f"{param} must be the URL of one file system, such as 's3://bucket/prefix', without "
            "'::'.",
            param=param,
        )
    if kind.lower() in ("http", "https"):
        raise InvalidRequestError(
            f"{param} must be a path of this machine or the URL of a file system, got one of the "
            f"kind {shown(kind)}; download what is there first.",
            param=param,
        )
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError(
            f"A URL as {param} needs the package 'fsspec', which is not installed; run: pip "
            "install 'langchain-image-variation[fsspec]'"
        ) from None
    try:
        get_filesystem_class(kind)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None)
        raise MissingExtraError(
            f"'{kind}://' as {param} needs "
            f"{f'the package {package!r}' if package else 'a package'}, which is not installed; "
            "fsspec's list of file systems says which."
        ) from None
    except ValueError:
        raise InvalidRequestError(
            f"{param} must be a path of this machine, or a URL that fsspec knows; it knows none of "
            f"the kind {shown(kind)}.",
            param=param,
        ) from None
    try:
        files, root = url_to_fs(url, **options)
    # A file system may connect here, and raises what the library below it does.
    except Exception as error:
        raise OutputError(
            f"The {kind} storage cannot be opened; check the address in {param} and "
            f"storage_options ({type(error).__name__})."
        ) from None
    return kind, files, str(root).rstrip("/")


def _local(files: Any, root: str) -> str | None:
    """Return the folder of this machine that a path of a file system is, if it is one."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    while not isinstance(files, LocalFileSystem):
        if isinstance(files, DirFileSystem):
            root = f"{str(files.path).rstrip('/')}/{root.lstrip('/')}".rstrip("/")
        # Some only add something to another one.
        files = getattr(files, "fs", None) or getattr(files, "sync_fs", None)
        if files is None:
            return None
    return root
