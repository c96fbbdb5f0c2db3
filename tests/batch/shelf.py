"""File systems that a distribution brings, as s3fs does, so that every process knows them.

"shelf" is an object store: whole objects by key, no rename, no folders but those that keys make.
"pier" is a server with the manners of FTP and SMB: one connection that no two threads may use, one
error for whatever is refused, and a rename only to a name that is free. What is in them lies below
the folder that the environment names.
"""

import os
from pathlib import Path

import fsspec
import pytest

from tests.batch.distribution import declare

__all__ = ["declare_shelf", "on_shelf"]

_POINTS = "[fsspec.specs]\nshelf = shelf_of_tests:Shelf\npier = shelf_of_tests:Pier\n"
_MODULE = """
import os, secrets, threading, time
from pathlib import Path
from fsspec import AbstractFileSystem
from fsspec.utils import infer_storage_options


def entry(name, at):
    kind = "directory" if at.is_dir() else "file"
    return {"name": name, "type": kind, "size": at.stat().st_size}


class Shelf(AbstractFileSystem):
    protocol = "shelf"

    def _at(self, path, operation):
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
        at = self._at(path, "info")
        return entry(self._strip_protocol(path).strip("/"), at)

    def ls(self, path, detail=True, **_):
        at, key = self._at(path, "list"), self._strip_protocol(path).strip("/")
        names = [name for name in os.listdir(at) if not name.startswith(".put")]
        # As one of S3 does that was made by hand.
        found = [{"name": f"{key}/", "type": "file", "size": 0}]
        found += [entry(f"{key}/{name}", at / name) for name in names]
        return found if detail else [one["name"] for one in found]

    def cat_file(self, path, start=None, end=None, **_):
        return self._at(path, "read").read_bytes()[start:end]

    def pipe_file(self, path, value, **_):
        at = self._at(path, "write")
        at.parent.mkdir(parents=True, exist_ok=True)
        part = at.with_name(f".put{secrets.token_hex(4)}.part")
        part.write_bytes(value)
        part.replace(at)

    def put_file(self, lpath, rpath, **_):
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath, lpath, **_):
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path):
        self._at(path, "remove").unlink()


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

    def _at(self, path, operation):
        now = os.getpid(), threading.get_ident()
        assert self.__dict__.setdefault("user", now) == now, "the connection is shared"
        return super()._at(path, operation)

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
        at = self._at(path, "write")
        if not at.parent.exists():
            raise Refused
        at.write_bytes(value)

    def makedirs(self, path, exist_ok=False):
        at = self._at(path, "make")
        for folder in (*reversed(at.parents), at):
            if not folder.exists():
                folder.mkdir()
                # As if another process had been quicker.
                raise Refused

    def mv(self, path1, path2, **_):
        target = self._at(path2, "rename")
        if target.exists():
            raise Refused
        self._at(path1, "rename").rename(target)
"""


def declare_shelf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the file systems to this process and to those that it starts.

    Args:
        folder: Where the distribution is put, and what is on the shelf.
        monkeypatch: Undoes it.
    """
    declare(folder, "shelf", _POINTS, _MODULE, monkeypatch)
    monkeypatch.setenv("SHELF", str(folder / "shelf"))
    # Those that are declared are registered when it is imported, which it is here.
    fsspec.register_implementation("shelf", "shelf_of_tests.Shelf", clobber=True)
    fsspec.register_implementation("pier", "shelf_of_tests.Pier", clobber=True)


def on_shelf(url: str) -> Path:
    """Return where on this machine something at a URL lies."""
    return Path(os.environ["SHELF"], url.partition("://")[2].lstrip("/"))
