"""Downloads one large file into the cache of Hugging Face, and continues where an attempt stopped.

`huggingface_hub` deletes an incomplete file when a download fails or is interrupted. For files of
gigabytes, we keep it: the file gets its place in the cache once it is complete and its hash is
right. The library then finds it there, and only links it.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.engines.diffusers.hub_errors import kinds, status_code
from langchain_image_variation.exceptions import EngineConnectionError

__all__ = ["ByteCount", "RemoteFile", "fetch_blob"]

_PART_BYTES = 2**20
"""How much of a file is hashed at once."""

_ATTEMPTS = 5
"""How often a file is continued after its connection was reset, as often as in the library."""

_PAUSE = 1.0
"""Seconds between two attempts, as in the library."""

_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at a certain commit.

    Attributes:
        repository: The repository, as "owner/name".
        commit: The hash of the commit.
        path: The file's path in the repository.
        size: Its size in bytes.
        sha256: Its hash, if it is stored with Git LFS, as all large files are. Otherwise None.
    """

    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None


class ByteCount:
    """Counts the bytes of a download, and reports them to a listener.

    If the call that it belongs to is cancelled, the next report ends it.

    Args:
        total: The size of the whole download in bytes.
        listener: Called with the bytes that are here, and with the total.
    """

    def __init__(self, total: int, listener: Callable[[int, int], object]) -> None:
        self._total, self._listener = total, listener
        self._finished = 0

    def finish_file(self, size: int) -> None:
        """Count a file that is complete."""
        self._finished += size
        self.report(0)

    def report(self, size: int) -> None:
        """Report how much of the current file is here, in bytes.

        Raises:
            EngineError: If the call was cancelled.
        """
        check_cancellation()
        self._listener(min(self._finished + size, self._total), self._total)


class _Bar:
    """Reports the progress of one file. The library takes it for a progress bar of tqdm.

    Args:
        count: Where to report it.
        initial: How many bytes were here when the library began.
        **settings: What else the library passes to tqdm.
    """

    def __init__(self, count: ByteCount, initial: int = 0, **settings: object) -> None:
        self._count, self._size = count, initial

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def update(self, size: int) -> None:
        self._size += size
        self._count.report(self._size)


def fetch_blob(
    file: RemoteFile,
    repository_dir: Path,
    *,
    lock_dir: Path,
    token: str | None,
    endpoint: str | None,
    count: ByteCount,
) -> None:
    """Download a file of Git LFS to its place among the blobs of the cache.

    An incomplete file of an earlier attempt is continued. If another process downloads the same
    file, this waits for it. An error, or an interruption, keeps what has arrived.

    Args:
        file: The file. It must have a hash.
        repository_dir: The repository's folder in the cache.
        lock_dir: The folder for the locks of that repository.
        token: Identifies the user at the Hub.
        endpoint: The Hub's address, or None for the default.
        count: Counts the bytes that arrive, including those of earlier attempts.

    Raises:
        EngineConnectionError: If the file that arrived is corrupt.
    """
    from huggingface_hub.utils import WeakFileLock

    blob = repository_dir / "blobs" / str(file.sha256)
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock_dir.mkdir(parents=True, exist_ok=True)
    # The library takes the same lock.
    with WeakFileLock(lock_dir / f"{blob.name}.lock"):
        if not blob.exists():
            partial = blob.with_name(f"{blob.name}.incomplete")
            _fill(partial, file, token, endpoint, count)
            if _sha256(partial) != file.sha256:
                partial.unlink()
                raise EngineConnectionError(
                    f"The file {file.path!r} of the repository {file.repository!r} arrived "
                    "corrupt, so it was deleted. Try again."
                )
            os.replace(partial, blob)


def _fill(
    partial: Path, file: RemoteFile, token: str | None, endpoint: str | None, count: ByteCount
) -> None:
    """Download what is missing of an incomplete file.

    The library tries again if a server hangs up, but not if a connection is reset.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(file.repository, file.path, revision=file.commit, endpoint=endpoint)
    for attempt in range(1, _ATTEMPTS + 1):
        with partial.open("ab") as stream:
            resume_size = stream.tell()
            try:
                http_get(
                    url,
                    stream,
                    resume_size=resume_size,
                    headers=build_hf_headers(token=token),
                    expected_size=file.size,
                    displayed_filename=file.path,
                    tqdm_class=functools.partial(_Bar, count),
                )
                return
            except Exception as error:
                if resume_size and status_code(error) == _RANGE_NOT_SATISFIABLE:
                    # What was kept is not the beginning of this file.
                    stream.truncate(0)
                elif attempt == _ATTEMPTS or "ReadError" not in kinds(error):
                    raise
        time.sleep(_PAUSE)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()
