"""Descriptors of 7x7 patches: their coordinates along a few slow cosines, in whole numbers.

GPNN (arXiv 2103.15545, section 3) compares all values of two patches, d(p, q) = |p - q|^2. Pixels
of a patch are so alike that a few directions B carry nearly all of it, |B'(p - q)|^2. TreeCANN
(Olonetsky and Avidan 2012, section 3) takes principal components for the same task. Cosines come
close to those on images (Ahmed, Natarajan and Rao 1974, "Discrete cosine transform"), and no
solver of eigenvalues, which differ from machine to machine, has to find them. One choice of them
serves all levels of a source.

A product of whole numbers is exact in float32 as long as every sum stays below 2^24, in whatever
order a BLAS adds, with or without fused multiply-adds. So values lie between -128 and 127, the
entries of directions are rounded to 1/4096, and coordinates to whole numbers. Then each partial sum
of a coordinate is at most about 128 * 4096 * sqrt(147), 38 % of 2^24. Each partial sum of a squared
distance is at most about 4 * 128^2 * 196, 77 % of 2^24 once all roundings are counted.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Bytes, Floats, Indices

__all__ = ["PATCH", "Contrast", "Values", "describe", "describe_some", "strongest_directions"]

Values: TypeAlias = NDArray[np.int16]
"""A picture as its `Contrast` holds it: whole numbers from -128 to 127, (side, side, channels)."""

PATCH = 7
"""Side of a patch in pixels (as GPNN)."""

_COMPONENTS = 24
"""Directions kept. On photos, the patch they find is about 5 % farther than the true nearest."""

_SAMPLE = 800
"""Patches of each level, about, that the directions are chosen by."""

_MANY, _FEW = 24, 8
"""Cosines considered for grey or alpha, and for a difference of colours."""

_GRID = 4096
"""Entries of a direction are rounded to multiples of 1/4096."""

_ROWS = 32
"""Rows of patches laid out at once: all of them would be 49 pictures."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Stretches a level's grey values to -128..127, so that rounding loses little.

    At a coarse level, a dot may differ from its surroundings by a single grey value.
    """

    middle: int
    """The grey value that becomes 0."""

    gain: int
    """The factor of the stretch, a power of two."""

    @classmethod
    def of(cls, picture: Bytes) -> Self:
        """Return the contrast that lets a picture fill the range."""
        low, high = int(picture.min()), int(picture.max())
        middle = (low + high + 1) // 2
        room = 128 // max(middle - low, high - middle + 1)
        return cls(middle, 1 << (room.bit_length() - 1))

    def values(self, picture: Bytes) -> Values:
        """Return a picture's values; what lies beyond the range is moved to its end."""
        return np.clip((picture.astype(np.int16) - self.middle) * self.gain, -128, 127)

    def picture(self, values: Values) -> Bytes:
        """Return the picture that has certain values."""
        whole = np.rint(values / np.float32(self.gain)) + np.float32(self.middle)
        return np.clip(whole, 0, 255).astype(np.uint8)


def strongest_directions(pictures: Sequence[Bytes]) -> Floats:
    """Choose the cosines along which the patches of several pictures differ most.

    Args:
        pictures: Levels of one source, each uint8 (side, side, channels).

    Returns:
        float32 (channels * 49, 24) of whole numbers. Columns are orthogonal and of length 4096,
        but for the rounding of their entries; the strongest comes first.
    """
    cosines = _cosines(pictures[0].shape[2])
    rows = []
    for picture in pictures:
        windows = _windows(picture.astype(np.int16) - 128)
        # No step lies near a half, where the last bits of a power could decide.
        step = max(1, round((windows.shape[0] * windows.shape[1] / _SAMPLE) ** 0.5))
        some = windows[::step, ::step]
        rows.append(product(some.reshape(some.shape[0] * some.shape[1], -1), cosines))
    coordinates = np.concatenate(rows).astype(np.int64)
    totals = coordinates.sum(axis=0).tolist()
    squares = (coordinates * coordinates).sum(axis=0).tolist()
    # In Python's whole numbers: these exceed 64 bits.
    variances = [
        len(coordinates) * square - total * total
        for total, square in zip(totals, squares, strict=True)
    ]
    order = sorted(range(len(variances)), key=variances.__getitem__, reverse=True)
    return np.ascontiguousarray(cosines[:, order[:_COMPONENTS]])


def describe(values: Values, directions: Floats) -> Floats:
    """Return the descriptors of all patches of a picture, row by row.

    Args:
        values: The picture in its contrast, (side, side, channels).
        directions: As `strongest_directions` returns them.

    Returns:
        float32 ((side - 6) ** 2, 24) of whole numbers.
    """
    windows = _windows(values)
    span = windows.shape[1]
    parts = [
        _coordinates(windows[top : top + _ROWS].reshape(-1, len(directions)), directions)
        for top in range(0, span, _ROWS)
    ]
    return np.concatenate(parts)


def describe_some(values: Values, directions: Floats, corners: Indices) -> Floats:
    """Return the descriptors of those patches whose flat corner index is in `corners`.

    Args:
        values: The picture in its contrast, (side, side, channels).
        directions: As `strongest_directions` returns them.
        corners: y * (side - 6) + x of each top-left corner.

    Returns:
        float32 (n, 24) of whole numbers.
    """
    windows = _windows(values)
    y, x = np.divmod(corners, windows.shape[1])
    return _coordinates(windows[y, x].reshape(len(corners), len(directions)), directions)


def _coordinates(patches: Floats, directions: Floats) -> Floats:
    result = product(patches, directions)
    result *= np.float32(1 / _GRID)
    return np.asarray(np.rint(result, out=result))


def _cosines(channels: int) -> Floats:
    """The slow directions of a patch, a column each, as whole numbers of 1/4096.

    No entry lies so near to half a step that the last bits of a cosine decide; a test checks that.
    """
    return np.asarray(np.rint(_waves(channels) * _GRID), dtype=np.float32)


def _waves(channels: int) -> NDArray[np.float64]:
    """The slow directions of a patch, a column each, of length 1.

    Each is a color axis times a two-dimensional cosine. The axes are grey, two color differences if
    there is color, and alpha if there is alpha.
    """
    axis = np.arange(PATCH)
    waves = np.cos(np.pi * np.outer(axis + 0.5, axis) / PATCH) * np.sqrt(2 / PATCH)
    waves[:, 0] /= np.sqrt(2)
    slow = sorted(itertools.product(axis, axis), key=lambda wave: wave[0] ** 2 + wave[1] ** 2)
    colours = np.eye(channels)
    if channels >= 3:
        differences = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
        colours[:3, :3] = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    columns = [
        np.multiply.outer(colour, np.outer(waves[:, down], waves[:, across])).reshape(-1)
        for index, colour in enumerate(colours)
        for down, across in slow[: _FEW if index in (1, 2) and channels >= 3 else _MANY]
    ]
    return np.stack(columns, axis=1)


def _windows(values: Values) -> Floats:
    return sliding_window_view(values.astype(np.float32), (PATCH, PATCH), axis=(0, 1))
