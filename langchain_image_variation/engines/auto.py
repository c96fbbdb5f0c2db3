"""`auto`: the name that stands for the best engine that is usable here, without any download.

It means `diffusers` if the packages of that engine are installed, its model is on this machine, and
there is a GPU. Otherwise it means `local`, which works everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError

if TYPE_CHECKING:
    from langchain_image_variation.engines.diffusers.devices import Hardware

__all__ = ["AUTO", "EngineChoice", "choose_engine"]

AUTO = "auto"
"""`load_engine` accepts it, and so does everything else that takes an engine's name."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine that was chosen for `auto`."""

    name: str
    """The name of the engine."""
    reason: str
    """Why it was chosen, and what to do if you want another one: a clause without a period."""


def choose_engine(
    options: Mapping[str, Any] | None = None, *, hardware: "Hardware | None" = None
) -> EngineChoice:
    """Choose the engine that `auto` means on this machine, now.

    The checks that cost least come first, and torch is imported only for the last one.

    Args:
        options: The options that the engine will get. `model`, `revision`, `cache_dir` and `dtype`
            say which files must be there, and `device` which GPU.
        hardware: The devices of this machine. None asks torch.

    Returns:
        The engine, and why it was chosen.

    Raises:
        InvalidRequestError: If one of these options has an invalid value.
    """
    from langchain_image_variation.engines.diffusers.packages import missing_packages

    if missing_packages():
        return EngineChoice("local", "the extra 'diffusers' is not installed")
    try:
        return _choose_by_model(options or {}, hardware)
    except InvalidRequestError:
        raise
    except ImageVariationError as error:
        return EngineChoice("local", error.message.removesuffix("."))
    except Exception as error:
        # A package may be too old, or built for another machine, and fail in any way.
        reason = f"the packages of diffusers cannot be used ({type(error).__name__})"
        return EngineChoice("local", reason)


def _choose_by_model(options: Mapping[str, Any], hardware: "Hardware | None") -> EngineChoice:
    from langchain_image_variation.engines.diffusers.devices import choose_device
    from langchain_image_variation.engines.diffusers.hub_errors import pull_command
    from langchain_image_variation.engines.diffusers.model_download import is_downloaded
    from langchain_image_variation.engines.diffusers.models import model_name
    from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET

    model = options.get("model") or DEFAULT_PRESET.name
    revision = options.get("revision")
    name = model_name(model)
    is_here = partial(is_downloaded, model, revision, cache_dir=options.get("cache_dir"))
    # Files in any precision are good for this dtype, so torch is not asked for the device.
    if not is_here(dtype="float16"):
        return EngineChoice(
            "local",
            f"the model {name!r} is not on this machine; "
            f"`{pull_command(name, revision)}` downloads it",
        )
    device = choose_device(options.get("device") or "auto", hardware)
    if device.kind == "cpu":
        reason = "device is 'cpu'" if options.get("device") == "cpu" else "there is no GPU"
        return EngineChoice(
            "local", f"{reason}; name the engine 'diffusers' yourself to use the CPU"
        )
    if not is_here(
        device=device.name, dtype=options.get("dtype") or "auto", hardware=device.hardware
    ):
        return EngineChoice(
            "local",
            f"the model {name!r} is on this machine in half precision only; "
            f"`{pull_command(name, revision, dtype='float32')}` gets the other files",
        )
    return EngineChoice("diffusers", f"the model {name!r} is here, and so is {device.description}")
