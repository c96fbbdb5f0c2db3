"""Placement: where the parts of a model are, and how many images are drawn at once.

A GPU that has no room for a whole model can hold one component at a time, or one layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from langchain_image_variation.contract import MAX_N
from langchain_image_variation.engines.diffusers.devices import Device
from langchain_image_variation.engines.diffusers.presets import Preset
from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = [
    "OFFLOADS",
    "Offload",
    "Placement",
    "Workload",
    "check_offload",
    "place",
    "plan_placement",
]

Offload: TypeAlias = Literal["none", "model", "sequential"]
"""What waits in the main memory while it is not used: nothing, whole components, or layers."""

OFFLOADS = ("auto", "none", "model", "sequential")
"""The values of the option `offload`."""

_DENOISING_VALUES = 320
"""How many values per pixel of an image a denoiser keeps in memory at once.

The most of four real models, traced with fake tensors, with guidance: 260 for the U-Nets of Stable
Diffusion 1 and 2, 158 for XL, and 274 for the transformer of FLUX. The rest is a margin.
"""

_DECODING_VALUES = 768
"""How many values per pixel the decoder of these models keeps in memory, traced in the same way."""

_RESERVED_BYTES = 512 * 2**20
"""Memory that is left for the kernels' own work and for gaps. This is a guess. If it is too small,
memory runs out, and fewer images are drawn at once."""

_NEVER_OFFLOADED = frozenset({"safety_checker", "image_normalizer"})
"""The components that diffusers never offloads."""

_VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Workload:
    """What a model needs memory for."""

    component_bytes: tuple[int, ...]
    """The size of the weights of each component that can be offloaded."""
    fixed_bytes: int
    """The size of the weights that are never offloaded."""
    drawing_bytes: int
    """What each image that is drawn at once needs."""
    decoding_bytes: int
    """What decoding needs for a single image."""

    @classmethod
    def measure(cls, pipelines: Iterable[Any], side: int, dtype: str) -> "Workload":
        """Return the workload of loaded pipelines.

        Args:
            pipelines: The pipelines.
            side: The width and height of the images that they draw, in pixels.
            dtype: The type of the numbers that they compute with.
        """
        pipelines = list(pipelines)
        # Pipelines may share components.
        components = {
            id(component): (name, _weight_bytes(component))
            for pipeline in pipelines
            for name, component in pipeline.components.items()
            if hasattr(component, "parameters")
        }
        # Pipelines with this method decode in single precision.
        is_upcast = any(hasattr(pipeline, "upcast_vae") for pipeline in pipelines)
        workload = cls._compute(components.values(), side, dtype, is_upcast=is_upcast)
        if any(map(_sliceable_decoder, pipelines)):
            return workload
        return replace(workload, drawing_bytes=max(workload.drawing_bytes, workload.decoding_bytes))

    @classmethod
    def estimate(cls, preset: Preset, dtype: str) -> "Workload | None":
        """Return the workload of a preset without loading it, or None if its sizes are not known.

        Args:
            preset: The preset.
            dtype: The type of the numbers that it computes with.
        """
        if not preset.component_sizes:
            return None
        components = [
            (name, size * _VALUE_BYTES[dtype]) for name, size in preset.component_sizes.items()
        ]
        return cls._compute(components, preset.side, dtype, is_upcast=preset.decodes_in_float32)

    @classmethod
    def _compute(
        cls, components: Iterable[tuple[str, int]], side: int, dtype: str, *, is_upcast: bool
    ) -> "Workload":
        """Return the workload of components, given as names and bytes of weights."""
        components = list(components)
        value_bytes = _VALUE_BYTES[dtype]
        return cls(
            component_bytes=tuple(
                size for name, size in components if name not in _NEVER_OFFLOADED
            ),
            fixed_bytes=sum(size for name, size in components if name in _NEVER_OFFLOADED),
            drawing_bytes=_DENOISING_VALUES * side**2 * value_bytes,
            decoding_bytes=_DECODING_VALUES * side**2 * (4 if is_upcast else value_bytes),
        )

    def resident_bytes(self, offload: Offload) -> int:
        """Return how much of the weights is on the device at once."""
        if offload == "none":
            return self.fixed_bytes + sum(self.component_bytes)
        largest_bytes = max(self.component_bytes, default=0)
        return self.fixed_bytes + (largest_bytes if offload == "model" else 0)

    def required_bytes(self, offload: Offload) -> int:
        """Return how much memory of the device drawing a single image needs.

        That is the weights that are on the device at once, plus what denoising or decoding takes,
        whichever is more, plus a reserve for the kernels. A weight takes 4 bytes in "float32", and
        2 in half precision. The numbers are computed, and not measured.
        """
        work_bytes = max(self.drawing_bytes, self.decoding_bytes)
        return self.resident_bytes(offload) + work_bytes + _RESERVED_BYTES


def _weight_bytes(component: Any) -> int:
    tensors = [*component.parameters(), *component.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model is, and how many images it draws at once."""

    device: Device
    offload: Offload
    batch: int


def check_offload(value: object) -> str:
    """Return the option `offload`.

    Raises:
        InvalidRequestError: If it is not one of `OFFLOADS`.
    """
    if isinstance(value, str) and value in OFFLOADS:
        return value
    raise InvalidRequestError(
        f"offload must be one of {', '.join(map(repr, OFFLOADS))}, got {excerpt(value)}.",
        param="offload",
    )


def plan_placement(
    device: Device, workload: Workload, *, offload: str = "auto", batch: int | None = None
) -> Placement:
    """Return the fastest placement that fits the free memory of a device.

    Args:
        device: The device.
        workload: What the model needs memory for.
        offload: The option `offload`. Only GPUs with their own memory offload.
        batch: How many images to draw at once. None chooses by the free memory. On a CPU, that is
            one, since more are not faster. On Apple's GPUs too, because batches are not reliable
            there (https://huggingface.co/docs/diffusers/optimization/mps).
    """
    if not device.has_own_memory:
        return Placement(device, "none", batch or 1)
    free_bytes = device.free_bytes()
    kinds: tuple[Offload, ...] = ("none", "model", "sequential")
    fitting = [
        kind
        for kind in kinds
        if kind == offload or (offload == "auto" and workload.required_bytes(kind) <= free_bytes)
    ]
    chosen = fitting[0] if fitting else "sequential"
    room = free_bytes - workload.resident_bytes(chosen) - _RESERVED_BYTES
    return Placement(device, chosen, batch or max(1, min(MAX_N, room // workload.drawing_bytes)))


def place(pipelines: Iterable[Any], placement: Placement) -> None:
    """Move pipelines of diffusers to where a placement says."""
    name = placement.device.name
    for pipeline in pipelines:
        if placement.offload == "model":
            pipeline.enable_model_cpu_offload(device=name)
        elif placement.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=name)
        else:
            pipeline.to(name)
        decoder = _sliceable_decoder(pipeline)
        if decoder is not None:
            # Decoding needs the most memory, so images are decoded one by one.
            decoder.enable_slicing()


def _sliceable_decoder(pipeline: Any) -> Any:
    decoder = getattr(pipeline, "vae", None)
    return decoder if hasattr(decoder, "enable_slicing") else None
