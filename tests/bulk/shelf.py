"""A file system that a distribution brings, as s3fs does, so that every process knows it.

It is an object store: whole objects by key, no rename, no folders but those that keys make. What is
in it lies below the folder that the environment names.
"""

import os
from pathlib import Path

import fsspec
import pytest

__all__ = ["declare_shelf", "on_shelf"]

_METADATA = "Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n"
_POINTS = "[fsspec.specs]\nshelf = shelf_of_tests:Shelf\n"
_MODULE = """
import os, secrets, time
from pathlib import Path
from fsspec import AbstractFileSystem


def entry(name, at):
    kind = "directory" if at.is_dir() else "file"
    return {"name": name, "type": kind, "size": at.stat().st_size}


class Shelf(AbstractFileSystem):
    protocol = "shelf"

    def _at(self, path, operation):
        key = str(self._strip_protocol(path)).strip("/")
        time.sleep(float(os.environ.get("SHELF_SECONDS", 0)))
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
        part = at.with_name(f".put{secrets.token_hex(4)}")
        part.write_bytes(value)
        part.replace(at)

    def put_file(self, lpath, rpath, **_):
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath, lpath, **_):
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path):
        self._at(path, "remove").unlink()
"""


def declare_shelf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the file system "shelf" to this process and to those that it starts.

    Args:
        folder: Where the distribution is put, and what is on the shelf.
        monkeypatch: Undoes it.
    """
    distribution = folder / "distribution"
    metadata = distribution / "shelf-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(_POINTS)
    (distribution / "shelf_of_tests.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(distribution))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(distribution), path))))
    monkeypatch.setenv("SHELF", str(folder / "shelf"))
    # Those that are declared are registered when it is imported, which it is here.
    fsspec.register_implementation("shelf", "shelf_of_tests.Shelf", clobber=True)


def on_shelf(url: str) -> Path:
    """Return where on this machine something on the shelf lies."""
    return Path(os.environ["SHELF"], url.removeprefix("shelf://"))
