"""File systems for tests, registered with fsspec: an async object store, and some that fail."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

SECRET = "AKIA-verysecret at /home/somebody"


class ForeignError(Exception):
    """An error of a library below a file system. Its text must not be shown."""


class Bucket(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """An object store: whole objects by key, without folders or renames, and async."""

    protocol = "bucket"
    objects: ClassVar[dict[str, tuple[float, bytes]]] = {}
    requested_keys: ClassVar[list[str]] = []
    failing: ClassVar[set[str]] = set()
    buckets: ClassVar[set[str]] = set()

    def _key(self, operation: str, path: str) -> str:
        key = str(self._strip_protocol(path))
        self.requested_keys.append(key)
        if operation in self.failing:
            raise ForeignError(f"{operation} {key} denied to {SECRET}")
        return key

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        # As s3fs does.
        self.buckets.add(self._key("makedirs", path).partition("/")[0])

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        key = self._key("info", path)
        if key not in self.buckets:
            raise FileNotFoundError(key)
        return {"name": key, "type": "directory", "size": 0}

    async def _pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        key = self._key("write", path)
        if key.partition("/")[0] not in self.buckets:
            raise FileNotFoundError(f"no bucket of {SECRET}")
        self.objects[key] = (time.time(), bytes(value))

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        key = self._key("read", path)
        if key not in self.objects:
            raise FileNotFoundError(f"{key} of {SECRET}")
        return self.objects[key][1][start:end]

    async def _rm_file(self, path: str, **_: Any) -> None:
        del self.objects[self._key("remove", path)]

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        prefix = f"{self._key('list', path)}/"
        matches = {k: v for k, v in self.objects.items() if k.startswith(prefix)}
        return [
            {"name": key, "type": "file", "size": len(data), "updated": timestamp}
            for key, (timestamp, data) in matches.items()
            if "/" not in key.removeprefix(prefix)
        ]


class WithoutMoves(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Local files that cannot be renamed."""

    protocol = "stuck"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("stuck://")))

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        """Fail."""
        raise ForeignError(f"{path1} of {SECRET}")


class Closed(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that cannot be opened."""

    protocol = "closed"

    def __init__(self, *args: Any, **options: Any) -> None:
        raise ForeignError(f"no entry for {SECRET}")


@contextmanager
def bucket() -> Iterator[type[Bucket]]:
    """Register these file systems with fsspec. The bucket is empty and works."""
    for kind in (Bucket, WithoutMoves, Closed):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    Bucket.objects.clear()
    Bucket.requested_keys.clear()
    Bucket.failing.clear()
    Bucket.buckets.clear()
    Bucket.buckets.update(("kept", "user:hunter2@kept"))
    yield Bucket
