"""Connected parts of a mask: where they are, how they are shaped, and what they look like.

The parts are found from runs, the marked stretches of each row. Runs of neighboring rows that touch
belong to one part (Rosenfeld and Pfaltz 1966, "Sequential operations in digital picture
processing"). An image has far fewer runs than pixels. All numbers are whole.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Bytes, Indices
from langchain_image_variation.engines.local.salience import Whole

__all__ = ["Components", "Luma", "group"]

_OUTSIDE = 2
"""How far from the end of a run its surroundings are looked at, in pixels."""


class Luma:
    """A gray image whose sums along rows are known.

    Args:
        values: uint8 (height, width).
    """

    def __init__(self, values: Bytes) -> None:
        height, width = values.shape
        wide = values.astype(np.int32)
        self.values = values
        self.sums, self.square_sums = np.zeros((2, height, width + 1), dtype=np.int32)
        """The sums of the pixels before each place in a row, and the sums of their squares, both
        (height, width + 1)."""
        wide.cumsum(axis=1, out=self.sums[:, 1:])
        (wide * wide).cumsum(axis=1, out=self.square_sums[:, 1:])


@dataclass(frozen=True, slots=True)
class Components:
    """The connected parts of a mask. Each array has one number for each of them, except `runs`."""

    runs: tuple[Indices, Indices, Indices, Indices]
    """Row, start, end and part of each run."""
    top: Indices
    bottom: Indices
    """The row after the last."""
    left: Indices
    right: Indices
    """The column after the last."""
    run_count: Whole
    area: Whole
    """In pixels."""
    total: Whole
    """The sum of gray levels."""
    square_total: Whole
    """The sum of their squares."""
    outside_total: Whole
    """The sum of gray levels outside both ends of each run."""
    outside_square_total: Whole

    @classmethod
    def of(cls, mask: NDArray[np.bool_], luma: Luma) -> Self:
        """Find the parts of a mask that has the shape of an image."""
        row, start, end = _runs(mask)
        label = group(len(row), *_touching(row, start, end, mask.shape[1]))
        # Parts are numbered in reading order.
        numbers = (label == np.arange(len(label))).cumsum()
        part, count = numbers[label] - 1, int(numbers[-1]) if len(numbers) else 0

        def total(weights: NDArray[np.integer[Any]]) -> Whole:
            # Sums of whole numbers below 2^53 are exact.
            return np.bincount(part, weights, count).astype(np.int64)

        last = mask.shape[1] - 1
        before = luma.values[row, np.maximum(start - _OUTSIDE, 0)].astype(np.int64)
        after = luma.values[row, np.minimum(end - 1 + _OUTSIDE, last)].astype(np.int64)
        top, left = (np.full(count, max(mask.shape), dtype=np.intp) for _ in range(2))
        bottom, right = (np.zeros(count, dtype=np.intp) for _ in range(2))
        np.minimum.at(top, part, row)
        np.maximum.at(bottom, part, row + 1)
        np.minimum.at(left, part, start)
        np.maximum.at(right, part, end)
        return cls(
            (row, start, end, part),
            *(top, bottom, left, right),
            run_count=np.bincount(part, minlength=count),
            area=total(end - start),
            total=total(luma.sums[row, end] - luma.sums[row, start]),
            square_total=total(luma.square_sums[row, end] - luma.square_sums[row, start]),
            outside_total=total(before + after),
            outside_square_total=total(before * before + after * after),
        )

    def mark(self, is_marked: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return a mask of some parts.

        Args:
            is_marked: Which parts to mark.
            shape: The height and width of the mask.
        """
        row, start, end, _ = (values[is_marked[self.runs[3]]] for values in self.runs)
        steps = np.zeros((shape[0], shape[1] + 1), dtype=np.int8)
        steps[row, start] = 1
        steps[row, end] = -1
        return np.asarray(steps.cumsum(axis=1, dtype=np.int8)[:, :-1] > 0)


def group(count: int, one: Indices, other: Indices) -> Indices:
    """Return the smallest member of the group of each of `count` things.

    Args:
        count: How many things there are.
        one: The first of each pair that belongs to one group.
        other: The second of each pair.
    """
    label = np.arange(count)
    while (label[one] != label[other]).any():
        low = np.minimum(label[one], label[other])
        np.minimum.at(label, label[one], low)
        np.minimum.at(label, label[other], low)
        while (label[label] != label).any():
            label = label[label]
    return label


def _runs(mask: NDArray[np.bool_]) -> tuple[Indices, Indices, Indices]:
    """Return row, start and end of each run, in reading order."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1).reshape(-1)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    row, start = np.divmod(starts, width + 1)
    return row, start, ends - row * (width + 1)


def _touching(row: Indices, start: Indices, end: Indices, width: int) -> tuple[Indices, Indices]:
    """Return pairs of runs of neighboring rows that touch, also at a corner."""
    stride = width + 2
    starts, ends = row * stride + start, row * stride + end
    first = np.searchsorted(ends, starts + stride, "left")
    count = np.maximum(np.searchsorted(starts, ends + stride, "right") - first, 0)
    upper = np.repeat(np.arange(len(row)), count)
    place = np.arange(len(upper)) - np.repeat(count.cumsum() - count, count)
    return upper, np.repeat(first, count) + place
