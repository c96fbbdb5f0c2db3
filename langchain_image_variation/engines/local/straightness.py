"""How much of an image lies on long straight lines, which people see bend.

Along each of several slopes, the edges of an image are sheared upright, and a piece of a line is a
run of edge pixels in a column. This is a Hough transform (Duda and Hart 1972) of short pieces, in
whole numbers.
"""

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Bytes

__all__ = ["straightness"]

_EDGE = 28
"""The difference of gray over four pixels that makes an edge."""

_LENGTH, _GAPS = 40, 2
"""The length of a line in pixels of an image of 128, and how many of its pixels may be missing."""

_SLOPES = range(-6, 7, 2)
"""Slopes in sixteenths, up to about 20 degrees from upright or level."""


def straightness(luma: Bytes) -> float:
    """Return the share of the edges of an image that lie on long straight lines, 0 to 1.

    Args:
        luma: uint8 (256, 256).
    """
    values = luma.astype(np.int32)
    half = values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]
    edge_count = line_count = 0
    for plane in (half, half.T):
        slope = np.zeros_like(plane)
        slope[:, 1:-1] = np.abs(plane[:, 2:] - plane[:, :-2])
        # An edge is where the slope is steepest, so that it is one or two pixels wide.
        is_edge = slope > 4 * _EDGE
        is_edge[:, 1:] &= slope[:, 1:] >= slope[:, :-1]
        is_edge[:, :-1] &= slope[:, :-1] >= slope[:, 1:]
        edge_count += int(is_edge.sum())
        line_count += _count_on_lines(is_edge)
    return line_count / max(edge_count, 1)


def _count_on_lines(is_edge: NDArray[np.bool_]) -> int:
    """Return how many edge pixels lie on lines that are nearly upright."""
    side = len(is_edge)
    near = is_edge.copy()
    near[:, 1:] |= is_edge[:, :-1]
    rows = np.arange(side)[:, None]
    is_on_line = np.zeros_like(is_edge)
    for slope in _SLOPES:
        columns = (np.arange(side) + (rows - side // 2) * slope // 16) % side
        sheared = near[rows, columns].astype(np.int32)
        sums = np.pad(sheared.cumsum(axis=0), ((1, 0), (0, 0)))
        is_line = sums[_LENGTH:] - sums[:-_LENGTH] >= _LENGTH - _GAPS
        if not is_line.any():
            continue
        line_count = np.zeros((side, side), dtype=np.int32)
        line_count[: len(is_line)] += is_line
        line_count[_LENGTH:] -= is_line[: side - _LENGTH]
        is_covered = line_count.cumsum(axis=0) > 0
        is_on_line[np.broadcast_to(rows, columns.shape)[is_covered], columns[is_covered]] = True
    return int((is_on_line & is_edge).sum())
