"""What `image-variation engines` says about the models of the engine diffusers."""

from langchain_image_variation.engines.diffusers.byte_sizes import describe_bytes, describe_memory
from langchain_image_variation.engines.diffusers.devices import choose_device
from langchain_image_variation.engines.diffusers.hub_errors import pull_command
from langchain_image_variation.engines.diffusers.model_download import is_downloaded
from langchain_image_variation.engines.diffusers.placement import Workload
from langchain_image_variation.engines.diffusers.precision import loads_float16
from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET, PRESETS, Preset
from langchain_image_variation.exceptions import MissingExtraError

__all__ = ["describe_device", "describe_missing_model", "describe_models"]


def describe_models() -> list[tuple[str, str]]:
    """Return the name of each preset, and whether it is here, its size, memory and license.

    This does not use the network, so it leaves out sizes that are not known here.
    """
    return [(name, _describe(preset)) for name, preset in PRESETS.items()]


def describe_missing_model() -> str | None:
    """Return how to get the model that the engine diffusers uses by default. None if it is here.

    Raises:
        ImportError: If `huggingface_hub` is not installed.
    """
    name = DEFAULT_PRESET.name
    if is_downloaded(name):
        return None
    size = DEFAULT_PRESET.least_download_bytes(float16=_uses_float16(DEFAULT_PRESET))
    at_least = "" if size is None else f" It downloads at least {describe_bytes(size)}."
    return f"Its model {name!r} is not on this machine. Run: {pull_command(name, None)}.{at_least}"


def describe_device() -> str:
    """Return the device that a model would use here."""
    try:
        device = choose_device()
    except MissingExtraError:
        return "not known without the extra 'diffusers'"
    return device.description if device.kind != "cpu" else "cpu; torch finds no GPU"


def _describe(preset: Preset) -> str:
    facts = [_describe_download(preset), *_describe_memory(preset)]
    facts.append(f"license: {preset.license}")
    if not preset.is_commercial:
        facts.append("not for commercial use")
    if preset.is_gated:
        facts.append(f"accept the license at {preset.license_url} first")
    return "; ".join(facts) + "."


def _describe_download(preset: Preset) -> str:
    try:
        if is_downloaded(preset.name):
            return "downloaded"
    except ImportError:
        # The cache can only be read with huggingface_hub.
        pass
    size = preset.least_download_bytes(float16=_uses_float16(preset))
    return "not downloaded" if size is None else f"not downloaded, at least {describe_bytes(size)}"


def _uses_float16(preset: Preset) -> bool:
    """Return whether a preset would compute in half precision here. Without torch, it would not."""
    try:
        return loads_float16(preset)
    except MissingExtraError:
        return False


def _describe_memory(preset: Preset) -> list[str]:
    """Return the memory that a preset needs, as estimated from its size, if that is known."""
    halved, full = (Workload.estimate(preset, dtype) for dtype in ("float16", "float32"))
    if halved is None or full is None:
        return []
    whole = describe_memory(halved.required_bytes("none"))
    least = describe_memory(halved.required_bytes("sequential"))
    on_cpu = describe_memory(full.required_bytes("none"))
    return [
        f"estimated memory: {whole} on a GPU, {least} with --offload sequential, {on_cpu} on a CPU"
    ]
