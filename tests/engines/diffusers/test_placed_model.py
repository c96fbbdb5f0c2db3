"""Running out of memory, with a GPU that this machine does not have and real tensors."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from langchain_image_variation.engines.diffusers.devices import choose_device
from langchain_image_variation.engines.diffusers.placed_model import PlacedModel, is_out_of_memory
from langchain_image_variation.engines.diffusers.placement import Offload, Placement
from langchain_image_variation.exceptions import EngineError
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware
from tests.extras import skip_without

skip_without("torch")
import torch  # noqa: E402  # the module is skipped without it

HARDWARE = FakeHardware({"cuda:0": GPU("Small GPU", free_bytes=412 * 10**6)})


class Pipeline:
    """A pipeline that notes where it is moved, and can have no room there."""

    def __init__(self, fitting: Sequence[str] = ("cpu", "none", "model", "sequential")) -> None:
        self.fitting = fitting
        self.moves: list[str] = []

    def to(self, device: str) -> None:
        """Move everything."""
        self._move("none" if device == "cuda:0" else device)

    def enable_model_cpu_offload(self, device: str) -> None:
        """Move one component at a time."""
        self._move("model")

    def enable_sequential_cpu_offload(self, device: str) -> None:
        """Move one layer at a time."""
        self._move("sequential")

    def remove_all_hooks(self) -> None:
        """Note that offloading ends."""
        self.moves.append("hooks removed")

    def _move(self, offload: str) -> None:
        self.moves.append(offload)
        if offload not in self.fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def place_on_gpu(
    pipeline: Pipeline,
    *,
    offload: Offload = "none",
    batch: int = 1,
    may_offload: bool = True,
    device: str = "cuda:0",
) -> "PlacedModel[Pipeline]":
    """Return a model of one pipeline on the small GPU."""
    placement = Placement(choose_device(device, HARDWARE), offload, batch)
    return PlacedModel(pipeline, [pipeline], placement, may_offload=may_offload)


def drawing(limit: Callable[[], int], batches: list[int]) -> Any:
    """Return a function that draws up to a limit of images at once, and notes how many it tries."""

    def draw(_: Pipeline, seeds: Sequence[int]) -> list[str]:
        batches.append(len(seeds))
        if len(seeds) > limit():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return [f"image {seed}" for seed in seeds]

    return draw


def test_a_batch_is_halved_until_it_fits() -> None:
    """Each seed gets its image, in order, and the next call starts with the size that worked."""
    model, batches = place_on_gpu(Pipeline(), batch=8), list[int]()
    draw = drawing(lambda: 2, batches)
    assert model.draw(range(10, 17), draw) == [f"image {seed}" for seed in range(10, 17)]
    assert batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    batches.clear()
    assert model.draw([5], draw) == ["image 5"]
    assert batches == [1]


def test_batches_are_as_large_as_planned() -> None:
    """Without trouble, the seeds are split into batches of the planned size."""
    model, batches = place_on_gpu(Pipeline(), batch=4), list[int]()
    assert len(model.draw(range(10), drawing(lambda: 4, batches))) == 10
    assert batches == [4, 4, 2]
    assert model.draw([], drawing(lambda: 4, batches)) == []


def test_one_image_too_many_offloads_more() -> None:
    """If a single image does not fit, less of the model stays on the GPU."""
    pipeline, batches = Pipeline(), list[int]()
    model = place_on_gpu(pipeline, batch=2)
    limits = {"none": 0, "model": 0, "sequential": 2}
    draw = drawing(lambda: limits[model.placement.offload], batches)
    assert model.draw([1, 2, 3], draw) == ["image 1", "image 2", "image 3"]
    assert pipeline.moves == ["none", "model", "sequential"]
    assert model.placement.offload == "sequential"
    assert model.run(lambda _: "encoded") == "encoded"


def test_reading_the_source_offloads_too() -> None:
    """Work that does not depend on the batch size gets more memory in the same way."""
    model = place_on_gpu(Pipeline())

    def encode(_: Pipeline) -> str:
        if model.placement.offload != "sequential":
            raise torch.OutOfMemoryError("XPU out of memory.")
        return "encoded"

    assert model.run(encode) == "encoded"


def test_a_model_that_does_not_fit_is_offloaded() -> None:
    """If the weights have no room on the GPU although they were expected to, they are offloaded."""
    pipeline = Pipeline(fitting=["sequential"])
    assert place_on_gpu(pipeline).placement.offload == "sequential"
    assert pipeline.moves == ["none", "model", "sequential"]


def test_weights_without_any_room_are_an_error() -> None:
    """A model that does not fit in any way leaves the GPU empty, and its next use tries again."""
    pipeline = Pipeline(fitting=["cpu"])
    with pytest.raises(EngineError, match="Out of memory: cuda:0"):
        place_on_gpu(pipeline)
    assert pipeline.moves == ["none", "model", "sequential", "hooks removed", "cpu"]
    model = place_on_gpu(moving := Pipeline())
    moving.fitting = ["cpu"]
    with pytest.raises(EngineError):
        model.draw([1], drawing(lambda: 0, []))
    with pytest.raises(EngineError):
        model.run(lambda _: None)
    moving.fitting = ["sequential"]
    assert model.draw([1], drawing(lambda: 1, [])) == ["image 1"]
    assert moving.moves[-2:] == ["cpu", "sequential"]


@pytest.mark.parametrize(
    ("device", "offload", "first", "last"),
    [
        ("cuda:0", "none", "Pass offload='model'", "another device, such as device='cpu'"),
        ("cuda:0", "model", "Pass offload='sequential'", "another device, such as device='cpu'"),
        ("cuda:0", "sequential", "End other programs that use the GPU", "another device, such as "),
        ("cpu", "none", "Close other programs", "use a machine with more memory"),
    ],
)
def test_the_error_names_three_ways_out(
    device: str, offload: Offload, first: str, last: str
) -> None:
    """The error names the device, what is free there, and what to do next."""
    model = place_on_gpu(Pipeline(), device=device, offload=offload, may_offload=False)
    with pytest.raises(EngineError) as raised:
        model.draw([1, 2], drawing(lambda: 0, []))
    name, free = ("cuda:0 (Small GPU)", "0.4") if device == "cuda:0" else ("cpu", "16.0")
    assert raised.value.problem == (
        f"Out of memory: {name} cannot hold what drawing one image needs. {free} GB are free."
    )
    assert raised.value.hint is not None
    assert raised.value.hint.startswith(f"{first}, choose a smaller model (")
    assert f"or {last}" in raised.value.hint
    assert raised.value.__context__ is None


def test_nothing_of_a_failed_attempt_is_held() -> None:
    """Tensors of attempts without room are gone before the next attempt, and after the error."""
    tensors: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        model = place_on_gpu(Pipeline(), batch=4)

        def draw(_: Pipeline, seeds: Sequence[int]) -> list[str]:
            assert all(tensor() is None for tensor in tensors)
            latents = torch.zeros(100)
            cycle: list[Any] = [latents]
            cycle.append(cycle)
            tensors.append(weakref.ref(latents))
            raise torch.OutOfMemoryError("CUDA out of memory.")

        with pytest.raises(EngineError):
            model.draw([1, 2, 3, 4], draw)
        # Batches of four, two and one; then one with each offload.
        assert len(tensors) == 5
        assert all(tensor() is None for tensor in tensors)
    finally:
        gc.enable()
    assert HARDWARE.releases[-5:] == ["cuda:0"] * 5


def test_other_errors_are_not_memory_errors() -> None:
    """Any other error ends the call as it is, and the batch keeps its size."""
    model = place_on_gpu(Pipeline(), batch=4)

    def draw(_: Pipeline, seeds: Sequence[int]) -> list[str]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        model.draw([1], draw)
    assert model.placement.batch == 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 4 bytes."
            ),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_errors_of_all_devices_are_known(error: Exception, expected: bool) -> None:
    """Each device has its own words for having no memory left."""
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_fails_is_known() -> None:
    """What torch raises on this machine for far too large a tensor counts."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_a_freed_model_is_gone() -> None:
    """Freeing removes the hooks, drops the pipelines and empties the device's cache."""
    pipeline = Pipeline()
    model = place_on_gpu(pipeline)
    reference = weakref.ref(pipeline)
    moves = pipeline.moves
    del pipeline
    model.free()
    assert moves == ["none", "hooks removed"]
    assert reference() is None
    assert HARDWARE.releases[-1] == "cuda:0"
