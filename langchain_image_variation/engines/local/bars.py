"""The bars that make an image square: they are found, left out, and made again.

`fit="pad"` and `fit="keep"` mirror an image at two of its edges (see `images.padding`). A view of
such a square would show its bars where the image should be. So the image alone is varied, and its
bars are made from the variation.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.pyramid import Floats
from langchain_image_variation.engines.local.salience import Whole
from langchain_image_variation.images.padding import add_blurred_bars, add_mirrored_bars

__all__ = ["Bars"]

_LEAST, _UNLIKE = 40, 16
"""Sides of a square are divided by these for the least bar that is found, and for the largest
difference between both. `fit="keep"` moves the image a little."""

_NARROWEST = 8
"""The longest image whose bars are found, as a multiple of its width. Without a limit, a symmetric
image would count as the two bars of a thin line."""

_COLUMNS = 64
"""How many pixels of a row are compared."""

_ROWS = 6
"""How many rows at each side of an edge must mirror each other. Bars are hardly blurred there."""

_OFFSET = 4
"""Around a row that is this many rows off, the image must not mirror itself as well."""

_RATIO = 8
"""How much worse it must mirror itself there, in halves."""

_PLAIN = 0.4
"""The mean difference in gray levels below which rows are plain, and could mirror any others."""


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of a square."""

    start: int
    """Where the image begins, in pixels."""
    end: int
    """Where it ends, in pixels."""
    side: int
    """The side of the square, in pixels."""
    is_wide: bool
    """Whether the bars are above and below the image, not at its sides."""
    is_blurred: bool

    @classmethod
    def find(cls, image: Image.Image) -> Self | None:
        """Return the bars of a square image in mode L, LA, RGB or RGBA, or None."""
        for is_wide in (True, False):
            rows = _sample(image, is_wide=is_wide)
            edges = _find_edges(rows)
            if edges is not None:
                return cls(*edges, len(rows), is_wide, _is_blurred(rows, *edges))
        return None

    @property
    def aspect(self) -> float:
        """Height over width of the image."""
        length = self.end - self.start
        return length / self.side if self.is_wide else self.side / length

    def cut_off(self, image: Image.Image) -> Image.Image:
        """Return the image without its bars."""
        if self.is_wide:
            return image.crop((0, self.start, self.side, self.end))
        return image.crop((self.start, 0, self.end, self.side))

    def add(self, image: Image.Image) -> Image.Image:
        """Return a variation with bars made from its edges.

        Args:
            image: A square that shows the image without bars, stretched.
        """
        side = image.width
        start = (2 * self.start * side + self.side) // (2 * self.side)
        length = max(1, (2 * (self.end - self.start) * side + self.side) // (2 * self.side))
        start = min(start, side - length)
        size = (side, length) if self.is_wide else (length, side)
        inset = image.resize(size, Image.Resampling.LANCZOS)
        return (add_blurred_bars if self.is_blurred else add_mirrored_bars)(inset, start)


def _sample(image: Image.Image, *, is_wide: bool) -> Whole:
    """Return some pixels of each row of an image, or of each column if its bars are at its sides.

    A copy of all pixels would take as much memory as the image.
    """
    columns = min(image.width, _COLUMNS)
    size = (columns, image.height) if is_wide else (image.width, columns)
    pixels = np.asarray(image.resize(size, Image.Resampling.NEAREST)).astype(np.int64)
    rows = pixels if is_wide else pixels.swapaxes(0, 1)
    return rows.reshape(len(rows), columns, -1)


def _find_edges(rows: Whole) -> tuple[int, int] | None:
    """Return where the image between two bars begins and ends, or None."""
    side = len(rows)
    if side < _LEAST * _ROWS:
        return None
    errors = _mirror_errors(rows)
    others = np.full_like(errors, np.inf)
    others[_OFFSET:-_OFFSET] = np.minimum(errors[: -2 * _OFFSET], errors[2 * _OFFSET :])
    is_mirror = (_RATIO * errors < 2 * others) & (others >= _PLAIN) & np.isfinite(others)
    margin, unlike = side // _LEAST, side // _UNLIKE + 1
    pairs = []
    for place in np.flatnonzero(is_mirror).tolist():
        partners = range(side - place - unlike, side - place + unlike + 1)
        pairs += [(place, end) for end in partners if 0 <= end < side and is_mirror[end]]
    pairs = [
        (start, end)
        for start, end in pairs
        if margin <= start <= end - side // _NARROWEST
        and end <= side - margin
        and _is_continued(rows, start, end)
    ]
    # Mirror images have edges too. Those of the image itself are the innermost, unless the image is
    # a pattern that mirrors itself everywhere.
    wide = [pair for pair in pairs if 3 * (pair[1] - pair[0]) >= side]
    return min(wide or pairs, key=lambda pair: pair[1] - pair[0], default=None)


def _is_continued(rows: Whole, start: int, end: int) -> bool:
    """Return whether both bars mirror the image down to their ends, except for blur."""
    difference = contrast = 0
    for bar, image in (
        (rows[:start][::-1], rows[start:end]),
        (rows[end:], rows[start:end][::-1]),
    ):
        length = min(len(bar), len(image))
        one, other = _blocks(bar[:length]), _blocks(image[:length])
        count = other.shape[0] * other.shape[1]
        deviations = np.abs(count * other - other.sum(axis=(0, 1)))
        difference += int(np.abs(one - other).sum())
        contrast += int(deviations.sum()) // count
    return 4 * difference < contrast


def _blocks(values: Whole) -> Whole:
    """Return the sums of about eight by eight blocks."""
    height, width = (max(1, length // 8) for length in values.shape[:2])
    rows, columns = values.shape[0] // height, values.shape[1] // width
    whole = values[: rows * height, : columns * width]
    return np.asarray(whole.reshape(rows, height, columns, width, -1).sum(axis=(1, 3)))


def _mirror_errors(rows: Whole) -> Floats:
    """Return how badly rows mirror each other around each place, in gray levels, (side,)."""
    side = len(rows)
    values = rows.reshape(side, -1)
    errors = np.full(side, np.inf, dtype=np.float32)
    total = np.zeros(side - 2 * _ROWS + 1, dtype=np.int64)
    for distance in range(_ROWS):
        before = values[_ROWS - 1 - distance : side - _ROWS - distance]
        after = values[_ROWS + distance : side - _ROWS + distance + 1]
        total += np.abs(before - after).sum(axis=1)
    errors[_ROWS : side - _ROWS + 1] = total / (_ROWS * values.shape[1])
    return errors


def _is_blurred(rows: Whole, start: int, end: int) -> bool:
    """Return whether the ends of the bars have less contrast than what they mirror."""
    side = len(rows)
    reach = max(2, min(start, side - end, end - start) // 4)
    mirrored = rows[2 * start - reach : 2 * start], rows[2 * end - side : 2 * end - side + reach]
    if 2 * start > end or 2 * end - side < start:
        # Bars that are larger than the image mirror each other's ends.
        mirrored = rows[start : start + reach], rows[end - reach : end]
    bars = rows[:reach], rows[-reach:]
    return 2 * sum(_energy(one) for one in bars) < sum(_energy(one) for one in mirrored)


def _energy(rows: Whole) -> int:
    """Return the sum of squared differences of neighbors, which blur lowers."""
    differences = rows[1:] - rows[:-1]
    return int((differences * differences).sum())
