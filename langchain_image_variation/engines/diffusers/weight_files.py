"""Which files of a repository a model needs, which are safe to load, and which are corrupt."""

import json
import re
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["DEFAULT_REVISION", "choose_files", "find_corrupt_file"]

_SAFE = ".safetensors"
_PICKLE = ".bin"
_UNUSED_SUFFIXES = (
    *(".ckpt", ".pt", ".pth", ".pkl", ".npz", ".h5", ".msgpack", ".onnx", ".pb", ".xml", ".gguf"),
    *(".py", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".md"),
)
"""Weights for other programs, pickles that `weights_only` cannot restrict, code, and pictures."""

_INDEX = ".index.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

DEFAULT_REVISION = "main"
"""The branch that a repository's files come from if no other revision is named. It can change."""


def choose_files(
    paths: Iterable[str], patterns: Iterable[str], *, repository: str, revision: str
) -> list[str]:
    """Return the files that a model needs, sorted.

    Weights come as safetensors, which cannot contain code. A `.bin` file is a pickle. It is chosen
    only if its folder has no safetensors, and only from a revision that was named on purpose. It is
    then loaded with `weights_only`, which allows nothing but numbers.

    Variants, such as the half precision of `model.fp16.safetensors`, are left out unless a pattern
    names them.

    Args:
        paths: All files of the repository.
        patterns: What the model needs, such as "unet/*".
        repository: Its name, for messages.
        revision: The commit, tag or branch that the files come from.

    Raises:
        InvalidRequestError: If only pickles exist and the revision is not pinned, or if no file
            matches.
    """
    patterns = list(patterns)
    matches = {
        path
        for path in paths
        if not path.lower().endswith(_UNUSED_SUFFIXES)
        and any(_matches(path, pattern) for pattern in patterns)
    }
    safe_folders = {_folder(path) for path in matches if _is_weights(path, _SAFE)}
    pickles = {path for path in matches if _is_weights(path, _PICKLE)}
    unneeded = {path for path in pickles if _folder(path) in safe_folders}
    if revision == DEFAULT_REVISION and pickles - unneeded:
        raise InvalidRequestError(
            f"The repository {repository!r} has weights only as pickles, and the revision "
            f"{revision!r} can change at any time. Name a commit that you trust: pass revision.",
            param="revision",
        )
    if not matches - unneeded:
        raise InvalidRequestError(
            f"The revision {revision!r} of the repository {repository!r} has none of the files of "
            "this model. Check the model's name.",
            param="model",
        )
    return sorted(matches - unneeded)


def find_corrupt_file(folder: Path) -> str | None:
    """Return the first file of a model that is missing or corrupt, or None if all look right.

    This checks what is quick to check: the structure of each file, and whether it is complete.

    Args:
        folder: The folder of the model, or of a part of it.

    Returns:
        The path of the file in the folder, with slashes.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        try:
            if path.name.endswith(_INDEX):
                # The weights are in several files, which this one lists.
                for shard in sorted({*json.loads(path.read_bytes())["weight_map"].values()}):
                    if not (path.parent / shard).is_file():
                        return f"{_folder(name)}/{shard}".lstrip("/")
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == _SAFE:
                _check_safetensors(path)
            elif path.suffix == _PICKLE and not _is_whole_pickle(path):
                return name
        except Exception:
            # Whatever the reader says about the file, it cannot read it.
            return name
    return None


def _check_safetensors(path: Path) -> None:
    """Read the header of a file, which says how long the file is."""
    from safetensors import safe_open

    with safe_open(path, framework="np"):
        pass


def _is_whole_pickle(path: Path) -> bool:
    """Return whether a file has an end. Since version 1.6, torch puts pickles into ZIP files."""
    with path.open("rb") as stream:
        is_old = stream.read(1) == b"\x80"
    return is_old or zipfile.is_zipfile(path)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_weights(path: str, suffix: str) -> bool:
    """Return whether a file has weights of a format, or lists the files that have them."""
    return path.endswith((suffix, suffix + _INDEX))


def _matches(path: str, pattern: str) -> bool:
    variant = _variant(path)
    return fnmatchcase(path, pattern) and (variant is None or f".{variant}." in pattern)


def _variant(path: str) -> str | None:
    """Return the variant that a file of weights belongs to, such as "fp16", or None."""
    name = path.rpartition("/")[2].removesuffix(_INDEX)
    stem, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}" not in (_SAFE, _PICKLE):
        return None
    return _SHARD.sub("", stem).partition(".")[2] or None
