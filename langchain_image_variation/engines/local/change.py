"""How far a field of displacements takes a picture from its source, before anything is drawn.

Change is the root mean square difference of grey between variation T and source S, over the
standard deviation of the source's grey, rms(T - S) / std(S): 0 is a copy, and 2^0.5 an unrelated
arrangement of the same greys, whose variances add. It is read from S(x + f(x)) - S(x).
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Bytes, Floats, deviation, grey
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["PROBES", "Yardstick", "reached"]

PROBES = 128
"""Points along a side at which a smooth field's change is measured."""

_FINER = 4
"""Positions a pixel along a side: moves below a quarter of a pixel do not count."""

_MARGIN = 32
"""Grey values left free at both ends of the range while the change is measured."""

_FAR = 0.25
"""Amplitude of a far displacement, in sides."""

_FAR_SEEDS = range(28, 32)
"""Far displacements whose mean change is close to that of 64, on photos and on drawings."""

_STEPS = 12
"""Tries of a search at most; a smooth picture takes four or five."""


class Yardstick:
    """Measures the change that a field makes to one source.

    Args:
        source: uint8 (side, side, channels); every change is measured at this size.
    """

    def __init__(self, source: Bytes) -> None:
        self._large = source.shape[0] * _FINER
        luma = _stretched(grey(source))
        enlarged = Image.fromarray(luma).resize(
            (self._large, self._large), Image.Resampling.LANCZOS
        )
        self._grey = np.asarray(enlarged).reshape(-1)
        self._spread = deviation(luma)
        still = (np.zeros((2, nodes, nodes), np.float32) for nodes in (PROBES, source.shape[0]))
        self._unmoved = {field.shape[1]: self._read(field) for field in still}
        far = [flow(velocity(Draws(seed)), _FAR) for seed in _FAR_SEEDS]
        self.most = math.fsum(self.change(resample(moved, PROBES)) for moved in far) / len(far)
        """Change of a far displacement: about the most that moving pixels can bring."""

    def change(self, field: Floats) -> float:
        """Return the change that a field makes, measured at the centres of its nodes.

        Args:
            field: Displacements (2, nodes, nodes), nodes 128 or the side of the source.
        """
        if self._spread == 0:
            return 0.0
        difference = self._read(field).astype(np.int32) - self._unmoved[field.shape[1]]
        squares = int((difference * difference).sum(dtype=np.int64))
        return math.sqrt(squares / difference.size) / self._spread

    def amplitude(self, velocity: Floats, wanted: float, reach: float) -> float:
        """Find how far along a velocity to go for a wanted change.

        Args:
            velocity: What `warp.velocity` returned.
            wanted: The change to reach.
            reach: The largest amplitude allowed, returned where even that changes too little.
        """
        return reached(
            lambda amplitude: self.change(resample(flow(velocity, amplitude), PROBES)),
            wanted,
            reach,
            0.01,
        )

    def _read(self, field: Floats) -> Bytes:
        """Read the source's grey where a field points, to a quarter of a pixel."""
        size, last = np.float32(self._large), self._large - 1
        nodes = field.shape[1]
        centres = (np.arange(nodes, dtype=np.float32) + 0.5) / np.float32(nodes)
        row = np.clip(((centres[:, None] + field[0]) * size).astype(np.intp), 0, last)
        column = np.clip(((centres + field[1]) * size).astype(np.intp), 0, last)
        return np.asarray(self._grey[row * self._large + column])


def _stretched(luma: Bytes) -> Bytes:
    """Stretch the grey values of a picture to the middle of the range.

    Low contrast is then measured as precisely as high contrast, and ringing from the enlargement is
    not clipped.
    """
    low, high = int(luma.min()), int(luma.max())
    above = (luma.astype(np.int32) - low) * (255 - 2 * _MARGIN) // max(high - low, 1)
    return (above + _MARGIN).astype(np.uint8)


def reached(
    measure: Callable[[float], float], wanted: float, reach: float, tolerance: float
) -> float:
    """Find the amplitude that brings a wanted change.

    Small changes grow in proportion to the amplitude and larger ones level off, so the reciprocals
    of both lie nearly on a line. The search takes false positions on that line, and every other
    time bisects, since fine grain levels off at once.

    Args:
        measure: Returns the change that an amplitude brings.
        wanted: The change to reach.
        reach: The largest amplitude allowed, returned where even that changes too little.
        tolerance: The share of `wanted` by which it may be missed.
    """
    far = measure(reach)
    if wanted <= 0 or far <= wanted:
        return reach
    low, low_change = reach / 64, min(far / 64, wanted / 2)
    high, high_change = reach, far
    for turn in range(_STEPS):
        middle = math.sqrt(low * high)
        if turn % 2 == 0:
            share = (1 / low_change - 1 / wanted) / (1 / low_change - 1 / high_change)
            middle = 1 / (1 / low + share * (1 / high - 1 / low))
        change = measure(middle)
        if abs(change - wanted) <= tolerance * wanted:
            return middle
        if change < wanted:
            low, low_change = middle, max(change, low_change)
        else:
            high, high_change = middle, change
    return high
