"""Copying fine grain in small pieces, where the copy cannot be seen.

Bending by fractions of a pixel turns grain into different grain. Copying whole pixels keeps it, as
in image quilting (Efros and Freeman 2001). But copies do not fit where they meet, and an edge that
crosses comes out in steps. The structure tensor J (Förstner and Gülch 1987) tells how visible a
step is: moving a pixel by e changes it by e'Je, to first order. The step is hidden where that is
little compared to the energy of the grain around it (contrast masking). Along a contour, one
eigenvalue of J is far above the other, and only the other one, which is what crosses the contour,
can hide a step.
"""

from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local.pyramid import Bytes, Floats, as_floats

__all__ = ["Grain"]

_SOFT = 1.5
"""Standard deviation in pixels of the blur that keeps edges and removes grain."""

_AVERAGE_REACH, _GRAIN_REACH = 3, 8
"""Reach in pixels of the averages of energies and tensors, and of the area that must be grain
everywhere. An edge has as much energy, but not to its sides."""

_INVISIBLE = (1 / 255) ** 2
"""The squared difference that is invisible even without grain."""

_FLAT = 16
"""The most energy, over the squared range of the plainest 3x3 pixels nearby, that counts as grain.
Energy around flat pixels is lines, letters and dots. They hide nothing, and people see them."""

_HIDDEN = 2.5
"""The most energy of a step, over that of the grain around it, that stays invisible. With less,
detailed photos lose patches at strength 0.5. With more, thin lines in grain come out in steps."""

_CELLS = (24, 12, 6)
"""Sides of the pieces in pixels. A pixel is part of the largest piece that is hidden there."""

_CONTOUR = 3
"""The ratio of eigenvalues that makes a contour."""

_MAX_DISTANCE = 3
"""The distance in pixels up to which the first order holds, about twice `_SOFT`."""


class Grain:
    """Knows where the grain of one source hides steps.

    Args:
        source: uint8 (nodes, nodes, channels).
    """

    def __init__(self, source: Bytes) -> None:
        image = as_floats(source)
        soft = _filter(source, ImageFilter.GaussianBlur(_SOFT))
        grain = np.asarray(image - soft)
        energy = _mean(_product(grain, grain), _AVERAGE_REACH)
        highest, lowest = ImageFilter.MaxFilter(3), ImageFilter.MinFilter(3)
        span = _filter(source, highest) - _filter(source, lowest)
        floor = np.float32(_FLAT) * _minimum(_product(span, span), _GRAIN_REACH)
        hidden_energy = np.minimum(_minimum(energy, _GRAIN_REACH), floor) + np.float32(_INVISIBLE)
        lines = 1 - np.minimum(floor / (energy + np.float32(_INVISIBLE)), 1)
        shapes = soft + grain * lines[..., None]
        self._tensor = _tensor(shapes, _AVERAGE_REACH) / hidden_energy + _contours(
            _tensor(image, _AVERAGE_REACH)
        )

    def copy(self, field: Floats) -> Floats:
        """Round displacements to the same whole pixels over each piece where grain hides it.

        Args:
            field: Displacements (2, nodes, nodes), smooth or in pieces.

        Returns:
            The new field, unchanged where a step would be visible.
        """
        nodes = field.shape[1]
        pixels = field * np.float32(nodes)
        axis = np.arange(nodes)
        from_y, from_x = np.clip(
            np.rint(pixels).astype(np.intp) + np.stack(np.meshgrid(axis, axis, indexing="ij")),
            0,
            nodes - 1,
        )
        down, cross_term, across = self._tensor[:, from_y, from_x]
        result = pixels.copy()
        for cell in reversed(_CELLS):
            middle = np.minimum(axis // cell * cell + cell // 2, nodes - 1)
            whole = np.rint(pixels[:, middle[:, None], middle])
            y, x = whole - pixels
            visibility = down * y * y + cross_term * y * x + across * x * x
            is_hidden = (visibility < _HIDDEN) & (np.maximum(np.abs(y), np.abs(x)) < _MAX_DISTANCE)
            result = np.where(is_hidden, whole, result)
        return np.asarray(result / np.float32(nodes))


def _tensor(image: Floats, reach: int) -> Floats:
    """Return the coefficients of yy, xy and xx in e'Je, (3, side, side)."""
    down, across = (np.asarray(one) for one in np.gradient(image, axis=(0, 1)))
    planes = [_product(down, down), 2 * _product(down, across), _product(across, across)]
    return np.stack([_mean(plane, reach) for plane in planes])


def _product(one: Floats, other: Floats) -> Floats:
    """Return the product at each pixel, averaged over the channels."""
    # `einsum` may use fused multiply-adds, which round once instead of twice.
    planes = np.moveaxis(one * other, 2, 0)
    return np.asarray(reduce(np.add, planes) / np.float32(len(planes)))


def _contours(tensor: Floats) -> Floats:
    """Return how far a tensor exceeds its lesser eigenvalue, relative to it, along contours."""
    yy, xy, xx = tensor
    middle, half = (yy + xx) / 2, np.sqrt((yy - xx) * (yy - xx) + xy * xy) / 2
    lesser = np.maximum(middle - half, 0)
    weight = (middle + half > _CONTOUR * lesser) / (lesser + np.float32(_INVISIBLE))
    return np.asarray(np.stack([yy - lesser, xy, xx - lesser]) * weight, dtype=np.float32)


def _filter(image: Bytes, kernel: ImageFilter.Filter) -> Floats:
    planes = [Image.fromarray(plane).filter(kernel) for plane in np.moveaxis(image, 2, 0)]
    return as_floats(np.dstack([np.asarray(plane) for plane in planes]))


def _mean(plane: Floats, reach: int) -> Floats:
    """Return the mean of the pixels around each pixel, by running sums."""
    size = 2 * reach + 1
    sums = np.pad(plane, (reach + 1, reach), mode="edge").cumsum(axis=0, dtype=np.float64)
    sums = (sums[size:] - sums[:-size]).cumsum(axis=1)
    return np.asarray((sums[:, size:] - sums[:, :-size]) / size**2, dtype=np.float32)


def _minimum(plane: Floats, reach: int) -> Floats:
    """Return the minimum of the pixels around each pixel."""
    padded = np.pad(plane, reach, mode="edge")
    rows = sliding_window_view(padded, 2 * reach + 1, axis=0).min(axis=-1)
    return np.asarray(sliding_window_view(rows, 2 * reach + 1, axis=1).min(axis=-1))
