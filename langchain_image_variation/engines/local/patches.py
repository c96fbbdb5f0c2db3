"""Descriptors of 7x7 patches: coordinates along a few low-frequency cosines, in whole numbers.

GPNN (arXiv 2103.15545, section 3) compares all values of two patches, d(p, q) = |p - q|^2. Pixels
of a patch are so similar that a few directions B carry nearly all of it, |B'(p - q)|^2. TreeCANN
(Olonetsky and Avidan 2012, section 3) uses principal components for the same task. On images,
cosines come close to those (Ahmed, Natarajan and Rao 1974, "Discrete cosine transform"), and they
need no eigenvalue solver, whose results differ between machines. All levels of a source share one
choice of cosines.

A product of whole numbers is exact in float32 as long as every sum stays below 2^24, whatever the
order in which a BLAS adds, with or without fused multiply-adds. So values lie between -128 and 127,
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

__all__ = [
    "PATCH",
    "Contrast",
    "ShortKeys",
    "Values",
    "describe",
    "describe_some",
    "strongest_directions",
]

Values: TypeAlias = NDArray[np.int16]
"""An image in its `Contrast`: whole numbers from -128 to 127, (side, side, channels)."""

ShortKeys: TypeAlias = NDArray[np.int16]
"""Descriptors in half the memory. They are whole numbers up to about 1,600."""

PATCH = 7
"""Side of a patch in pixels, as in GPNN."""

_COMPONENTS = 24
"""How many directions to keep. On photos, the patch they find is about 5 % farther than the
nearest."""

_SAMPLE = 800
"""About how many patches of each level the choice of directions looks at."""

_GRAY_COSINES, _COLOR_COSINES = 24, 8
"""How many cosines to consider for gray or alpha, and for a color difference."""

_SCALE = 4096
"""Entries of a direction are rounded to multiples of 1/4096."""

_ROWS = 32
"""How many rows of patches to lay out at once. All of them would take the memory of 49 images."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Stretches the gray values of a level to -128..127, so that rounding loses little.

    At a coarse level, a dot can differ from its surroundings by a single gray value.
    """

    middle: int
    """The gray value that becomes 0."""

    gain: int
    """The factor of the stretch, a power of two."""

    @classmethod
    def of(cls, image: Bytes) -> Self:
        """Return the contrast with which an image fills the range."""
        low, high = int(image.min()), int(image.max())
        middle = (low + high + 1) // 2
        factor = 128 // max(middle - low, high - middle + 1)
        return cls(middle, 1 << (factor.bit_length() - 1))

    def values(self, image: Bytes) -> Values:
        """Return the values of an image, clipped to the range."""
        return np.clip((image.astype(np.int16) - self.middle) * self.gain, -128, 127)

    def image(self, values: Values) -> Bytes:
        """Return the image that has these values."""
        whole = np.rint(values / np.float32(self.gain)) + np.float32(self.middle)
        return np.clip(whole, 0, 255).astype(np.uint8)


def strongest_directions(images: Sequence[Bytes]) -> Floats:
    """Choose the cosines along which the patches of several images differ most.

    Args:
        images: Levels of one source, each uint8 (side, side, channels).

    Returns:
        float32 (channels * 49, 24) of whole numbers. Up to rounding, columns are orthogonal and of
        length 4096. The strongest comes first.
    """
    cosines = _cosines(images[0].shape[2])
    rows = []
    for image in images:
        windows = _windows(image.astype(np.int16) - 128)
        # No step lies near a half, where the last bits of a power could decide.
        step = max(1, round((windows.shape[0] * windows.shape[1] / _SAMPLE) ** 0.5))
        sample = windows[::step, ::step]
        rows.append(product(sample.reshape(sample.shape[0] * sample.shape[1], -1), cosines))
    coordinates = np.concatenate(rows).astype(np.int64)
    totals = coordinates.sum(axis=0).tolist()
    squares = (coordinates * coordinates).sum(axis=0).tolist()
    # In Python integers, because these exceed 64 bits.
    variances = [
        len(coordinates) * square - total * total
        for total, square in zip(totals, squares, strict=True)
    ]
    order = sorted(range(len(variances)), key=variances.__getitem__, reverse=True)
    return np.ascontiguousarray(cosines[:, order[:_COMPONENTS]])


def describe(values: Values, directions: Floats) -> Floats:
    """Return the descriptors of all patches of an image, row by row.

    Args:
        values: The image in its contrast, (side, side, channels).
        directions: As `strongest_directions` returns them.

    Returns:
        float32 ((side - 6) ** 2, 24) of whole numbers.
    """
    windows = _windows(values)
    span = windows.shape[1]
    result = np.empty((span * span, directions.shape[1]), dtype=np.float32)
    for top in range(0, span, _ROWS):
        rows = windows[top : top + _ROWS].reshape(-1, len(directions))
        result[top * span : top * span + len(rows)] = _coordinates(rows, directions)
    return result


def describe_some(values: Values, directions: Floats, corners: Indices) -> Floats:
    """Return the descriptors of the patches whose flat corner index is in `corners`.

    Args:
        values: The image in its contrast, (side, side, channels).
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
    result *= np.float32(1 / _SCALE)
    return np.asarray(np.rint(result, out=result))


def _cosines(channels: int) -> Floats:
    """Return the low-frequency directions of a patch, one per column, in units of 1/4096.

    No entry lies so close to half a step that the last bits of a cosine decide. A test checks that.
    """
    return np.asarray(np.rint(_waves(channels) * _SCALE), dtype=np.float32)


def _waves(channels: int) -> NDArray[np.float64]:
    """Return the low-frequency directions of a patch, one per column, of length 1.

    Each is a color axis times a two-dimensional cosine. The axes are gray, two color differences if
    there is color, and alpha if there is alpha.
    """
    axis = np.arange(PATCH)
    waves = np.cos(np.pi * np.outer(axis + 0.5, axis) / PATCH) * np.sqrt(2 / PATCH)
    waves[:, 0] /= np.sqrt(2)
    frequencies = sorted(
        itertools.product(axis, axis), key=lambda wave: wave[0] ** 2 + wave[1] ** 2
    )
    colors = np.eye(channels)
    if channels >= 3:
        differences = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
        colors[:3, :3] = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    columns = [
        np.multiply.outer(color, np.outer(waves[:, down], waves[:, across])).reshape(-1)
        for index, color in enumerate(colors)
        for down, across in frequencies[
            : _COLOR_COSINES if index in (1, 2) and channels >= 3 else _GRAY_COSINES
        ]
    ]
    return np.stack(columns, axis=1)


def _windows(values: Values) -> Floats:
    return sliding_window_view(values.astype(np.float32), (PATCH, PATCH), axis=(0, 1))
