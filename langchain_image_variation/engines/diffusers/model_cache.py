"""The cache of Hugging Face: which files of models are in it, without using the network."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from langchain_image_variation.engines.diffusers.hub_errors import unwritable_cache_error
from langchain_image_variation.engines.diffusers.transfer import RemoteFile
from langchain_image_variation.engines.diffusers.weight_files import choose_files

if TYPE_CHECKING:
    from langchain_image_variation.engines.diffusers.presets import Part

__all__ = [
    "CacheDir",
    "cached_folder",
    "check_writable",
    "choose_part_files",
    "delete_file",
    "existing_folder",
    "is_here",
    "is_whole",
    "missing_bytes",
    "repository_dir",
]

CacheDir: TypeAlias = str | os.PathLike[str] | None
"""The folder of the cache. None means the one that all programs of Hugging Face share, which
`HF_HUB_CACHE` or `HF_HOME` can move."""


def cached_folder(
    part: "Part", cache_dir: CacheDir = None, *, float16: bool = False
) -> Path | None:
    """Return the folder of a part if the cache has all of its files, without using the network.

    Args:
        part: What to look for.
        cache_dir: See `CacheDir`.
        float16: Whether files in half precision are as good as the others. See `choose_files`.

    Raises:
        InvalidRequestError: If the cached revision has no files that may be used.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    directory = repository_dir(part.repository, cache_dir)
    commit = _cached_commit(directory, part.revision)
    if commit is None:
        return None
    try:
        files = get_cached_repo_tree(
            part.repository, revision=commit, cache_dir=_cache_path(cache_dir)
        )
    except (CachedRepoTreeNotFoundError, OSError):
        # Without the list of its files, nobody can tell whether a download was complete.
        return None
    folder = directory / "snapshots" / commit
    sizes = {file.path: getattr(file, "size", 0) for file in files}
    for accepts_float16 in (False, True) if float16 else (False,):
        paths = choose_part_files(part, sizes, float16=accepts_float16)
        if all(is_whole(folder / path, sizes[path]) for path in paths):
            return folder
    return None


def repository_dir(repository: str, cache_dir: CacheDir) -> Path:
    """Return the folder of a repository in the cache, whether or not it exists."""
    from huggingface_hub.file_download import repo_folder_name

    name: str = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(_cache_path(cache_dir)).resolve() / name


def existing_folder(cache_dir: CacheDir) -> Path:
    """Return the folder of the cache, or else the closest one above it that exists."""
    folder = Path(_cache_path(cache_dir))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_writable(cache_dir: CacheDir) -> None:
    """Check that the cache can be written to, before the network is used.

    Raises:
        OutputError: If it cannot.
    """
    folder = existing_folder(cache_dir)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise unwritable_cache_error()


def choose_part_files(part: "Part", paths: Iterable[str], *, float16: bool = False) -> list[str]:
    """Return those of some files that a part needs. See `choose_files`."""
    return choose_files(
        paths,
        part.patterns,
        repository=part.repository,
        revision=part.revision,
        float16=float16,
    )


def missing_bytes(files: Iterable[RemoteFile], cache_dir: CacheDir) -> int:
    """Return how many bytes of some files are not here. An interrupted download leaves some."""
    return sum(file.size - _present_bytes(file, cache_dir) for file in files)


def is_here(file: RemoteFile, cache_dir: CacheDir) -> bool:
    """Return whether the cache has a file, in its revision or in another one."""
    directory = repository_dir(file.repository, cache_dir)
    path = directory / "snapshots" / file.commit / file.path
    return is_whole(path, file.size) or is_whole(_blob(file, cache_dir), file.size)


def is_whole(path: Path, size: int) -> bool:
    """Return whether a file exists and is complete. Some mirrors do not say how large a file is."""
    return path.is_file() and (not size or path.stat().st_size == size)


def delete_file(path: Path) -> None:
    """Delete a file of the cache, and what it is a link to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _present_bytes(file: RemoteFile, cache_dir: CacheDir) -> int:
    if is_here(file, cache_dir):
        return file.size
    blob = _blob(file, cache_dir)
    partial = blob.with_name(f"{blob.name}.incomplete")
    return min(partial.stat().st_size, file.size) if partial.is_file() else 0


def _blob(file: RemoteFile, cache_dir: CacheDir) -> Path:
    return repository_dir(file.repository, cache_dir) / "blobs" / (file.sha256 or "-")


def _cache_path(cache_dir: CacheDir) -> str:
    from huggingface_hub import constants

    return str(Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser())


def _cached_commit(directory: Path, revision: str) -> str | None:
    """Return the hash of the commit that a revision meant at the last download, or None."""
    reference = directory / "refs" / revision
    if reference.is_file():
        return reference.read_text("utf-8").strip()
    return revision if (directory / "snapshots" / revision).is_dir() else None
