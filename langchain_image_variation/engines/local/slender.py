"""Thin things on plain ground, such as masts, rods and antennae, which salience does not see.

A thin thing is brighter or darker than everything within a few pixels on both sides of it: it
differs from the opening or the closing of the image (Meyer 1979, "Iterative image transformations
for an automatic screening of cervical smears"). In grass and twigs, that is so everywhere, so it
must also differ much more than its surroundings do on average.
"""

import numpy as np

from langchain_image_variation.engines.local.components import Components, Luma
from langchain_image_variation.engines.local.pyramid import Bytes
from langchain_image_variation.engines.local.salience import CELLS, Whole

__all__ = ["find_slender"]

_REACH = 3
"""Half the width of what is too wide to be thin, in pixels of an image of 256."""

_CONTRAST, _RATIO = 8, 4
"""The least contrast of a thin thing, in gray levels and in mean contrasts of its surroundings."""

_AROUND = 6
"""How far its surroundings reach, in cells of four pixels."""

_SHORTEST = 12
"""The least length of a thin thing in pixels."""


_THICKEST = 3
"""The largest area of a thin thing, in lengths."""

_MOST = 12
"""Where there are more thin things than this, they are a texture: bricks, grass or feathers."""


def find_slender(luma: Bytes) -> Whole:
    """Return where thin things are, (64, 64), 0 or 255. Those that leave the image are left out.

    Args:
        luma: uint8 (256, 256).
    """
    light = luma - _dilate(_erode(luma))
    dark = _erode(_dilate(luma)) - luma
    contrast = np.maximum(light, dark)
    side = len(luma) // CELLS
    cells = contrast.reshape(CELLS, side, CELLS, side).sum(axis=(1, 3), dtype=np.int64)
    least = _RATIO * _mean_around(cells) // side**2
    limit = np.clip(least, _CONTRAST, 255).astype(np.uint8)
    mask = contrast >= limit.repeat(side, axis=0).repeat(side, axis=1)
    parts = Components.of(mask, Luma(luma))
    length = np.maximum(parts.bottom - parts.top, parts.right - parts.left)
    is_slender = (length >= _SHORTEST) & (parts.area <= _THICKEST * length)
    is_inside = (np.minimum(parts.top, parts.left) > 1) & (
        np.maximum(parts.bottom, parts.right) < len(luma) - 1
    )
    is_slender &= is_inside & (is_slender.sum() <= _MOST)
    slender = parts.mark(is_slender, luma.shape)
    is_slender = slender.reshape(CELLS, side, CELLS, side).any(axis=(1, 3))
    return np.where(is_slender, np.int64(255), np.int64(0))


def _erode(values: Bytes) -> Bytes:
    return ~_dilate(~values)


def _dilate(values: Bytes) -> Bytes:
    """Return the maximum of the 7x7 pixels around each pixel."""
    size = 2 * _REACH + 1
    for _ in range(2):
        wide = np.pad(values, ((_REACH, _REACH), (0, 0)), mode="edge")
        pairs = np.maximum(wide[1:], wide[:-1])
        fours = np.maximum(pairs[2:], pairs[:-2])
        # Two windows of four overlap in one row of seven.
        values = np.maximum(fours[: len(fours) - size + 4], fours[size - 4 :]).T
    return values


def _mean_around(cells: Whole) -> Whole:
    """Return the mean of the cells around each cell, rounded down."""
    size = 2 * _AROUND + 1
    for _ in range(2):
        wide = np.pad(cells, ((_AROUND + 1, _AROUND), (0, 0)), mode="edge")
        sums = wide.cumsum(axis=0)
        cells = (sums[size:] - sums[:-size]).T
    return cells // size**2
