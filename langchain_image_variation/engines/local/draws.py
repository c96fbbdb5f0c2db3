"""Random numbers that are the same in every release of numpy.

numpy promises that the raw words of a bit generator never change. It promises nothing about the
numbers that `Generator` makes from them (NEP 19, "Random number generator policy"). So this module
computes everything from the words of PCG64, with exact arithmetic.
"""

import math

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["Draws"]


class Draws:
    """A stream of random numbers.

    Args:
        seed: Whole numbers, 0 or more. Equal seeds start equal streams.
    """

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def normals(self, *shape: int) -> Floats:
        """Draw nearly normal numbers of mean 0 and variance 1, each a sum of twelve uniform ones.

        Their distribution is the Irwin-Hall distribution. No number is larger than 6.
        """
        words = self._words(*shape, 3)
        parts = sum((words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
        total = np.asarray(parts).sum(axis=-1).astype(np.float32)
        return np.asarray((total - np.float32(6 * 0xFFFF)) / np.float32(0x10000))

    def integers(self, reach: int, *shape: int) -> Indices:
        """Draw whole numbers from `-reach` to `reach`."""
        words = self._words(*shape) >> np.uint64(32)
        return ((words * np.uint64(2 * reach + 1)) >> np.uint64(32)).astype(np.intp) - reach

    def uniforms(self, count: int) -> list[float]:
        """Draw numbers from -1 up to but not including 1."""
        return [int(word >> np.uint64(11)) / 2**52 - 1 for word in self._words(count)]

    def _words(self, *shape: int) -> NDArray[np.uint64]:
        return np.asarray(self._bits.random_raw(math.prod(shape))).reshape(shape)
