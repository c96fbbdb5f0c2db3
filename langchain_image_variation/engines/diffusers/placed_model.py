"""`PlacedModel`: a model on its device, which draws within the memory that there is."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from langchain_image_variation.engines.diffusers.byte_sizes import describe_memory
from langchain_image_variation.engines.diffusers.devices import Device
from langchain_image_variation.engines.diffusers.placement import Offload, Placement, place
from langchain_image_variation.exceptions import EngineError

__all__ = ["PlacedModel", "is_out_of_memory"]

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""What the messages of torch's errors contain if memory runs out: on GPUs, on the CPU of Linux, on
that of Windows, and in NVIDIA's libraries."""

_NEXT_OFFLOAD: dict[Offload, Offload] = {"none": "model", "model": "sequential"}

T = TypeVar("T")
R = TypeVar("R")


class PlacedModel(Generic[T]):
    """A model on its device.

    If memory runs out, it draws fewer images at once. If a single one is still too many, it keeps
    less of the model on the device, unless the user chose `offload`. Later calls start with what
    worked.

    Args:
        model: The model, for the functions that use it.
        pipelines: All pipelines of the model.
        placement: Where to move them.
        may_offload: Whether the placement may change.

    Raises:
        EngineError: If the device has too little memory.
    """

    def __init__(
        self, model: T, pipelines: Iterable[Any], placement: Placement, *, may_offload: bool
    ) -> None:
        self._model: T | None = model
        self._pipelines = tuple(pipelines)
        self._may_offload = may_offload
        self.placement = placement
        """Where the model is, and how many images it draws at once."""
        self._is_placed = False
        self._ensure_placed()

    def run(self, work: Callable[[T], R]) -> R:
        """Return the result of a function of the model that does not depend on the batch size.

        Raises:
            EngineError: If the device has too little memory.
        """
        self._ensure_placed()
        while not (results := self._attempt(work)):
            self._offload_more()
            self._ensure_placed()
        return results[0]

    def draw(
        self, seeds: Sequence[int], draw_batch: Callable[[T, Sequence[int]], Sequence[R]]
    ) -> list[R]:
        """Return one result for each seed, from as many batches as the memory requires.

        Args:
            seeds: The seeds.
            draw_batch: Returns the results for some of them, or raises an error of torch that says
                that memory ran out. It is then called again with fewer seeds.

        Raises:
            EngineError: If the device has too little memory for a single image.
        """
        results: list[R] = []
        while len(results) < len(seeds):
            self._ensure_placed()
            batch = seeds[len(results) :][: self.placement.batch]
            attempt = self._attempt(draw_batch, batch)
            if attempt:
                results += attempt[0]
            elif len(batch) > 1:
                self.placement = replace(self.placement, batch=len(batch) // 2)
            else:
                self._offload_more()
        return results

    def free(self) -> None:
        """Release the memory. The model is not used again."""
        device = self.placement.device
        for pipeline in self._pipelines:
            # Hooks and their modules refer to each other.
            pipeline.remove_all_hooks()
        self._model, self._pipelines = None, ()
        gc.collect()
        device.release_unused()

    def _ensure_placed(self) -> None:
        while not self._is_placed:
            if self._attempt(lambda _: place(self._pipelines, self.placement)):
                self._is_placed = True
            else:
                self._offload_more()

    def _attempt(self, work: Callable[..., R], *arguments: object) -> tuple[R] | tuple[()]:
        """Return the result of some work, or an empty tuple if memory ran out.

        Args:
            work: Called with the model and `arguments`.
            *arguments: Further arguments.
        """
        assert self._model is not None, "a model is not used after it was freed"
        try:
            return (work(self._model, *arguments),)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Now that the error is gone, so are its frames, which held what the work had allocated.
        gc.collect()
        self.placement.device.release_unused()
        return ()

    def _offload_more(self) -> None:
        """Choose a placement that keeps less of the model on the device.

        Raises:
            EngineError: If that is impossible, or not wanted.
        """
        offload = _NEXT_OFFLOAD.get(self.placement.offload)
        if self.placement.device.has_own_memory and self._may_offload and offload:
            self.placement, self._is_placed = replace(self.placement, offload=offload), False
            return
        if not self._is_placed:
            # Some components may have found room. The next call tries again.
            for pipeline in self._pipelines:
                pipeline.remove_all_hooks()
                pipeline.to("cpu")
            self.placement.device.release_unused()
        raise _out_of_memory_error(self.placement.device, offload)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the main memory, has too little memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in text for part in _OUT_OF_MEMORY)
    )


def _out_of_memory_error(device: Device, offload: Offload | None) -> EngineError:
    """Return the error for a device with too little memory.

    Args:
        device: The device.
        offload: The next value of the option `offload`, or None if there is no other.
    """
    if device.has_own_memory:
        first = f"Pass offload={offload!r}" if offload else "End other programs that use the GPU"
        last = "another device, such as device='cpu'"
    else:
        first, last = "Close other programs", "use a machine with more memory"
    return EngineError(
        f"Out of memory: {device.description} cannot hold what drawing one image needs. "
        f"{describe_memory(device.free_bytes())} are free.",
        hint=f"{first}, choose a smaller model (`image-variation engines` lists them), or {last}.",
    )
