"""Whether a model is on this machine, and what must be downloaded if it is not."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from langchain_image_variation.engines.diffusers.devices import Hardware
from langchain_image_variation.engines.diffusers.hub_errors import half_precision_error
from langchain_image_variation.engines.diffusers.model_cache import cached_folder
from langchain_image_variation.engines.diffusers.models import model_name, read_model
from langchain_image_variation.engines.diffusers.precision import loads_float16
from langchain_image_variation.engines.diffusers.presets import Part
from langchain_image_variation.engines.diffusers.repository import (
    Download,
    find_folders,
    plan_download,
)
from langchain_image_variation.exceptions import ModelNotDownloadedError

__all__ = ["is_downloaded", "plan_model_download"]


def is_downloaded(
    model: str | Path,
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    hardware: Hardware | None = None,
) -> bool:
    """Return whether a model can be loaded without a network. It does not use the network itself.

    Args:
        model: See `read_model`.
        revision: See `read_model`.
        cache_dir: See `CacheDir`.
        device: The option `device`. It is looked at if files are here in half precision only. See
            `loads_float16`.
        dtype: The option `dtype`.
        hardware: See `loads_float16`.

    Raises:
        InvalidRequestError: See `read_model` and `loads_float16`.
        EngineError: If the index of the model is corrupt.
        ImportError: If `huggingface_hub` is not installed.
    """

    def find_index(parts: tuple[Part, ...]) -> Mapping[str, Path]:
        return find_folders(parts, model=model_name(model), cache_dir=cache_dir)

    try:
        found_model = read_model(model, revision, find_index)
    except ModelNotDownloadedError:
        return False
    parts = [part for part in found_model.parts if cached_folder(part, cache_dir) is None]
    if any(cached_folder(part, cache_dir, float16=True) is None for part in parts):
        return False
    return not parts or loads_float16(
        found_model.preset, device=device, dtype=dtype, hardware=hardware
    )


def plan_model_download(
    model: str | Path,
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Download:
    """Ask the Hub for all files of a model, and return which of them are missing here.

    Of a repository that is not a preset, this downloads the index, a file of some hundred bytes.

    Args:
        model: See `read_model`.
        revision: See `read_model`.
        cache_dir: See `CacheDir`.
        token: See `find_folders`.
        device: See `is_downloaded`.
        dtype: See `is_downloaded`.

    Raises:
        InvalidRequestError: See `read_model` and `loads_float16`.
        ImageVariationError: See `plan_download`.
        ImportError: If `huggingface_hub` is not installed.
    """
    from huggingface_hub import constants

    name = model_name(model)
    if constants.HF_HUB_OFFLINE:
        is_here = partial(is_downloaded, model, revision, cache_dir=cache_dir)
        if is_here(dtype="float16") and not is_here(device=device, dtype=dtype):
            raise half_precision_error(name, revision)

    def fetch_index(parts: tuple[Part, ...]) -> Mapping[str, Path]:
        download = plan_download(parts, model=name, cache_dir=cache_dir, token=token)
        # It is too small for a progress bar.
        return download.run(lambda done, total: None)

    found_model = read_model(model, revision, fetch_index)
    preset = found_model.preset
    return plan_download(
        found_model.parts,
        model=name,
        cache_dir=cache_dir,
        token=token,
        license=", ".join(filter(None, (preset.license, preset.license_url))),
        prefers_float16=lambda: loads_float16(preset, device=device, dtype=dtype),
    )
