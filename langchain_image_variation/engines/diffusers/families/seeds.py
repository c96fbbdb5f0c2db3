"""Seeds: turns the seed of an image into generators of noise, on the CPU on every device."""

import hashlib
from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_DIRECT_SEED", "generators", "noise_seed"]

MAX_DIRECT_SEED = 2**32 - 1
"""The largest seed that is used as it is. torch's generator on the CPU (a Mersenne Twister) ignores
all bits above the lowest 32, so larger seeds are hashed."""


def noise_seed(seed: int, redraw: int = 0) -> int:
    """Return the seed of an image's noise, from 0 to `MAX_DIRECT_SEED`.

    A seed within that range is used as it is for the first drawing, so plain torch makes the same
    noise from it.

    Args:
        seed: The seed of the image, of any size.
        redraw: How many drawings of this image the safety checker has refused.
    """
    if redraw == 0 and seed <= MAX_DIRECT_SEED:
        return seed
    digest = hashlib.sha256(f"{seed} {redraw}".encode("ascii")).digest()
    return int.from_bytes(digest[:4], "big")


def generators(seeds: Sequence[int]) -> list[Any]:
    """Return one generator for each seed. Noise from the CPU is the same on every device."""
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
