"""Which files of a repository a model needs, which are safe to load, and which are corrupt."""

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = [
    "DEFAULT_REVISION",
    "FLOAT16",
    "choose_files",
    "find_corrupt_file",
    "loaded_files",
    "loaded_variant",
]

_SAFE = ".safetensors"
_PICKLE = ".bin"
_CONFIGURATION_SUFFIXES = (".json", ".txt", ".model")
"""Settings of components, and vocabularies of tokenizers.

All other files without weights are code, pictures, or weights for other programs. Those can be
larger than the model: SDXL has a U-Net for ONNX of 10 GB next to its own.
"""

_WEIGHTS = re.compile(
    r"(?!openvino_)(?P<stem>.+)(?P<suffix>\.safetensors|\.bin)(?P<index>\.index(?:\.(?P<variant>[\w-]+))?\.json)?"
)
"""Matches the name of a file with weights, or of one that lists the files that have them.

The weights for OpenVINO end in `.bin` too.
"""

_SHARD = re.compile(r"-\d{5}-of-\d{5}")

FLOAT16 = "fp16"
"""The variant of files whose numbers have 16 bits, as the library diffusers names them. They are
half as large as the others. A number of an original file becomes the same when it is loaded in
`float16`."""

DEFAULT_REVISION = "main"
"""The branch that a repository's files come from if no other revision is named. It can change."""


class _Format(NamedTuple):
    """What the files of a component's weights have in common. A component may have several."""

    suffix: str
    variant: str | None


def choose_files(
    paths: Iterable[str],
    patterns: Iterable[str],
    *,
    repository: str,
    revision: str,
    float16: bool = False,
) -> list[str]:
    """Return the files that a model needs, sorted.

    Weights come as safetensors, which cannot contain code. A `.bin` file is a pickle. It is chosen
    only if its folder has no safetensors, and only from a revision that was named on purpose. It is
    then loaded with `weights_only`, which allows nothing but numbers.

    Of the variants that a folder may have, only the one named `fp16` is ever chosen. Safetensors
    come before pickles. Among files of one kind, `float16` decides whether `fp16` comes first.

    Args:
        paths: All files of the repository.
        patterns: What the model needs, such as "unet/*".
        repository: Its name, for messages.
        revision: The commit, tag or branch that the files come from.
        float16: Whether to choose files in half precision where a folder has them.

    Raises:
        InvalidRequestError: If only pickles exist and the revision is not pinned, if the weights
            of a folder exist only in other variants, or if no file matches.
    """
    patterns = list(patterns)
    matches = [
        path
        for path in paths
        if (_format(path) or path.endswith(_CONFIGURATION_SUFFIXES))
        and any(fnmatchcase(path, pattern) for pattern in patterns)
    ]
    formats: dict[str, set[_Format]] = defaultdict(set)
    for path in matches:
        if found := _format(path):
            formats[_folder(path)].add(found)
    chosen = {folder: _best(found, float16=float16) for folder, found in formats.items()}
    for folder, best in chosen.items():
        if best is None:
            variants = sorted({str(found.variant) for found in formats[folder]})
            place = excerpt(folder) if folder else "its main folder"
            raise InvalidRequestError(
                f"The repository {repository!r} has the weights of {place} only in the variants "
                f"{', '.join(map(excerpt, variants))}. Of all variants, only {FLOAT16!r} can be "
                "loaded. Choose another model, or another revision.",
                param="model",
            )
    needed = [
        path for path in matches if (found := _format(path)) in (None, chosen.get(_folder(path)))
    ]
    if revision == DEFAULT_REVISION and any(
        found is not None and found.suffix == _PICKLE for found in map(_format, needed)
    ):
        raise InvalidRequestError(
            f"The repository {repository!r} has weights only as pickles, and the revision "
            f"{revision!r} can change at any time. Name a commit that you trust: pass revision.",
            param="revision",
        )
    if not needed:
        raise InvalidRequestError(
            f"The revision {revision!r} of the repository {repository!r} has none of the files of "
            "this model. Check the model's name.",
            param="model",
        )
    return sorted(needed)


def loaded_variant(folder: Path, *, float16: bool) -> str | None:
    """Return the variant of a component's weights to load: `FLOAT16`, or None for the usual one.

    In `float16`, both give the same images, so one that is whole is loaded instead of one that is
    incomplete or corrupt.

    Args:
        folder: The folder of the component.
        float16: Whether the component computes in `float16`.
    """
    best = _best(_loadable_formats(folder, float16=float16), float16=float16)
    return best.variant if best else None


def loaded_files(folder: Path, *, float16: bool) -> list[Path]:
    """Return the files of a component's weights to load. See `loaded_variant`."""
    formats = _loadable_formats(folder, float16=float16)
    best = _best(formats, float16=float16)
    return [path for path in formats[best] if not _is_index(path.name)] if best else []


def _loadable_formats(folder: Path, *, float16: bool) -> dict[_Format, list[Path]]:
    """Return the files of weights of a component, with their indexes, by their format.

    In `float16`, these are only the formats whose files are all here and whole, if there are any.
    """
    formats: dict[_Format, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if found := _format(path.name):
            formats[found].append(path)
    best = _best(formats, float16=True)
    if not float16 or best is None:
        return formats
    whole = {
        found: paths
        for found, paths in formats.items()
        # A pickle never replaces safetensors.
        if found.suffix == best.suffix
        and found.variant in (None, FLOAT16)
        and all(map(_is_whole, paths))
    }
    # If nothing is whole, loading fails, and its error names what is corrupt.
    return whole or formats


def _best(formats: Iterable[_Format], *, float16: bool) -> _Format | None:
    """Return the best format to load: safetensors first, then the wanted precision."""
    wanted = FLOAT16 if float16 else None
    usable = [found for found in formats if found.variant in (None, FLOAT16)]
    return min(
        usable, key=lambda found: (found.suffix != _SAFE, found.variant != wanted), default=None
    )


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
            shard = _find_missing_shard(path) if _is_index(path.name) else None
        except Exception:
            # Whatever the reader says about the index, it cannot read it.
            return name
        if shard is not None:
            return f"{_folder(name)}/{shard}".lstrip("/")
        if not _is_whole(path):
            return name
    return None


def _is_whole(path: Path) -> bool:
    """Return whether a file has the structure that its name promises. Other files count as whole.

    An index is whole if all files that it lists are here.
    """
    try:
        if _is_index(path.name):
            return _find_missing_shard(path) is None
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif found := _format(path.name):
            if found.suffix == _SAFE:
                _check_safetensors(path)
            else:
                return _is_whole_pickle(path)
    except Exception:
        # Whatever the reader says about the file, it cannot read it.
        return False
    return True


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


def _format(path: str) -> _Format | None:
    """Return the format of a file of weights, or of one that lists such files. None for others."""
    match = _WEIGHTS.fullmatch(path.rpartition("/")[2])
    if match is None:
        return None
    # A variant is named before or after the number of a shard.
    _, _, variant = _SHARD.sub("", match["stem"]).partition(".")
    return _Format(match["suffix"], match["variant"] or variant or None)


def _is_index(name: str) -> bool:
    match = _WEIGHTS.fullmatch(name)
    return match is not None and match["index"] is not None


def _find_missing_shard(index: Path) -> str | None:
    """Return the name of the first missing file of those that an index lists, or None."""
    shards = sorted({*json.loads(index.read_bytes())["weight_map"].values()})
    return next((shard for shard in shards if not (index.parent / shard).is_file()), None)
