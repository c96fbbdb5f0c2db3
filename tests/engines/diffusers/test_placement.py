from dataclasses import dataclass, field
from typing import Any

import pytest

from langchain_image_variation.engines.diffusers.devices import choose_device
from langchain_image_variation.engines.diffusers.placement import (
    Placement,
    Workload,
    check_offload,
    place,
    plan_placement,
)
from langchain_image_variation.engines.diffusers.presets import PRESETS
from langchain_image_variation.exceptions import InvalidRequestError
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware
from tests.extras import skip_without

GB = 10**9
# The U-Net, decoder, image encoder and checker of Stable Diffusion in half precision.
WEIGHTS = (1_700_000_000, 170_000_000, 600_000_000, 600_000_000)
WORKLOAD = Workload(WEIGHTS, 0, drawing_bytes=168 * 10**6, decoding_bytes=403 * 10**6)


def plan(free_bytes: float, device: str = "cuda:0", **options: Any) -> Placement:
    """Return the placement of `WORKLOAD` on a device with this much free memory."""
    gpus = {} if device == "cpu" else {device: GPU(free_bytes=int(free_bytes))}
    return plan_placement(choose_device(device, FakeHardware(gpus)), WORKLOAD, **options)


@pytest.mark.parametrize(
    ("free_bytes", "offload", "batch"),
    [
        (24 * GB, "none", 10),
        (5 * GB, "none", 8),
        (4.02 * GB, "none", 2),
        (3.9 * GB, "model", 9),
        (2.7 * GB, "model", 2),
        (2.5 * GB, "sequential", 10),
        (0.1 * GB, "sequential", 1),
    ],
)
def test_less_memory_means_more_offload(free_bytes: float, offload: str, batch: int) -> None:
    """The fastest offload that fits is chosen, and then as many images at once as fit."""
    placement = plan(free_bytes)
    assert (placement.offload, placement.batch) == (offload, batch)


def test_options_are_followed() -> None:
    """What the user chose is not changed, however much memory is free."""
    assert plan(24 * GB, offload="sequential", batch=3).offload == "sequential"
    assert plan(24 * GB, offload="model", batch=3).batch == 3
    assert plan(0.1 * GB, offload="none").offload == "none"
    assert plan(0.1 * GB, offload="none").batch == 1


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_shared_memory_is_not_offloaded(device: str) -> None:
    """A device without its own memory has nothing to offload to, and draws one image at a time."""
    for offload in ("auto", "model"):
        placement = plan(0.1 * GB, device, offload=offload)
        assert (placement.offload, placement.batch) == ("none", 1)
    assert plan(GB, device, batch=4).batch == 4


def test_an_unknown_offload_is_refused() -> None:
    """An offload is one of four names."""
    assert check_offload("model") == "model"
    for value in ("cpu", True, None):
        with pytest.raises(InvalidRequestError, match="offload must be one of 'auto', 'none'"):
            check_offload(value)


@dataclass
class RecordedPipeline:
    """A pipeline that notes where it is moved."""

    moves: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: str) -> None:
        """Note a move of everything."""
        self.moves.append(("to", device))

    def enable_model_cpu_offload(self, device: str) -> None:
        """Note an offload of components."""
        self.moves.append(("model", device))

    def enable_sequential_cpu_offload(self, device: str) -> None:
        """Note an offload of layers."""
        self.moves.append(("sequential", device))


def test_pipelines_move_to_their_own_gpu() -> None:
    """All pipelines of a model go to the chosen GPU, even if it is not the first."""
    device = choose_device("cuda:1", FakeHardware({"cuda:0": GPU(), "cuda:1": GPU()}))
    moves = []
    for offload in ("none", "model", "sequential"):
        first, second = RecordedPipeline(), RecordedPipeline()
        place([first, second], Placement(device, offload, 1))
        assert first.moves == second.moves
        moves += first.moves
    assert moves == [("to", "cuda:1"), ("model", "cuda:1"), ("sequential", "cuda:1")]


def test_weights_are_measured_once() -> None:
    """The workload adds up the weights of distinct components, and is larger for larger images."""
    skip_without("torch")
    import torch

    class Model:
        def __init__(self, **components: object) -> None:
            self.components = components

    layer = torch.nn.Linear(10, 10, bias=False)
    norm = torch.nn.BatchNorm1d(4).half()
    pipelines = [Model(unet=layer, tokenizer=object(), vae=None), Model(unet=layer, norm=norm)]
    small = Workload.measure(pipelines, 512, "float16")
    # Two parameters and two buffers of four numbers, and a counter of 8 bytes.
    assert small.component_bytes == (400, 4 * 4 * 2 + 8)
    assert small.resident_bytes("none") == 440
    assert small.resident_bytes("model") == 400
    assert small.resident_bytes("sequential") == 0
    large = Workload.measure(pipelines, 1024, "float16")
    assert large.drawing_bytes == 4 * small.drawing_bytes
    assert Workload.measure(pipelines, 512, "float32").drawing_bytes == 2 * small.drawing_bytes


def test_the_checker_stays_on_the_device() -> None:
    """The components that diffusers never offloads take memory with every kind of offloading."""
    skip_without("torch")
    import torch

    class Model:
        def __init__(self) -> None:
            self.components = {
                "unet": torch.nn.Linear(100, 1),
                "safety_checker": torch.nn.Linear(10, 1),
            }

    workload = Workload.measure([Model()], 512, "float32")
    assert workload.resident_bytes("none") == 404 + 44
    assert workload.resident_bytes("model") == 404 + 44
    assert workload.resident_bytes("sequential") == 44


def test_diffusers_offloads_all_other_components() -> None:
    """The components that count as never offloaded are those that the pipelines exclude."""
    skip_without("torch")
    import diffusers

    excluded = {
        preset.name: {*getattr(diffusers, preset.pipeline_class)._exclude_from_cpu_offload}
        for preset in PRESETS.values()
    }
    fixed = {
        preset.name: {*preset.component_sizes} & {"safety_checker", "image_normalizer"}
        for preset in PRESETS.values()
    }
    assert excluded == fixed
