from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_image_variation.engines.diffusers.devices import (
    TorchHardware,
    check_device_name,
    check_dtype_name,
    choose_device,
    choose_dtype,
    list_devices,
)
from langchain_image_variation.exceptions import EngineError, InvalidRequestError
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware
from tests.extras import skip_without

TWO_GPUS = {"cuda:0": GPU("First"), "cuda:1": GPU("Second")}


@pytest.mark.parametrize(
    ("gpus", "names"),
    [
        ({}, ("cpu",)),
        (TWO_GPUS, ("cuda:0", "cuda:1")),
        ({"mps": GPU()}, ("mps",)),
        ({"xpu:0": GPU()}, ("xpu:0",)),
        ({"xpu:0": GPU(), "mps": GPU(), "cuda:0": GPU()}, ("cuda:0",)),
        ({"xpu:0": GPU(), "mps": GPU()}, ("mps",)),
    ],
)
def test_auto_is_the_best_kind(gpus: Mapping[str, GPU], names: tuple[str, ...]) -> None:
    """The devices to use are all GPUs of the best kind, and the first one is the default."""
    hardware = FakeHardware(gpus)
    assert list_devices(hardware) == names
    assert choose_device("auto", hardware).name == names[0]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda:01", "cuda:1"), ("cpu", "cpu")],
)
def test_a_device_is_chosen_by_name(name: str, chosen: str) -> None:
    """A name chooses its device, and names the first of its kind without a number."""
    assert choose_device(name, FakeHardware(TWO_GPUS)).name == chosen


def test_a_description_names_the_product() -> None:
    """A description is the name, with the product's name in parentheses if it is known."""
    hardware = FakeHardware(TWO_GPUS)
    assert choose_device("cuda:1", hardware).description == "cuda:1 (Second)"
    assert choose_device("cpu", hardware).description == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:1000", "cpu:0", "", None, 0])
def test_a_name_of_no_kind_is_refused(name: object) -> None:
    """A name that torch would not know is refused before torch is imported."""
    with pytest.raises(InvalidRequestError, match="device must be 'auto', 'cpu'") as raised:
        check_device_name(name)
    assert raised.value.param == "device"


def test_a_missing_device_is_an_error() -> None:
    """The error for a device that is not here lists those that are, and says what may be wrong."""
    with pytest.raises(InvalidRequestError) as raised:
        choose_device("cuda:2", FakeHardware(TWO_GPUS))
    assert raised.value.problem == (
        "This machine has no device 'cuda:2', or torch cannot use it. Devices: cuda:0, cuda:1, cpu."
    )
    assert raised.value.hint is not None
    assert "install the build of torch" in raised.value.hint


@pytest.mark.parametrize(
    ("device", "gpu", "prefers_bfloat16", "dtype"),
    [
        ("cpu", GPU(), False, "float32"),
        ("cpu", GPU(), True, "float32"),
        ("cuda:0", GPU(), False, "float16"),
        ("cuda:0", GPU(), True, "bfloat16"),
        ("cuda:0", GPU(bfloat16=False), True, "float32"),
        ("cuda:0", GPU("NVIDIA GeForce GTX 1660 SUPER"), False, "float32"),
        ("mps", GPU(""), False, "float16"),
        ("xpu:0", GPU(), False, "float16"),
    ],
)
def test_auto_dtype_suits_the_device(
    device: str, gpu: GPU, prefers_bfloat16: bool, dtype: str
) -> None:
    """GPUs compute in half precision, except where that would draw black images."""
    chosen = choose_device(device, FakeHardware({} if device == "cpu" else {device: gpu}))
    assert choose_dtype("auto", chosen, prefers_bfloat16=prefers_bfloat16) == dtype
    assert choose_dtype("bfloat16", chosen) == "bfloat16"


def test_an_unknown_dtype_is_refused() -> None:
    """A dtype is one of four names."""
    assert check_dtype_name("float16") == "float16"
    for name in ("half", "int8", None, 16):
        with pytest.raises(InvalidRequestError, match="dtype must be one of 'auto', 'float32'"):
            check_dtype_name(name)


def test_torch_finds_the_devices() -> None:
    """On a real machine, the chosen device has memory, and can be asked to release some."""
    skip_without("torch")
    for name in (*list_devices(), "cpu"):
        device = choose_device(name)
        assert device.name == name
        assert device.free_bytes() > 0
        device.release_unused()
        assert isinstance(device.description, str)
    assert TorchHardware().device_count("cpu") == 1


def fake_torch(**cuda: Any) -> Any:
    """Return a module torch with NVIDIA GPUs and no others."""
    gpus = {
        "device": lambda device: nullcontext(),
        "device_count": lambda: 2,
        "empty_cache": lambda: None,
        "get_device_name": {"cuda:0": "First", "cuda:1": "Second"}.get,
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation: including_emulation,
        "mem_get_info": {"cuda:0": (5, 10), "cuda:1": (7, 10)}.get,
    }
    nothing = SimpleNamespace(is_available=lambda: False, _is_in_bad_fork=lambda: False)
    return SimpleNamespace(
        cuda=SimpleNamespace(**{"_is_in_bad_fork": lambda: False, **gpus, **cuda}),
        backends=SimpleNamespace(mps=nothing),
        mps=nothing,
        xpu=nothing,
    )


def test_torch_is_asked_about_each_gpu() -> None:
    """The name, the memory and the abilities are those of the GPU itself, not of the first."""
    hardware = TorchHardware(fake_torch())
    assert list_devices(hardware) == ("cuda:0", "cuda:1")
    second = choose_device("cuda:1", hardware)
    assert (second.description, second.free_bytes()) == ("cuda:1 (Second)", 7)
    assert choose_dtype("auto", second, prefers_bfloat16=True) == "float32"
    none = TorchHardware(fake_torch(is_available=lambda: False))
    assert list_devices(none) == ("cpu",)


def test_a_fork_cannot_use_the_gpu() -> None:
    """A process that cannot use the GPU because it was forked does not fall back to the CPU."""
    hardware = TorchHardware(fake_torch(_is_in_bad_fork=lambda: True))
    with pytest.raises(EngineError, match="was forked from one that uses the GPU") as raised:
        choose_device("auto", hardware)
    assert raised.value.hint is not None
    assert "spawn" in raised.value.hint
