"""Devices that this machine does not have, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GPU", "FakeHardware"]


@dataclass(frozen=True)
class GPU:
    """A GPU."""

    product: str = "Fast GPU"
    free_bytes: int = 8 * 10**9
    bfloat16: bool = True


@dataclass
class FakeHardware:
    """A machine with these GPUs, by name, and a CPU."""

    gpus: Mapping[str, GPU] = field(default_factory=dict)
    main_memory: int = 16 * 10**9
    releases: list[str] = field(default_factory=list)
    """The devices whose unused memory was given back, in order."""

    def device_count(self, kind: str) -> int:
        """Return how many devices of a kind there are."""
        if kind == "cpu":
            return 1
        return sum(name.partition(":")[0] == kind for name in self.gpus)

    def product_name(self, device: str) -> str:
        """Return the product name of a GPU."""
        return self.gpus[device].product if device in self.gpus else ""

    def free_bytes(self, device: str) -> int:
        """Return the free memory of a device."""
        return self.gpus[device].free_bytes if device in self.gpus else self.main_memory

    def free_swap_bytes(self) -> int:
        """Return the free swap space."""
        return 0

    def has_bfloat16(self, device: str) -> bool:
        """Return whether a GPU computes in bfloat16."""
        return self.gpus[device].bfloat16

    def release_unused(self, device: str) -> None:
        """Note the device."""
        self.releases.append(device)
