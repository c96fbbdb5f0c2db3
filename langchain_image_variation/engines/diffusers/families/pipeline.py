"""What all families do with a diffusers pipeline: load it, and call it step by step."""

import json
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.engines.context import progress_reporter
from langchain_image_variation.engines.diffusers.families.family import Step
from langchain_image_variation.engines.diffusers.models import INDEX_NAME
from langchain_image_variation.engines.diffusers.weight_files import loaded_variant
from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.numbers import check_whole_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "call_pipeline",
    "choose_scheduler",
    "load_component",
    "load_pipeline",
    "quiet_loading",
    "to_images",
    "unet_side",
]


def load_pipeline(pipeline_class: Any, folder: Path, dtype: Any, **components: Any) -> Any:
    """Return a pipeline from a folder. Nothing is downloaded.

    diffusers and transformers unpickle weights with `weights_only` only, which runs no code.

    Args:
        pipeline_class: Its class.
        folder: The folder of its `model_index.json`.
        dtype: The `torch.dtype` of its weights.
        **components: Components to use instead of loading them. None leaves one out.

    Raises:
        EngineError: If the call was cancelled.
    """
    for name, component_class in _model_classes(folder).items():
        if name not in components:
            components[name] = load_component(component_class, folder / name, dtype)
    pipeline = pipeline_class.from_pretrained(
        folder, dtype=dtype, local_files_only=True, **components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_component(component_class: Any, folder: Path, dtype: Any) -> Any:
    """Return a component with weights from its folder, after reporting that it is being loaded.

    Args:
        component_class: Its class.
        folder: The folder of its `config.json`.
        dtype: The `torch.dtype` of its weights.

    Raises:
        EngineError: If the call was cancelled.
    """
    import torch

    check_cancellation()
    progress_reporter().report_activity(f"loading {folder.name}")
    variant = loaded_variant(folder, float16=dtype == torch.float16)
    return component_class.from_pretrained(
        folder, dtype=dtype, variant=variant, local_files_only=True
    )


def _model_classes(folder: Path) -> dict[str, Any]:
    """Return the classes of the components of a pipeline that have weights, by their names.

    These are the components that take long to load. A pipeline loads the others itself.
    """
    import diffusers
    import torch
    import transformers

    classes = {}
    for name, kind in json.loads((folder / INDEX_NAME).read_bytes()).items():
        library, class_name = kind if isinstance(kind, list) and len(kind) == 2 else (None, None)
        if library == "transformers":
            module: Any = transformers
        elif library == "diffusers":
            module = diffusers
        else:
            # Some pipelines come with their own models.
            module = getattr(diffusers.pipelines, str(library), None)
        found = getattr(module, str(class_name), None)
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            if (folder / name).is_dir():
                classes[name] = found
    return classes


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide what diffusers, transformers and torch print while they load files.

    They show a bar for each file, and warn about packages, formats and settings that do not matter
    here. An error that matters is raised.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", UserWarning)
        for library in (diffusers_logging, transformers_logging):
            stack.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity(library.CRITICAL)
            if library.is_progress_bar_enabled():
                stack.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield


def choose_scheduler(pipeline: Any, scheduler: str) -> None:
    """Replace a pipeline's scheduler by DPM-Solver++, which needs about 20 steps.

    https://huggingface.co/docs/diffusers/api/schedulers/multistep_dpm_solver

    Args:
        pipeline: The pipeline.
        scheduler: "auto" replaces only PNDM, which needs about 50 steps. Other schedulers are kept,
            since their model may have been distilled for them. "dpm-solver++" replaces any, and
            "model" none.
    """
    from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

    if scheduler == "dpm-solver++" or (
        scheduler == "auto" and isinstance(pipeline.scheduler, PNDMScheduler)
    ):
        # DPM-Solver++ uses no predicted variance. With the model's variance_type, it would keep
        # three channels, as for pixels. Without it, the pipeline that gets a variance drops it.
        # With the spacing "leading" of some models, it starts from less noise the more steps it
        # takes. "linspace" always starts from the most.
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config, variance_type=None, timestep_spacing="linspace"
        )


def unet_side(pipeline: Any) -> int:
    """Return the width and height that a pipeline of Stable Diffusion draws, in pixels."""
    return int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)


def call_pipeline(pipeline: Any, step: Step, **arguments: Any) -> Any:
    """Call a pipeline, and `step` before each pass of its denoiser. Its images are arrays.

    The callbacks of pipelines differ, and some schedulers make passes without one. A hook of the
    denoiser sees every pass. It also ends the call within one pass when `step` raises an error.

    Raises:
        InvalidRequestError: If the model was distilled for fewer steps.
    """
    # Imported here because every command imports this module, and few draw.
    import numpy as np

    _check_steps(pipeline.scheduler, arguments["num_inference_steps"])
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    passes = 0

    def before_pass(*_: Any) -> None:
        nonlocal passes
        step(min(passes / max(len(pipeline.scheduler.timesteps), 1), 1.0))
        passes += 1

    decoder = getattr(pipeline, "vae", None)
    if decoder is not None and decoder.dtype != denoiser.dtype:
        # The decoder of SDXL stays in single precision if it ran out of memory in the last call.
        decoder.to(dtype=denoiser.dtype)
    hook = denoiser.register_forward_pre_hook(before_pass)
    try:
        # The safety checker gets the images as bytes, even those that are not numbers.
        with np.errstate(invalid="ignore"), _quiet_safety_checker():
            return pipeline(output_type="np", **arguments)
    except BaseException:
        # With offloading, the error has left a component on the device.
        pipeline.maybe_free_model_hooks()
        raise
    finally:
        hook.remove()


def _check_steps(scheduler: Any, steps: int) -> None:
    """Refuse more steps than the model was distilled for, which its scheduler cannot take."""
    from diffusers import LCMScheduler, TCDScheduler

    if isinstance(scheduler, LCMScheduler | TCDScheduler):
        # Another scheduler that replaced one of these has this setting too, and ignores it.
        check_whole_number(
            "steps",
            steps,
            1,
            scheduler.config.original_inference_steps,
            hint="; this model was distilled for few steps",
        )


@contextmanager
def _quiet_safety_checker() -> Iterator[None]:
    """Hide what the safety checker logs in this thread: that a black image will be returned."""
    logger = logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker")
    thread = threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        logger.removeFilter(is_of_another_thread)


def to_images(
    samples: "NDArray[np.float32]", refused: Sequence[bool] | None = None
) -> list[Image.Image | None]:
    """Return the images of a pipeline, and None for each that the safety checker refused.

    Args:
        samples: The images, with samples from 0 to 1. Those that were refused are black.
        refused: `nsfw_content_detected` of the output. None if there is no checker.

    Raises:
        EngineError: If another image is black, or has samples that are not numbers.
    """
    flags = refused or [False] * len(samples)
    return [None if flag else _to_image(image) for image, flag in zip(samples, flags, strict=True)]


def _to_image(samples: "NDArray[np.float32]") -> Image.Image:
    import numpy as np

    if not np.isfinite(samples).all() or not samples.any():
        raise EngineError(
            "The model drew no image, because its numbers exceed the range of their type.",
            hint="Pass dtype='float32', or 'bfloat16' on a recent GPU.",
        )
    return Image.fromarray((samples * 255).round().astype(np.uint8))
