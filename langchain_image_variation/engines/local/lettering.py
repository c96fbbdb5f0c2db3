"""Whether an image shows small print: lines of letters that are too small to be told apart.

Print is many thin strokes on plain ground, in lines. A window of 24x8 pixels looks like print if

- brightness rises and falls often in it, across and down,
- most of its pixels are close to one end of its range, the ground, and few lie between the ends,
- the ground is much plainer than the strokes are dark (or light).

Leaves, stones and snow pass the first two tests, but rarely three windows of a line pass the third.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Bytes, Indices

__all__ = ["has_print"]

_HEIGHT, _WIDTH = 8, 24
"""The size of a window in pixels of an image of 256. That is a line of small print."""

_DOWN, _ACROSS = 4, 8
"""Distances of windows in pixels."""

_STEP = 36
"""The difference of gray over two pixels that makes an edge of a stroke."""

_STROKE = 5
"""The largest distance in pixels between the two edges of a stroke."""

_TURNS_ACROSS, _TURNS_DOWN = 14, 8
"""The least number of strokes that end in a window."""

_RANGE = 70
"""The least difference between ink and ground, in gray levels."""

_LINES = 4
"""How many groups of three windows in a line make print. Snow on rock has three."""


def has_print(luma: Bytes) -> bool:
    """Return whether an image shows lines of small print.

    Args:
        luma: uint8 (256, 256).
    """
    values = luma.astype(np.int16)
    across = np.zeros(values.shape, dtype=bool)
    across[:, 1:-1] = _turns(values[:, 2:] - values[:, :-2])
    down = np.zeros(values.shape, dtype=bool)
    down[1:-1] = _turns((values[2:] - values[:-2]).T).T
    is_busy = (_count(across) >= _TURNS_ACROSS) & (_count(down) >= _TURNS_DOWN)
    is_print = np.zeros_like(is_busy)
    rows, columns = np.nonzero(is_busy)
    is_print[rows, columns] = _has_plain_ground(values, rows * _DOWN, columns * _ACROSS)
    lines = is_print[:, 2:] & is_print[:, 1:-1] & is_print[:, :-2]
    return int(lines.sum()) >= _LINES


def _turns(slope: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Mark edges that are opposite to the last edge within reach, along rows."""
    sign = (slope > _STEP).astype(np.int8) - (slope < -_STEP).astype(np.int8)
    last = np.zeros_like(sign)
    for distance in range(1, _STROKE + 1):
        earlier = last[:, distance:]
        np.copyto(earlier, sign[:, :-distance], where=earlier == 0)
    return (sign * last) < 0


def _count(marks: NDArray[np.bool_]) -> Indices:
    """Return how many marks each window has."""
    sums = np.pad(marks.astype(np.intp).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows = sums[_HEIGHT:] - sums[:-_HEIGHT]
    windows = rows[:, _WIDTH:] - rows[:, :-_WIDTH]
    return np.asarray(windows[::_DOWN, ::_ACROSS])


def _has_plain_ground(values: NDArray[np.int16], top: Indices, left: Indices) -> NDArray[np.bool_]:
    """Return which windows at these corners have plain ground and strokes that differ from it."""
    windows = sliding_window_view(values, (_HEIGHT, _WIDTH))[top, left]
    windows = windows.reshape(len(top), _HEIGHT * _WIDTH).astype(np.int32)
    high, low = windows.max(axis=1, keepdims=True), windows.min(axis=1, keepdims=True)
    span = high - low
    is_light = 10 * (windows - low) > 7 * span
    is_dark = 10 * (windows - low) < 3 * span
    light_count, dark_count = is_light.sum(axis=1), is_dark.sum(axis=1)
    is_ground = np.where((light_count >= dark_count)[:, None], is_light, is_dark)
    count = is_ground.sum(axis=1)
    mean = (windows * is_ground).sum(axis=1) // np.maximum(count, 1)
    spread = (np.abs(windows - mean[:, None]) * is_ground).sum(axis=1)
    area = _HEIGHT * _WIDTH
    return np.asarray(
        (span[:, 0] >= _RANGE)
        & (100 * count >= 42 * area)
        & (100 * (area - light_count - dark_count) <= 38 * area)
        & (20 * spread < span[:, 0] * count)
    )
