"""Precision: the type of the numbers that a model computes with, and which files it can load.

The files of some models exist in half precision too, which halves the download. They are used in
`float16` only. There, they give the same images as the files that they were made from. In
`bfloat16`, numbers would be rounded twice, so images would depend on which files are here.
"""

from langchain_image_variation.engines.diffusers.devices import (
    Hardware,
    choose_device,
    choose_dtype,
)
from langchain_image_variation.engines.diffusers.families import load_family
from langchain_image_variation.engines.diffusers.presets import Preset

__all__ = ["loads_float16", "model_dtype"]


def model_dtype(
    preset: Preset, *, device: str = "auto", dtype: str = "auto", hardware: Hardware | None = None
) -> str:
    """Return the type of the numbers that a model computes with, as torch names it.

    Args:
        preset: The model.
        device: The option `device`.
        dtype: The option `dtype`.
        hardware: The devices of the machine. None asks torch.

    Raises:
        InvalidRequestError: If there is no such device, or if it cannot use the type.
        MissingExtraError: If torch is not installed.
    """
    family = load_family(preset.family)
    chosen_device = choose_device(device, hardware)
    return choose_dtype(dtype, chosen_device, prefers_bfloat16=family.prefers_bfloat16)


def loads_float16(
    preset: Preset, *, device: str = "auto", dtype: str = "auto", hardware: Hardware | None = None
) -> bool:
    """Return whether files in half precision are as good as the others for a model.

    Args:
        preset: The model.
        device: The option `device`. Only looked at if `dtype` is "auto", so that you can choose the
            files for another machine.
        dtype: The option `dtype`.
        hardware: See `model_dtype`.

    Raises:
        InvalidRequestError: See `model_dtype`.
        MissingExtraError: See `model_dtype`.
    """
    if dtype == "auto":
        dtype = model_dtype(preset, device=device, hardware=hardware)
    return dtype == "float16"
