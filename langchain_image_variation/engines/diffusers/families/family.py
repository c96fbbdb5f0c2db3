"""`Family`: what each kind of pipeline must do, and what it is given for that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from PIL import Image

__all__ = ["SCHEDULERS", "DrawingSettings", "Family", "Pipelines", "Step"]

SCHEDULERS = ("auto", "model", "dpm-solver++")
"""The values of the option `scheduler`. "model" is the one that the model came with."""

Step: TypeAlias = Callable[[float], None]
"""Called before each pass of the denoiser with the share of the drawing that is done, from 0 to 1.

It raises an error to cancel the drawing.
"""


@dataclass(frozen=True)
class DrawingSettings:
    """What a drawing depends on besides the source and the seed.

    Args:
        steps: The number of denoising steps.
        guidance_scale: How closely the model follows the source. 1 or less turns guidance off.
        strength: How much an image differs from the source, from 0 to 1.
    """

    steps: int
    guidance_scale: float
    strength: float


@dataclass(frozen=True)
class Pipelines:
    """A loaded model.

    Args:
        pipeline: The pipeline that draws.
        encoder: The pipeline that reads the source, if that is another one.
        prompt: The embedding of an empty prompt, by the parameters of `pipeline`. The text encoders
            are dropped once it is made.
    """

    pipeline: Any
    encoder: Any = None
    prompt: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pipelines(self) -> tuple[Any, ...]:
        """Every pipeline, in the order of use: each must be placed on the device."""
        return (self.pipeline,) if self.encoder is None else (self.encoder, self.pipeline)


class Family(Protocol):
    """How one kind of pipeline loads, reads a source, and draws."""

    batches: bool
    """Whether several images can be drawn at once, each as if it were drawn alone."""
    prefers_bfloat16: bool
    """Whether the numbers of the model are too large for float16."""

    takes_dpm_solver: bool
    """Whether its pipeline can draw with the scheduler DPM-Solver++."""

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """Return the model, in the main memory.

        Args:
            folders: The folder of each part of the model, by its name.
            dtype: The `torch.dtype` of the weights.
            safety: Whether to load the safety checker, if the model has one.
            scheduler: One of `SCHEDULERS`. "dpm-solver++" needs `takes_dpm_solver`.
        """
        ...

    def side(self, loaded: Pipelines) -> int:
        """Return the width and height of the images that the model draws, in pixels."""
        ...

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return what the model sees in a source: an RGB image of any size."""
        ...

    def draw(
        self,
        loaded: Pipelines,
        encoded: Any,
        seeds: Sequence[int],
        settings: DrawingSettings,
        step: Step,
    ) -> list[Image.Image | None]:
        """Return one image for each seed, all of the model's own size.

        An image that the safety checker refuses is None. An image depends only on its own seed.

        Args:
            loaded: The model, on its device.
            encoded: The result of `encode`.
            seeds: One for each image, from 0 to 2**32 - 1. Without `batches`, there is only one.
            settings: What else the images depend on.
            step: Called before each pass of the denoiser.
        """
        ...
