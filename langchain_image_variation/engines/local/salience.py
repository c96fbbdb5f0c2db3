"""What people look at first: a map of what a crop must not cut.

No trained weights are used, so the map is only a guess. It is used where a wrong guess costs
little: a crop that could be tighter.

- Barrier: how much the image must rise or fall on every path from its border (Zhang et al. 2015,
  "Minimum barrier salient object detection at 80 FPS").
- Surroundings: how much a color differs from those along three of the four borders. The fourth may
  be the one where an object enters (the same paper, section 3.2).
- Contrast: how much a color differs from the mean (Achanta et al. 2009, "Frequency-tuned salient
  region detection").
- Skin: compact regions with the colors of skin, and some space above them for hair and hats.

All numbers are whole.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local.pyramid import Bytes, resize

__all__ = ["CELLS", "Whole", "find_skin", "salience", "widen"]

Whole: TypeAlias = NDArray[np.int64]
"""Whole numbers, such as a map (64, 64) of values from 0 to 255."""

CELLS = 64
"""Cells of a map along a side."""

_BORDER = 6
"""Width in cells of the strips that show what surrounds an object."""

_PASSES = 2
"""Sweeps in each of the four directions. More hardly change the barrier."""

_PLAIN = 48
"""A map whose largest value is smaller than this is not stretched: the image has no contrast."""

_SKIN, _LEAST_SKIN, _MOST_SKIN = 150, 12, CELLS * CELLS // 6
"""The salience of skin, and how many cells it may cover. More are sand, wood or bricks."""


def salience(source: Bytes) -> Whole:
    """Return how salient each part of an image is, (64, 64), 0 to 255.

    Args:
        source: uint8 (side, side, channels). Alpha counts as a color.
    """
    small = resize(source, CELLS)
    planes = _opponent_colors(small)
    barrier = _stretch(_barrier(planes).sum(axis=0))
    surroundings = _stretch(_surroundings(planes))
    means = planes.reshape(len(planes), -1).sum(axis=1) // CELLS**2
    contrast = _stretch(np.abs(_mean(planes) - means[:, None, None]).sum(axis=0))
    largest = np.maximum(np.maximum(barrier, surroundings), contrast)
    total = (barrier + surroundings + contrast + largest) // 4
    return np.maximum(_mean(total * _center() // 256), _heads(find_skin(small)))


def find_skin(small: Bytes) -> NDArray[np.bool_]:
    """Return where an image (64, 64, channels) has the colors of skin, if these are compact."""
    nothing = np.zeros((CELLS, CELLS), dtype=bool)
    if small.shape[2] < 3:
        return nothing
    red, green, blue = np.moveaxis(small[..., :3].astype(np.int64), 2, 0)
    luma = (299 * red + 587 * green + 114 * blue) // 1000
    # Chai and Ngan 1999, "Face segmentation using skin-color map in videophone applications".
    warmth, coolness = (red - luma) * 713 // 1000, (blue - luma) * 564 // 1000
    is_skin = (warmth >= 9) & (warmth <= 44) & (coolness >= -43) & (coolness <= -4)
    is_skin &= (luma > 60) & (red > green) & (green > blue)
    is_skin = np.asarray(_mean(255 * is_skin.astype(np.int64)) > 150)
    return is_skin if _LEAST_SKIN <= is_skin.sum() <= _MOST_SKIN else nothing


def widen(values: Whole) -> Whole:
    """Return the maximum of the 3x3 cells around each cell."""
    image = Image.fromarray(values.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return np.asarray(image).astype(np.int64)


def _heads(is_skin: NDArray[np.bool_]) -> Whole:
    """Return the salience of skin and of the space above it."""
    above = is_skin.copy()
    for step in range(1, math.isqrt(int(is_skin.sum())) * 3 // 5 + 1):
        above[:-step] |= is_skin[step:]
    heads = widen(_SKIN * above.astype(np.int64))
    # Only a head that reaches the border of the source has been cut before.
    heads[0] *= is_skin[0]
    return heads


def _opponent_colors(small: Bytes) -> Whole:
    """Return planes (n, 64, 64): lightness, red to green and yellow to blue, and alpha."""
    values = np.moveaxis(small.astype(np.int64), 2, 0)
    if len(values) < 3:
        return values
    red, green, blue = values[:3]
    opponents = [(red + 2 * green + blue) // 4, red - green, (red + green) // 2 - blue]
    return np.stack([*opponents, *values[3:]])


def _barrier(planes: Whole) -> Whole:
    """Return the minimum barrier distance of each cell from the border, for each plane."""
    # Rows come first, because each step takes one row of all planes.
    rows = np.ascontiguousarray(np.moveaxis(planes, 1, 0)).astype(np.int32)
    distance = np.full_like(rows, 1 << 20)
    distance[0] = distance[-1] = 0
    distance[:, :, 0] = distance[:, :, -1] = 0
    state = np.stack([rows, distance, rows, rows])
    for _ in range(4 * _PASSES):
        _sweep_down(*state)
        # The next direction becomes down.
        state = np.ascontiguousarray(np.rot90(state, axes=(1, 3)))
    return np.asarray(np.moveaxis(state[1], 0, 1).astype(np.int64))


def _sweep_down(
    values: NDArray[np.int32],
    distance: NDArray[np.int32],
    high: NDArray[np.int32],
    low: NDArray[np.int32],
) -> None:
    """Continue the best path of each cell to the cell below it, in place."""
    for row in range(1, len(values)):
        new_high = np.maximum(high[row - 1], values[row])
        new_low = np.minimum(low[row - 1], values[row])
        new_distance = new_high - new_low
        is_shorter = new_distance < distance[row]
        np.copyto(distance[row], new_distance, where=is_shorter)
        np.copyto(high[row], new_high, where=is_shorter)
        np.copyto(low[row], new_low, where=is_shorter)


def _surroundings(planes: Whole) -> Whole:
    """Return how much each cell differs from the strips along three borders."""
    count = len(planes)
    strips = [
        *(planes[:, :_BORDER], planes[:, -_BORDER:]),
        *(planes[:, :, :_BORDER], planes[:, :, -_BORDER:]),
    ]
    differences = []
    for strip in (strip.reshape(count, -1) for strip in strips):
        mean = strip.sum(axis=1) // strip.shape[1]
        spread = np.abs(strip - mean[:, None]).sum(axis=1) // strip.shape[1] + 6
        difference = np.abs(planes - mean[:, None, None]) * 16 // spread[:, None, None]
        total = difference.sum(axis=0)
        differences.append(total * 256 // max(int(total.max()), 1))
    all_four = np.stack(differences)
    return np.asarray(all_four.sum(axis=0) - all_four.max(axis=0))


def _center() -> Whole:
    """Return weights of 256 in the middle to 128 in the corners. People aim at what matters."""
    place = 2 * np.arange(CELLS, dtype=np.int64) - CELLS + 1
    squares = place * place
    return np.asarray(256 - (squares[:, None] + squares) * 64 // (CELLS - 1) ** 2)


def _stretch(values: Whole) -> Whole:
    return values * 256 // max(int(values.max()), _PLAIN)


def _mean(values: Whole) -> Whole:
    """Return the mean of the 3x3 cells around each cell of one or more maps, rounded down."""
    margin = [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)]
    padded = np.pad(values, margin, mode="edge")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return np.asarray((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) // 9)
