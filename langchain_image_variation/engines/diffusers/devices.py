"""Devices: which ones a machine has, which one an engine uses, and how much of its memory is free.

torch is imported when a device is chosen, not before.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_image_variation.engines.diffusers.main_memory import free_main_memory
from langchain_image_variation.engines.options import DTYPES
from langchain_image_variation.exceptions import (
    EngineError,
    InvalidRequestError,
    MissingExtraError,
    excerpt,
)

__all__ = [
    "Device",
    "Hardware",
    "TorchHardware",
    "check_device_name",
    "check_dtype_name",
    "choose_device",
    "choose_dtype",
    "import_torch",
    "list_devices",
]

_KINDS = ("cuda", "mps", "xpu", "cpu")
"""The kinds of devices, best first. torch calls the GPUs of AMD "cuda" too."""

_DEVICE_NAME = re.compile(r"cpu|mps|(cuda|xpu)(:\d{1,3})?")

_BROKEN_FLOAT16 = ("GTX 1650", "GTX 1660")
"""GPUs on which models in float16 draw black images: https://github.com/pytorch/pytorch/issues/58123
"""


class Hardware(Protocol):
    """The devices of a machine."""

    def device_count(self, kind: str) -> int:
        """Return how many usable devices of a kind there are: "cuda", "mps", "xpu" or "cpu"."""
        ...

    def product_name(self, device: str) -> str:
        """Return the product name of a device, or "" if it is not known."""
        ...

    def free_bytes(self, device: str) -> int:
        """Return how much memory of a device a program can get now, in bytes."""
        ...

    def has_bfloat16(self, device: str) -> bool:
        """Return whether a device computes in bfloat16."""
        ...

    def free_swap_bytes(self) -> int:
        """Return how much more the main memory can hold by swapping, in bytes."""
        ...

    def release_unused(self, device: str) -> None:
        """Give memory that is kept for later back to the device."""
        ...


def import_torch() -> Any:
    """Return the module torch.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError.for_package(
            "The engine 'diffusers'", error.name, "langchain-image-variation[diffusers]"
        ) from None
    return torch


class TorchHardware:
    """The devices that torch finds.

    Args:
        torch: The module torch. None imports it.

    Raises:
        MissingExtraError: If torch is not installed.
    """

    def __init__(self, torch: Any = None) -> None:
        self._torch = torch or import_torch()

    def device_count(self, kind: str) -> int:
        """Return how many usable devices of a kind there are.

        Raises:
            EngineError: If the process was forked from one that uses such devices.
        """
        if kind == "cpu":
            return 1
        module = getattr(self._torch, kind)
        # torch has no public name for it. In such a process, it would find no devices.
        if module._is_in_bad_fork():
            raise EngineError(
                "This process was forked from one that uses the GPU, so it cannot use the GPU.",
                hint="Start processes with the method 'spawn' of multiprocessing.",
            )
        if kind == "mps":
            return int(self._torch.backends.mps.is_available())
        return int(module.device_count()) if module.is_available() else 0

    def product_name(self, device: str) -> str:
        """Return the product name of a GPU of the kind "cuda" or "xpu"."""
        kind = _kind(device)
        if kind in ("cpu", "mps"):
            return ""
        return str(getattr(self._torch, kind).get_device_name(device))

    def free_bytes(self, device: str) -> int:
        """Return how much memory of a device a program can get now."""
        kind = _kind(device)
        if kind == "cpu":
            return free_main_memory()
        self.release_unused(device)
        if kind == "mps":
            mps = self._torch.mps
            return max(0, int(mps.recommended_max_memory() - mps.driver_allocated_memory()))
        free, _ = getattr(self._torch, kind).mem_get_info(device)
        return int(free)

    def free_swap_bytes(self) -> int:
        """Return how much more the main memory can hold by swapping."""
        import psutil

        return int(psutil.swap_memory().free)

    def has_bfloat16(self, device: str) -> bool:
        """Return whether a device computes in bfloat16 without emulating it."""
        kind = _kind(device)
        if kind == "cuda":
            with self._torch.cuda.device(device):
                return bool(self._torch.cuda.is_bf16_supported(including_emulation=False))
        # Metal has bfloat16 since macOS 14.
        return kind != "mps" or bool(self._torch.backends.mps.is_macos_or_newer(14, 0))

    def release_unused(self, device: str) -> None:
        """Give memory that torch keeps for later back to the device."""
        kind = _kind(device)
        if kind == "mps":
            self._torch.mps.empty_cache()
        elif kind != "cpu":
            module = getattr(self._torch, kind)
            with module.device(device):
                module.empty_cache()


@dataclass(frozen=True, slots=True)
class Device:
    """A device that computes."""

    name: str
    """Its name for torch, such as "cuda:0", "mps" or "cpu"."""
    hardware: Hardware = field(repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The name without the number."""
        return _kind(self.name)

    @property
    def has_own_memory(self) -> bool:
        """Whether it is a GPU that does not share the main memory."""
        return self.kind in ("cuda", "xpu")

    @property
    def description(self) -> str:
        """The name, and the product's name if it is known: "cuda:0 (NVIDIA H200)"."""
        product = self.hardware.product_name(self.name)
        return f"{self.name} ({product})" if product else self.name

    def free_bytes(self) -> int:
        """Return how much memory a program can get now, in bytes."""
        return self.hardware.free_bytes(self.name)

    def release_unused(self) -> None:
        """Give memory that is kept for later back to the device."""
        self.hardware.release_unused(self.name)


def list_devices(hardware: Hardware | None = None) -> tuple[str, ...]:
    """Return the names of the devices that `device="auto"` chooses from, all of one kind.

    These are all GPUs of the best kind, or the CPU if there is no GPU.

    Args:
        hardware: The devices of the machine. None asks torch.

    Raises:
        MissingExtraError: If torch is not installed.
    """
    hardware = hardware or TorchHardware()
    for kind in _KINDS:
        if names := _names(kind, hardware):
            return names
    raise AssertionError  # Every machine has a CPU.


def check_device_name(name: object) -> str:
    """Return the option `device` in the form that names one device: "cuda" becomes "cuda:0".

    Raises:
        InvalidRequestError: If it names no kind of device. It may name one that is not here.
    """
    if name == "auto":
        return "auto"
    if isinstance(name, str) and _DEVICE_NAME.fullmatch(name):
        kind, _, index = name.partition(":")
        return name if kind in ("cpu", "mps") else f"{kind}:{int(index or 0)}"
    raise InvalidRequestError(
        "device must be 'auto', 'cpu', 'mps', or a GPU such as 'cuda', 'cuda:1' or 'xpu', got "
        f"{excerpt(name)}.",
        param="device",
    )


def choose_device(name: str = "auto", hardware: Hardware | None = None) -> Device:
    """Return the device that the option `device` names.

    Args:
        name: "auto" means the first GPU of the best kind: cuda, mps, then xpu. If there is no GPU,
            it means the CPU.
        hardware: The devices of the machine. None asks torch.

    Raises:
        InvalidRequestError: If there is no such device.
        MissingExtraError: If torch is not installed.
    """
    name = check_device_name(name)
    hardware = hardware or TorchHardware()
    if name == "auto":
        return Device(list_devices(hardware)[0], hardware)
    names = [name for kind in _KINDS for name in _names(kind, hardware)]
    if name not in names:
        raise InvalidRequestError(
            f"This machine has no device {name!r}, or torch cannot use it. Devices: "
            f"{', '.join(names)}.",
            param="device",
            hint="If it has this GPU, install the build of torch for it: "
            "https://pytorch.org/get-started/locally/",
        )
    return Device(name, hardware)


def check_dtype_name(name: object) -> str:
    """Return the option `dtype`.

    Raises:
        InvalidRequestError: If it is not one of `DTYPES`.
    """
    if isinstance(name, str) and name in DTYPES:
        return name
    raise InvalidRequestError(
        f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {excerpt(name)}.", param="dtype"
    )


def choose_dtype(name: str, device: Device, *, prefers_bfloat16: bool = False) -> str:
    """Return the type of the numbers that a model computes with, as torch names it.

    Args:
        name: The option `dtype`. "auto" means half precision on a GPU, and "float32" on a CPU, or
            on a GPU whose half precision draws black images.
        device: The device.
        prefers_bfloat16: Whether the numbers of the model are too large for "float16".

    Raises:
        InvalidRequestError: If a CPU should compute in "float16", for which CPUs are too slow and
            torch lacks some operations.
    """
    if name == "float16" and device.kind == "cpu":
        raise InvalidRequestError(
            "dtype 'float16' is for GPUs, and the device is the CPU. Pass dtype='bfloat16', which "
            "takes as little memory, or leave it out.",
            param="dtype",
        )
    if name != "auto":
        return name
    if device.kind == "cpu":
        return "float32"
    if prefers_bfloat16:
        return "bfloat16" if device.hardware.has_bfloat16(device.name) else "float32"
    product = device.hardware.product_name(device.name)
    return "float32" if any(name in product for name in _BROKEN_FLOAT16) else "float16"


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _names(kind: str, hardware: Hardware) -> tuple[str, ...]:
    count = hardware.device_count(kind)
    if kind in ("cpu", "mps"):
        return (kind,) * count
    return tuple(f"{kind}:{index}" for index in range(count))
