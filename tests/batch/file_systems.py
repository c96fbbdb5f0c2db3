"""File systems for tests. A distribution declares them, so that every process finds them.

"shelf" is an object store: it writes whole objects by key, cannot rename them, and has no folders
other than the prefixes of keys. "pier" behaves like FTP and SMB servers: threads cannot share its
connection, all failures raise the same error, and it renames only to names that are free. Both keep
their files below the folder in the environment variable SHELF.
"""

import os
from pathlib import Path

import fsspec
import pytest

from langchain_image_variation.files.storage_policy import StoragePolicy
from tests.batch.distribution import declare

__all__ = ["POLICY", "declare_file_systems", "shelf_path"]

POLICY = StoragePolicy(["shelf", "pier"])
"""Allows the file systems of the tests."""

_ENTRY_POINTS = "[fsspec.specs]\nshelf = shelf_of_tests:Shelf\npier = shelf_of_tests:Pier\n"
_MODULE = """
import os, secrets, threading, time
from pathlib import Path
from fsspec import AbstractFileSystem
from fsspec.utils import infer_storage_options


def describe(name, path):
    kind = "directory" if path.is_dir() else "file"
    return {"name": name, "type": kind, "size": path.stat().st_size}


class Shelf(AbstractFileSystem):
    protocol = "shelf"

    def _local_path(self, path, operation):
        key = str(self._strip_protocol(path)).strip("/")
        time.sleep(float(os.environ.get("SHELF_SECONDS", 0)))
        while os.path.exists(os.environ["SHELF"] + ".hangs"):
            time.sleep(0.05)
        with open(os.environ["SHELF"] + ".log", "a") as log:
            log.write(f"{operation} {key}\\n")
        if operation in os.environ.get("SHELF_FAILS", "").split():
            raise ConnectionError(f"{operation} of {key} denied to AKIA-verysecret")
        if not key.startswith("kept"):
            raise FileNotFoundError("no such bucket")
        return Path(os.environ["SHELF"], key)

    def info(self, path, **_):
        local_path = self._local_path(path, "info")
        return describe(self._strip_protocol(path).strip("/"), local_path)

    def ls(self, path, detail=True, **_):
        folder, key = self._local_path(path, "list"), self._strip_protocol(path).strip("/")
        names = [name for name in os.listdir(folder) if not name.startswith(".put")]
        # S3 lists the folder itself if someone created an object for it.
        entries = [{"name": f"{key}/", "type": "file", "size": 0}]
        entries += [describe(f"{key}/{name}", folder / name) for name in names]
        return entries if detail else [entry["name"] for entry in entries]

    def cat_file(self, path, start=None, end=None, **_):
        return self._local_path(path, "read").read_bytes()[start:end]

    def pipe_file(self, path, value, **_):
        target = self._local_path(path, "write")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".put{secrets.token_hex(4)}.part")
        part.write_bytes(value)
        part.replace(target)

    def put_file(self, lpath, rpath, **_):
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath, lpath, **_):
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path):
        self._local_path(path, "remove").unlink()


class Refused(Exception):
    pass


class Pier(Shelf):
    protocol = "pier"

    @classmethod
    def _strip_protocol(cls, path):
        return infer_storage_options(path)["path"]

    @staticmethod
    def _get_kwargs_from_urls(url):
        return {k: v for k, v in infer_storage_options(url).items() if k.startswith("url_")}

    def __init__(self, **options):
        assert not options
        super().__init__()

    def _local_path(self, path, operation):
        user = os.getpid(), threading.get_ident()
        assert self.__dict__.setdefault("user", user) == user, "the connection is shared"
        return super()._local_path(path, operation)

    def get_file(self, rpath, lpath, **_):
        try:
            super().get_file(rpath, lpath)
        except OSError:
            raise Refused

    def rm_file(self, path):
        try:
            super().rm_file(path)
        except OSError:
            raise Refused

    def pipe_file(self, path, value, **_):
        target = self._local_path(path, "write")
        if not target.parent.exists():
            raise Refused
        target.write_bytes(value)

    def makedirs(self, path, exist_ok=False):
        target = self._local_path(path, "make")
        for folder in (*reversed(target.parents), target):
            if not folder.exists():
                folder.mkdir()
                # Simulates that another process created it first.
                raise Refused

    def mv(self, path1, path2, **_):
        target = self._local_path(path2, "rename")
        if target.exists():
            raise Refused
        self._local_path(path1, "rename").rename(target)
"""


def declare_file_systems(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the file systems for this process and its children.

    Args:
        folder: Where to put the distribution and the files.
        monkeypatch: Undoes the declaration.
    """
    declare(folder, "shelf", _ENTRY_POINTS, _MODULE, monkeypatch)
    monkeypatch.setenv("SHELF", str(folder / "shelf"))
    # fsspec reads entry points when it is imported, and in this process it already is.
    fsspec.register_implementation("shelf", "shelf_of_tests.Shelf", clobber=True)
    fsspec.register_implementation("pier", "shelf_of_tests.Pier", clobber=True)


def shelf_path(url: str) -> Path:
    """Return the local path of the file or folder at a URL."""
    return Path(os.environ["SHELF"], url.partition("://")[2].lstrip("/"))
