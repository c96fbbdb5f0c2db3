"""Models: what the option `model` means, be it a preset, a repository or a folder."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from langchain_image_variation.engines.diffusers.presets import PRESETS, Part, Preset
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    InvalidRequestError,
    excerpt,
)

__all__ = [
    "INDEX_NAME",
    "FindFolders",
    "Model",
    "absolute_model",
    "fingerprint_folder",
    "model_name",
    "read_model",
]

INDEX_NAME = "model_index.json"
"""The file of a diffusers model that names its pipeline class and its components."""

FindFolders = Callable[[tuple[Part, ...]], Mapping[str, Path]]
"""Returns the folder of each part by its name, and downloads what is missing."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PAGE = re.compile(rf"(?:https?://)?(?:huggingface\.co|hf\.co)/({_REPOSITORY.pattern})", re.ASCII)
"""Matches the address of a repository's page at the Hub."""

_SINGLE_FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")
"""The suffixes of files that may hold a whole model."""

_CONVERT = (
    "If you have a single weight file, first convert it to a folder with diffusers: "
    "from_single_file(FILE).save_pretrained(FOLDER)."
)
_MAX_SIBLINGS = 1000
"""How many folders next to a missing one are looked at for a similar name."""


@dataclass(frozen=True)
class Model:
    """What to load, and how to use it.

    Args:
        name: What requests and results call it: the name of the preset, of the repository, or of
            the folder.
        preset: The preset, or a copy of the one whose pipeline class the model has.
        parts: The parts that are in repositories.
        folders: The folders of the other parts, by name.
    """

    name: str
    preset: Preset
    parts: tuple[Part, ...]
    folders: Mapping[str, Path] = field(default_factory=dict)


def model_name(model: str | Path) -> str:
    """Return what requests and results call a model.

    Raises:
        InvalidRequestError: If it can be neither a preset, nor a repository, nor a folder.
    """
    if isinstance(model, str) and model in PRESETS:
        return model
    folder = _as_folder(model)
    if folder is not None:
        return Path(absolute_model(folder)).name or "model"
    if isinstance(model, str) and _REPOSITORY.fullmatch(model):
        return model
    similar = _find_similar(model) if isinstance(model, str) else None
    suggestion = f" Did you mean {excerpt(similar)}?" if similar else ""
    if isinstance(model, str) and model.lower().endswith(_SINGLE_FILES):
        suggestion = f" {_CONVERT}"
    raise InvalidRequestError(
        f"model must be one of {', '.join(PRESETS)}, a repository such as 'owner/name', or a "
        f"folder such as './name', got {excerpt(model)}.{suggestion}",
        param="model",
    )


def _find_similar(model: str) -> str | None:
    """Return the folder, repository or preset that the user may have meant by `model`, if any."""
    if model and os.path.isfile(os.path.join(model, INDEX_NAME)):
        return f"./{model}"
    page = _PAGE.match(model)
    if page is not None:
        return page[1]
    return next(iter(get_close_matches(model.lower(), PRESETS, n=1)), None)


def absolute_model(model: str | Path) -> str | Path:
    """Return a model so that it stays the same when the current folder changes."""
    folder = _as_folder(model)
    return model if folder is None else Path(os.path.abspath(folder))


def read_model(model: str | Path, revision: str | None, find_folders: FindFolders) -> Model:
    """Return what to load for a model.

    Args:
        model: The name of a preset, a repository as "owner/name", or a folder. A string is a folder
            if it is absolute or starts with "." or "~".
        revision: The revision of the repository. By default, that of the preset whose pipeline is
            in the repository, or "main".
        find_folders: Finds the index of a repository that is not a preset. Not called for presets
            and folders.

    Raises:
        InvalidRequestError: If the folder does not exist or is not a model, if no family supports
            the model's class, or if `revision` is given for a folder.
        EngineError: If the index of a repository cannot be read. Errors of `find_folders` are
            passed on.
    """
    name = model_name(model)
    folder = _as_folder(model)
    if folder is not None:
        if revision is not None:
            raise InvalidRequestError(
                "revision is for repositories, but the model is a folder. Leave revision out.",
                param="revision",
            )
        return _read_folder(name, folder)
    preset = PRESETS.get(name) or (None if revision else _preset_of_repository(name))
    if preset is not None:
        pipeline, *others = preset.parts
        if revision is not None:
            pipeline = dataclasses.replace(pipeline, revision=revision)
        return Model(name, preset, (pipeline, *others))
    pipeline = Part("pipeline", name, revision or "main", (INDEX_NAME,))
    with _hint_at_folder(name):
        index_folder = find_folders((pipeline,))["pipeline"]
    preset = _preset_of_class(name, _read_index(name, index_folder / INDEX_NAME)["_class_name"])
    pipeline = dataclasses.replace(pipeline, patterns=preset.parts[0].patterns)
    return Model(name, _renamed(preset, name), (pipeline, *preset.parts[1:]))


def fingerprint_folder(model: Model) -> str | None:
    """Return a hash of the files in a model's folders, or None if it has no folders.

    It covers their names, sizes and times of change, since reading gigabytes would take too long.
    """
    if not model.folders:
        return None
    files = []
    for folder in model.folders.values():
        for path in sorted(folder.rglob("*")):
            with suppress(OSError):
                status = path.stat()
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    files.append([name, status.st_size, status.st_mtime_ns])
    return digest(files=files)


def _as_folder(model: str | Path) -> Path | None:
    """Return the folder that a model is, or None if it is not written as a folder."""
    is_folder = isinstance(model, Path) or (
        isinstance(model, str) and (model.startswith((".", "~")) or os.path.isabs(model))
    )
    # Path.expanduser raises an error for a user who does not exist.
    return Path(os.path.expanduser(model)) if is_folder else None


def _read_folder(name: str, folder: Path) -> Model:
    # The methods of Path raise errors for some names that no file can have.
    if os.path.isfile(folder):
        raise InvalidRequestError(
            f"The model {excerpt(name)} is a file. Pass the folder that contains {INDEX_NAME}. "
            f"{_CONVERT}",
            param="model",
        )
    if not os.path.isdir(folder):
        siblings = get_close_matches(folder.name, _models_in(folder.parent), n=1)
        raise InvalidRequestError(
            f"There is no folder {excerpt(name)} for the model. "
            + (
                f"Did you mean {excerpt(siblings[0])}, next to it?"
                if siblings
                else f"Pass the folder that contains {INDEX_NAME}."
            ),
            param="model",
        )
    index = folder / INDEX_NAME
    if not os.path.isfile(index):
        raise InvalidRequestError(
            f"The folder {excerpt(name)} has no {INDEX_NAME}, so it is not a diffusers model. "
            f"{_find_model_nearby(folder)}",
            param="model",
        )
    content = _read_index(name, index)
    preset = _preset_of_class(name, content["_class_name"])
    _check_components(name, folder, content, preset)
    folders = {"pipeline": folder}
    # A folder may bring the other parts of its model along, in subfolders.
    folders |= {part.name: folder / part.name for part in preset.parts[1:]}
    folders = {part: path for part, path in folders.items() if path.is_dir()}
    parts = tuple(part for part in preset.parts if part.name not in folders)
    return Model(name, _renamed(preset, name), parts, folders)


def _models_in(folder: Path) -> list[str]:
    """Return the names of the folders with a model in a folder."""
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        return [
            entry.name
            for entry in islice(entries, _MAX_SIBLINGS)
            if os.path.isfile(os.path.join(entry.path, INDEX_NAME))
        ]
    return []


def _find_model_nearby(folder: Path) -> str:
    """Return a sentence that leads from a folder that is not a model to one that is."""
    if os.path.isfile(folder.parent / INDEX_NAME):
        return "Its parent folder is one. Pass that."
    models = sorted(_models_in(folder))
    if models:
        return f"It contains models. Pass one of them, such as {excerpt(models[0])}."
    return _CONVERT


def _renamed(preset: Preset, name: str) -> Preset:
    """Return a preset without the facts that hold only for its weights."""
    return dataclasses.replace(
        preset,
        name=name,
        license="see the model's own page",
        license_url="",
        is_gated=False,
        download_bytes=None,
        component_sizes={},
    )


def _read_index(name: str, index: Path) -> dict[str, Any]:
    """Return a model's index, which names at least its pipeline class."""
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise EngineError(
            f"The {INDEX_NAME} of the model {name!r} is corrupt: it names no pipeline class. "
            "Download or save the model again."
        )
    return content


def _check_components(name: str, folder: Path, content: dict[str, Any], preset: Preset) -> None:
    """Refuse a folder without a component that its index names and its preset uses.

    A model may be used without its safety checker.
    """
    for component, kind in content.items():
        is_used = f"{component}/*" in preset.parts[0].patterns and component != "safety_checker"
        is_present = (folder / component).is_dir()
        if is_used and isinstance(kind, list) and any(kind) and not is_present:
            raise InvalidRequestError(
                f"The model {name!r} is incomplete: it has no folder {component!r}. Download or "
                "save it again.",
                param="model",
            )


def _preset_of_repository(name: str) -> Preset | None:
    """Return the preset whose pipeline is in a repository, or None."""
    presets = (preset for preset in PRESETS.values() if preset.parts[0].repository == name)
    return next(presets, None)


@contextmanager
def _hint_at_folder(name: str) -> Iterator[None]:
    """If a repository cannot be read, say that a folder of its name could be meant."""
    try:
        yield
    except ImageVariationError as error:
        if os.path.isfile(os.path.join(name, INDEX_NAME)):
            raise type(error)(
                error.problem,
                param=error.param,
                hint=f"If you mean the folder of that name, pass model={f'./{name}'!r}.",
                retry_after=error.retry_after,
            ) from error
        raise


def _preset_of_class(name: str, class_name: str) -> Preset:
    for preset in PRESETS.values():
        if preset.pipeline_class == class_name:
            return preset
    supported = ", ".join(preset.pipeline_class for preset in PRESETS.values())
    raise InvalidRequestError(
        f"The model {name!r} is a {class_name[:60]}, which cannot make variations from an "
        f"image alone. Supported classes: {supported}.",
        param="model",
    )
