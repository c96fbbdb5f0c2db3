"""`LoadOptions`: the options of an engine that its loaded model depends on."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from langchain_image_variation.contract import MAX_N
from langchain_image_variation.engines.diffusers.devices import check_device_name, check_dtype_name
from langchain_image_variation.engines.diffusers.families.family import SCHEDULERS
from langchain_image_variation.engines.diffusers.models import (
    absolute_model,
    fingerprint_folder,
    read_model,
)
from langchain_image_variation.engines.diffusers.placement import check_offload
from langchain_image_variation.engines.diffusers.presets import Part
from langchain_image_variation.engines.options import check_switch
from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.numbers import check_whole_number

__all__ = ["LoadOptions"]

_BATCH_HINT = "; leave it out to choose by the free memory"


@dataclass(frozen=True)
class LoadOptions:
    """The options that a loaded model depends on. Engines with equal ones share it.

    See `DiffusersEngine` for each of them.
    """

    model: str | Path
    revision: str | None
    device: str
    dtype: str
    offload: str
    batch: int | None
    safety: bool
    scheduler: str
    cache_dir: str | os.PathLike[str] | None
    # These change where the files come from, and not what is loaded.
    download: bool = field(compare=False)
    token: str | None = field(compare=False, repr=False)

    @classmethod
    def check(
        cls,
        *,
        model: str | Path,
        revision: str | None,
        device: str,
        dtype: str,
        offload: str,
        batch: int | None,
        safety: bool,
        scheduler: str,
        cache_dir: str | os.PathLike[str] | None,
        download: bool,
        token: str | None,
    ) -> Self:
        """Return the options that a user has chosen.

        Raises:
            InvalidRequestError: If an option is out of range. `param` names the option.
        """
        if batch is not None:
            batch = check_whole_number("batch", batch, 1, MAX_N, hint=_BATCH_HINT)
        return cls(
            model=absolute_model(model),
            revision=_check_text("revision", revision),
            device=check_device_name(device),
            dtype=check_dtype_name(dtype),
            offload=check_offload(offload),
            batch=batch,
            safety=check_switch("safety", safety),
            scheduler=_check_scheduler(scheduler),
            cache_dir=_check_folder("cache_dir", cache_dir),
            download=check_switch("download", download),
            token=_check_text("token", token),
        )

    def fingerprint_folder(self) -> str | None:
        """Check a model that can be read now, and return a fingerprint of its files.

        Returns:
            See `fingerprint_folder`. None for the model of a repository.

        Raises:
            InvalidRequestError: See `read_model`.
            EngineError: See `read_model`.
        """

        def find_nothing(parts: tuple[Part, ...]) -> NoReturn:
            raise FileNotFoundError

        try:
            model = read_model(self.model, self.revision, find_nothing)
        except FileNotFoundError:
            # The index of a repository is read when the model is loaded.
            return None
        return fingerprint_folder(model)


def _check_scheduler(value: object) -> str:
    if isinstance(value, str) and value in SCHEDULERS:
        return value
    raise InvalidRequestError(
        f"scheduler must be one of {', '.join(map(repr, SCHEDULERS))}, got {excerpt(value)}.",
        param="scheduler",
    )


def _check_text(name: str, value: str | None) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    # The value may be a secret.
    kind = "an empty one" if value == "" else f"a value of type {type(value).__name__}"
    raise InvalidRequestError(f"{name} must be a string or None, got {kind}.", param=name)


def _check_folder(name: str, value: str | os.PathLike[str] | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | os.PathLike) and (path := os.fspath(value)):
        return path
    raise InvalidRequestError(f"{name} must be a folder or None, got {excerpt(value)}.", param=name)
