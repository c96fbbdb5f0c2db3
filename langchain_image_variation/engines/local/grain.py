"""Copying fine grain in small pieces, where that cannot be seen.

Bent by fractions of a pixel, grain becomes other grain; copied whole it stays its own, as in image
quilting (Efros and Freeman 2001). But copies part from each other where they meet, and an edge that
runs across comes out in steps. How visible a step would be follows from the structure tensor J
(Förstner and Gülch 1987): moving a place by e changes it by e'Je, to first order. It is hidden
where that is little to the energy of the grain around (contrast masking). Along a contour, where
one eigenvalue of J is far above the other, nothing hides a step but what crosses it: the other.
"""

from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local.pyramid import Bytes, Floats, as_floats

__all__ = ["Grain"]

_SOFT = 1.5
"""Standard deviation in pixels of the blur that leaves edges and takes grain."""

_NEAR, _AROUND = 3, 8
"""Pixels each way over which energies and tensors are averaged, and over which grain must be
everywhere: an edge alone has as much, but not beside it."""

_UNSEEN = (1 / 255) ** 2
"""Squared difference that is not seen even without grain."""

_FLAT = 16
"""Energy that there may be around the plainest 3x3 pixels, over the square of their range, and be
grain yet. Around flat ones it is lines, letters, dots: these hide nothing, and are seen."""

_HIDDEN = 2.5
"""Energy of a step, over that of the grain around, up to which eyes find none. With less, photos
full of detail lose patches at strength 0.5; with more, thin lines in grain come out in steps."""

_CELLS = (24, 12, 6)
"""Sides of the pieces in pixels; a place is part of the largest that is hidden there."""

_CONTOUR = 3
"""The ratio of eigenvalues that makes a contour."""

_FAR = 3
"""Pixels up to which the first order holds, about twice `_SOFT`."""


class Grain:
    """Knows where the grain of one source hides steps.

    Args:
        source: uint8 (nodes, nodes, channels).
    """

    def __init__(self, source: Bytes) -> None:
        picture = as_floats(source)
        soft = _filtered(source, ImageFilter.GaussianBlur(_SOFT))
        grain = np.asarray(picture - soft)
        energy = _mean(_product(grain, grain), _NEAR)
        highest, lowest = ImageFilter.MaxFilter(3), ImageFilter.MinFilter(3)
        span = _filtered(source, highest) - _filtered(source, lowest)
        floor = np.float32(_FLAT) * _least(_product(span, span), _AROUND)
        hidden = np.minimum(_least(energy, _AROUND), floor) + np.float32(_UNSEEN)
        lines = 1 - np.minimum(floor / (energy + np.float32(_UNSEEN)), 1)
        shapes = soft + grain * lines[..., None]
        self._tensor = _tensor(shapes, _NEAR) / hidden + _contours(_tensor(picture, _NEAR))

    def copied(self, field: Floats) -> Floats:
        """Make displacements the same whole pixels over pieces where grain hides it.

        Args:
            field: Displacements (2, nodes, nodes), smooth or in pieces.

        Returns:
            The same where it would be seen.
        """
        nodes = field.shape[1]
        moved = field * np.float32(nodes)
        own = np.arange(nodes)
        from_y, from_x = np.clip(
            np.rint(moved).astype(np.intp) + np.stack(np.meshgrid(own, own, indexing="ij")),
            0,
            nodes - 1,
        )
        down, both, across = self._tensor[:, from_y, from_x]
        result = moved.copy()
        for cell in reversed(_CELLS):
            middle = np.minimum(own // cell * cell + cell // 2, nodes - 1)
            whole = np.rint(moved[:, middle[:, None], middle])
            y, x = whole - moved
            seen = down * y * y + both * y * x + across * x * x
            hidden = (seen < _HIDDEN) & (np.maximum(np.abs(y), np.abs(x)) < _FAR)
            result = np.where(hidden, whole, result)
        return np.asarray(result / np.float32(nodes))


def _tensor(picture: Floats, reach: int) -> Floats:
    """The coefficients of yy, xy and xx in e'Je, (3, side, side)."""
    down, across = (np.asarray(one) for one in np.gradient(picture, axis=(0, 1)))
    planes = [_product(down, down), 2 * _product(down, across), _product(across, across)]
    return np.stack([_mean(plane, reach) for plane in planes])


def _product(one: Floats, other: Floats) -> Floats:
    """The product at each pixel, mean over the channels."""
    # Not by `einsum`, which may use fused multiply-adds: they round once instead of twice.
    planes = np.moveaxis(one * other, 2, 0)
    return np.asarray(reduce(np.add, planes) / np.float32(len(planes)))


def _contours(tensor: Floats) -> Floats:
    """The excess of a tensor over its lesser eigenvalue, in units of that, along contours only."""
    yy, xy, xx = tensor
    middle, half = (yy + xx) / 2, np.sqrt((yy - xx) * (yy - xx) + xy * xy) / 2
    lesser = np.maximum(middle - half, 0)
    weight = (middle + half > _CONTOUR * lesser) / (lesser + np.float32(_UNSEEN))
    return np.asarray(np.stack([yy - lesser, xy, xx - lesser]) * weight, dtype=np.float32)


def _filtered(picture: Bytes, kernel: ImageFilter.Filter) -> Floats:
    planes = [Image.fromarray(plane).filter(kernel) for plane in np.moveaxis(picture, 2, 0)]
    return as_floats(np.dstack([np.asarray(plane) for plane in planes]))


def _mean(plane: Floats, reach: int) -> Floats:
    """The mean of the pixels around each, by running sums."""
    size = 2 * reach + 1
    sums = np.pad(plane, (reach + 1, reach), mode="edge").cumsum(axis=0, dtype=np.float64)
    sums = (sums[size:] - sums[:-size]).cumsum(axis=1)
    return np.asarray((sums[:, size:] - sums[:, :-size]) / size**2, dtype=np.float32)


def _least(plane: Floats, reach: int) -> Floats:
    """The least of the pixels around each."""
    padded = np.pad(plane, reach, mode="edge")
    rows = sliding_window_view(padded, 2 * reach + 1, axis=0).min(axis=-1)
    return np.asarray(sliding_window_view(rows, 2 * reach + 1, axis=1).min(axis=-1))
