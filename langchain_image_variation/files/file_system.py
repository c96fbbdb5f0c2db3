"""`FileSystem`: a place in any file system that fsspec knows: a bucket, a server, the memory.

What a file system raises becomes an error of the tree, without its text and without the URL, which
may hold a password.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    shown,
)
from langchain_image_variation.files.unfinished import unfinished_name

__all__ = ["FileSystem", "has_password", "is_url", "trimmed", "without_password"]

_WHOLE = 2**40
"""More bytes than any file has that is read."""
_LEVELS = 3
"""So many folders, one in the other, several processes may be about to make."""
_NO_NAMES = {"url_query", "url_fragment"}
"""What fsspec makes of a name, and a file system that is a server such as SFTP passes on unread."""
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


def trimmed(url: str) -> str:
    """Return a URL without slashes at its end, unless it names a root."""
    short = url.rstrip("/")
    return url if short.endswith(":") else short


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
        within = self.files
        while (below := getattr(within, "fs", None)) is not None:
            # Some only add something to another one.
            within = below
        self._at_once = bool(kind.async_impl and getattr(within, "async_impl", False))
        self.renames = not kind.async_impl and kind.mv is not AbstractFileSystem.mv

    @property
    def folder(self) -> str | None:
        """The folder of this machine that the place is, if it is one."""
        return _local(self.files, self.root)

    def path(self, below: str) -> str:
        """Return what the file system itself calls a name below the place."""
        return f"{self.root}/{below}".rstrip("/")

    def read(self, below: str, most: int = _WHOLE) -> bytes | None:
        """Return a file, or its first `most` bytes, or None if there is none.

        What the file system raises is left as it is: see `failures`.
        """
        (found,) = self.read_all([below], most)
        return found

    def read_all(self, names: Sequence[str], most: int = _WHOLE) -> list[bytes | None]:
        """Do what `read` does with several files, at once where the file system can."""
        paths = [self.path(below) for below in names]
        if not self._at_once:
            return [self._read(path, most) for path in paths]
        # Without a range, some ask for the size first.
        found = self.files.cat_ranges(paths, 0, most, on_error="return")
        return [
            self._missing(path, one) if isinstance(one, BaseException) else bytes(one)
            for path, one in zip(paths, found, strict=True)
        ]

    def _read(self, path: str, most: int) -> bytes | None:
        span = {} if most == _WHOLE else {"start": 0, "end": most}
        try:
            return bytes(self.files.cat_file(path, **span))
        except Exception as error:
            return self._missing(path, error)

    def has(self, below: str) -> bool:
        """Say whether there is a file of that name.

        What the file system raises is left as it is: see `failures`.
        """
        if self._at_once:
            # They would ask first for the file, and then for a folder of that name.
            return self.read(below, 1) is not None
        # Others write there too, and some remember what they listed.
        self.files.invalidate_cache()
        # Their own question for that takes any failure for "no".
        try:
            return str(self.files.info(self.path(below))["type"]) == "file"
        except (FileNotFoundError, NotADirectoryError):
            return False

    def remove(self, below: str) -> None:
        """Remove a file, if it is there.

        What the file system raises is left as it is: see `failures`.
        """
        try:
            self.files.rm_file(self.path(below))
        except Exception:
            # FTP has one answer for whatever is refused.
            if self.has(below):
                raise

    def write(self, below: str, data: bytes) -> None:
        """Write a file whole, in the place of any that has its name; its folder is there.

        What the file system raises is left as it is: see `failures`.
        """
        self._written(below, lambda path: self.files.pipe_file(path, data))

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Do what `write` does with several files, at once where the file system can."""
        if self._at_once:
            self.files.pipe({self.path(below): data for below, data in files.items()})
            return
        for below, data in files.items():
            self.write(below, data)

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
        except Exception:
            if self.has(below):
                raise
            return False
        return True

    def with_folder(self, folder: str, write: Callable[[], None]) -> None:
        """Write something; if that fails, make the folder for it and try again.

        A bucket is not made: its name may be a mistake.
        """
        try:
            return write()
        except Exception:
            # A path that is not absolute begins with a bucket, or what is called so elsewhere.
            bucket = self.root.partition("/")[0]
            if bucket and not self.files.exists(bucket):
                raise
        for _ in range(_LEVELS if self.renames else 0):
            # Other processes may make the same folders at the same time, one after the other.
            with suppress(Exception):
                self.files.invalidate_cache()
                self.files.makedirs(self.path(folder), exist_ok=True)
                return write()
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

    def _written(self, below: str, write: Callable[[str], None]) -> None:
        if not self.renames:
            write(self.path(below))
            return
        folder, slash, _ = below.rpartition("/")
        temporary = self.path(f"{folder}{slash}{unfinished_name()}")
        try:
            write(temporary)
            try:
                self.files.mv(temporary, self.path(below))
            except Exception:
                # Some, such as SMB, rename only to a name that is free.
                if not self.has(below):
                    raise
                self.remove(below)
                self.files.mv(temporary, self.path(below))
        except BaseException:
            with suppress(Exception):
                self.files.rm_file(temporary)
            raise

    def _missing(self, path: str, error: BaseException) -> bytes | None:
        """Return None for the error of a file that is not there, and nothing for an empty one.

        Raises:
            BaseException: The error, if it says anything else.
        """
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        # An empty file has no range that S3 would give.
        if self._is_empty(path):
            return b""
        raise error

    def _is_empty(self, path: str) -> bool:
        try:
            return bool(self.files.info(path).get("size") == 0)
        except Exception:
            return False


def _opened(url: str, options: Mapping[str, Any], param: str) -> tuple[str, Any, str]:
    """Return the kind of a file system, the file system, and the path in it that a URL means."""
    known = _URL.match(url)
    kind = known[1].lower() if known else ""
    url = kind + url[len(kind) :]
    if "::" in url:
        raise InvalidRequestError(
            f"{param} must be the URL of one file system, such as 's3://bucket/prefix', without "
            "'::'.",
            param=param,
        )
    if kind in ("http", "https"):
        raise InvalidRequestError(
            f"{param} must be a path of this machine or the URL of a file system, got one of the "
            f"kind {shown(kind)}; download what is there first.",
            param=param,
        )
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError.for_package(
            f"A URL as {param}", "fsspec", "langchain-image-variation[fsspec]"
        ) from None
    try:
        files_class = get_filesystem_class(kind)
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
    base = _without_marks(url, files_class)
    try:
        files, root = url_to_fs(base, **options)
    # A file system may connect here, and raises what the library below it does.
    except Exception as error:
        raise OutputError(
            f"The {kind} storage cannot be opened; check the address in {param} and "
            f"storage_options ({type(error).__name__})."
        ) from None
    return kind, files, str(root).rstrip("/") + url[len(base) :].rstrip("/")


def _without_marks(url: str, files_class: Any) -> str:
    """Return a URL, up to the folder of a name with "?" or "#" that would be taken for a query."""
    name = re.search("[?#]", url)
    if name is None or not _NO_NAMES & files_class._get_kwargs_from_urls(url).keys():
        return url
    return url[: name.start()].rpartition("/")[0]


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
    return root or "/"
