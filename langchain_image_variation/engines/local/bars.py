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

_LEAST, _MOVED = 40, 32
"""The narrowest bar that is found is 1/40 of the side of a square, and `fit="keep"` may move the
image from the center by about 1/32 of it."""

_NARROWEST = 8
"""The longest image whose bars are found, as a multiple of its width. Without a limit, a symmetric
image would count as the two bars of a thin line."""

_COLUMNS = 64
"""How many pixels of a row are compared."""

_ROWS = 4
"""How many rows at each side of an edge must mirror each other. Bars are hardly blurred there."""

_OFFSET = 4
"""Around a row that is this many rows off, the image must not mirror itself as well."""

_RATIO = 8
"""How much worse it must mirror itself there, in halves."""

_PLAIN = 0.4
"""The mean difference in gray levels below which rows are plain, and could mirror any others."""

_DRAWN = 0.5
"""The share of pixels that equal the next one, above which a square is drawn. Drawings are often
nearly symmetric, so their bars must mirror them exactly."""

_CHECKS = 6
"""How many pairs of edges are checked."""

_SYMMETRIES = 2
"""How often an image between bars may mirror itself exactly. A drawn pattern does so everywhere,
and its bars cannot be told from the rest of it."""

_CHECKED_SIDE, _BLOCK = 256, 8
"""The side in pixels at which bars are made again to check them, and that of the blocks whose means
are compared."""

_MISFIT, _EXACT_MISFIT = 0.25, 0.42
"""The difference between bars and those that were made again, over the contrast within them, above
which they are not bars. More may differ if both edges mirror the image exactly: the square was not
scaled, so coincidence is unlikely."""


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
            for start, end, is_exact in _find_edges(rows)[:_CHECKS]:
                kinds = [cls(start, end, len(rows), is_wide, one) for one in (False, True)]
                misfits = [bars.misfit(image) for bars in kinds]
                if min(misfits) < (_EXACT_MISFIT if is_exact else _MISFIT):
                    return kinds[misfits.index(min(misfits))]
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

    def misfit(self, image: Image.Image) -> float:
        """Return how much the bars of a square differ from those made from what is between them.

        Returns:
            The difference of blocks over the contrast between them.
        """
        size = _CHECKED_SIDE, _CHECKED_SIDE
        again = self.add(self.cut_off(image).resize(size, Image.Resampling.BOX))
        one, other = (
            np.asarray(square).astype(np.int64).swapaxes(0, 0 if self.is_wide else 1)
            for square in (image.resize(size, Image.Resampling.BOX), again)
        )
        start, end = (edge * _CHECKED_SIDE // self.side for edge in (self.start, self.end))
        difference = contrast = 0
        for bar in (np.s_[:start], np.s_[end + 1 :]):
            blocks, blocks_again = _blocks(one[bar]), _blocks(other[bar])
            count = blocks.shape[0] * blocks.shape[1]
            deviations = np.abs(count * blocks - blocks.sum(axis=(0, 1)))
            difference += int(np.abs(blocks - blocks_again).sum())
            contrast += int(deviations.sum()) // count
        return difference / contrast if contrast else 1.0

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


def _find_edges(rows: Whole) -> list[tuple[int, int, bool]]:
    """Return where the image between two bars may begin and end, the most likely place first.

    Each place comes with whether the bars mirror the image exactly there.
    """
    side = len(rows)
    if side < _LEAST * _ROWS:
        return []
    errors = _mirror_errors(rows)
    others = np.full_like(errors, np.inf)
    others[_OFFSET:-_OFFSET] = np.minimum(errors[: -2 * _OFFSET], errors[2 * _OFFSET :])
    is_mirror = (_RATIO * errors < 2 * others) & (others >= _PLAIN) & np.isfinite(others)
    if (rows[1:] == rows[:-1]).all(axis=2).mean() >= _DRAWN:
        is_mirror &= errors == 0
    is_exact = is_mirror & (errors == 0)
    margin, moved = side // _LEAST, 2 * (side // _MOVED + 1)
    pairs = []
    for place in np.flatnonzero(is_mirror).tolist():
        partners = range(max(side - place - moved, 0), min(side - place + moved + 1, side))
        pairs += [(place, end) for end in partners if is_mirror[end]]
    places = [
        (start, end, bool(is_exact[start] and is_exact[end]))
        for start, end in pairs
        if margin <= start <= end - side // _NARROWEST
        and end <= side - margin
        and is_exact[start + _OFFSET : end - _OFFSET].sum() <= _SYMMETRIES
    ]

    def rank(place: tuple[int, int, bool]) -> tuple[bool, bool, int]:
        # Mirror images have edges too. Those of the image itself are the innermost.
        start, end, mirrors_exactly = place
        return not mirrors_exactly, 3 * (end - start) < side, end - start

    return sorted(places, key=rank)


def _blocks(values: Whole) -> Whole:
    """Return the sums of blocks."""
    height, width = (max(1, length // _BLOCK) for length in values.shape[:2])
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
