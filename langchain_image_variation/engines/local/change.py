"""How much a field of displacements changes an image, measured before anything is drawn.

Change is the root mean square difference of gray between variation T and source S, over the
standard deviation of the source's gray, rms(T - S) / std(S). 0 is a copy. 2^0.5 is an unrelated
arrangement of the same grays, because their variances add. It is read from S(x + f(x)) - S(x).
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Bytes, Floats, deviation, gray
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["PROBES", "Yardstick", "find_amplitude"]

PROBES = 128
"""Points along a side at which a smooth field's change is measured."""

_FINER = 4
"""Positions per pixel along a side. Moves below a quarter of a pixel do not count."""

_MARGIN = 32
"""How many gray values stay unused at both ends of the range during a measurement."""

_FAR = 0.25
"""Amplitude of a far displacement, in sides."""

_FAR_SEEDS = range(28, 32)
"""Seeds of far displacements. On photos and drawings, their mean change is close to that of 64
seeds."""

_STEPS = 12
"""The maximum number of steps of a search. A smooth image takes four or five."""


class Yardstick:
    """Measures the change that a field makes to one source.

    Args:
        source: uint8 (side, side, channels). Every change is measured at this size.
    """

    def __init__(self, source: Bytes) -> None:
        self._large = source.shape[0] * _FINER
        luma = _stretch(gray(source))
        enlarged = Image.fromarray(luma).resize(
            (self._large, self._large), Image.Resampling.LANCZOS
        )
        self._gray = np.asarray(enlarged).reshape(-1)
        self._spread = deviation(luma)
        zero_fields = (
            np.zeros((2, nodes, nodes), np.float32) for nodes in (PROBES, source.shape[0])
        )
        self._unmoved_gray = {field.shape[1]: self._read(field) for field in zero_fields}
        far = [flow(velocity(Draws(seed)), _FAR) for seed in _FAR_SEEDS]
        self.max_change = math.fsum(self.change(resample(moved, PROBES)) for moved in far) / len(
            far
        )
        """The change of a far displacement: about the most that moving pixels can reach."""

    def change(self, field: Floats) -> float:
        """Return the change that a field makes, measured at the centers of its nodes.

        Args:
            field: Displacements (2, nodes, nodes), nodes 128 or the side of the source.
        """
        if self._spread == 0:
            return 0.0
        difference = self._read(field).astype(np.int32) - self._unmoved_gray[field.shape[1]]
        squares = int((difference * difference).sum(dtype=np.int64))
        return math.sqrt(squares / difference.size) / self._spread

    def amplitude(self, velocity: Floats, target: float, reach: float) -> float:
        """Find how far to go along a velocity to reach a change.

        Args:
            velocity: What `warp.velocity` returned.
            target: The change to reach.
            reach: The largest amplitude allowed. It is returned if even it changes too little.
        """
        return find_amplitude(
            lambda amplitude: self.change(resample(flow(velocity, amplitude), PROBES)),
            target,
            reach,
            0.01,
        )

    def _read(self, field: Floats) -> Bytes:
        """Read the gray of the source where a field points, to a quarter of a pixel."""
        size, last = np.float32(self._large), self._large - 1
        nodes = field.shape[1]
        centers = (np.arange(nodes, dtype=np.float32) + 0.5) / np.float32(nodes)
        row = np.clip(((centers[:, None] + field[0]) * size).astype(np.intp), 0, last)
        column = np.clip(((centers + field[1]) * size).astype(np.intp), 0, last)
        return np.asarray(self._gray[row * self._large + column])


def _stretch(luma: Bytes) -> Bytes:
    """Stretch the gray values of an image to the middle of the range.

    This measures low contrast as precisely as high contrast, and does not clip the ringing of the
    enlargement.
    """
    low, high = int(luma.min()), int(luma.max())
    stretched = (luma.astype(np.int32) - low) * (255 - 2 * _MARGIN) // max(high - low, 1)
    return (stretched + _MARGIN).astype(np.uint8)


def find_amplitude(
    measure: Callable[[float], float], target: float, reach: float, tolerance: float
) -> float:
    """Find the amplitude that reaches a change.

    Small changes grow in proportion to the amplitude and larger ones level off, so the reciprocals
    of both lie nearly on a line. The search alternates between false position on that line and
    bisection, because fine grain levels off immediately.

    Args:
        measure: Returns the change at an amplitude.
        target: The change to reach.
        reach: The largest amplitude allowed. It is returned if even it changes too little.
        tolerance: The relative error allowed.
    """
    far = measure(reach)
    if target <= 0 or far <= target:
        return reach
    low, low_change = reach / 64, min(far / 64, target / 2)
    high, high_change = reach, far
    for step in range(_STEPS):
        middle = math.sqrt(low * high)
        if step % 2 == 0:
            share = (1 / low_change - 1 / target) / (1 / low_change - 1 / high_change)
            middle = 1 / (1 / low + share * (1 / high - 1 / low))
        change = measure(middle)
        if abs(change - target) <= tolerance * target:
            return middle
        if change < target:
            low, low_change = middle, max(change, low_change)
        else:
            high, high_change = middle, change
    return high
