"""The first guess: the source seen through a smooth random change of coordinates.

A random velocity v, a cubic B-spline over a few control cells, is integrated by scaling and
squaring (Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms",
section 3): exp(v) = exp(v / 2^N)^(2^N), where exp(v / 2^N)(x) is about x + v(x) / 2^N, and each of
N squarings composes a map with itself. So the map has no folds at any amplitude. No velocity
crosses a border, so it maps the square onto itself, and nothing comes in from outside.
"""

import math
from functools import cache

import numpy as np

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["flow", "resample", "velocity"]

_LATTICE = 33
"""Vertices along a side. Between 16 per control cell, a cubic looks straight."""

_CELLS = 2
"""Control cells along a side. With more, faces and straight lines waver."""

_SQUARINGS = 5
"""N. The first of 2^5 steps is about a hundredth of the side at full strength."""

_VERTICAL = 0.5
"""Vertical over horizontal speed. Vertical order says more about a scene than horizontal order."""


def velocity(draws: Draws) -> Floats:
    """Draw a smooth random velocity.

    Args:
        draws: The source of randomness.

    Returns:
        float32 (2, 33, 33): y and x component at the vertices of a lattice over the square,
        of root mean square length 1.
    """
    basis = _spline()
    points = range(_CELLS + 3)
    control = draws.normals(2, len(points), len(points))
    # Both products are written term by term. BLAS adds in an order that depends on the processor.
    rows = sum(basis[:, k, None] * control[:, k, None, :] for k in points)
    speed = sum(np.asarray(rows)[..., k, None] * basis[:, k] for k in points)
    position = np.linspace(-1, 1, _LATTICE, dtype=np.float32)
    squared = position * position
    window = 1 - squared * squared
    result = np.asarray(speed)
    result[0] *= np.float32(_VERTICAL) * window[:, None]
    result[1] *= window[None, :]
    length = math.sqrt(math.fsum((result * result).reshape(-1).tolist())) / _LATTICE
    return np.asarray(result / np.float32(length))


def flow(velocity: Floats, amplitude: float) -> Floats:
    """Integrate a velocity over unit time.

    Args:
        velocity: What `velocity` returned.
        amplitude: Its root mean square speed in sides of the image.

    Returns:
        float32 (2, 33, 33): where each vertex comes from minus where it is, in sides.
    """
    axis = np.linspace(0, 1, _LATTICE, dtype=np.float32)
    vertices = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    displacement = velocity * np.float32(amplitude / 2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        displacement = displacement + _read_bilinear(displacement, vertices + displacement)
    return displacement


def resample(displacement: Floats, side: int) -> Floats:
    """Read a lattice of displacements at the pixel centers of an image.

    Args:
        displacement: (2, 33, 33).
        side: Pixels along a side.

    Returns:
        float32 (2, side, side).
    """
    vertices, weights = _cubic_taps(side)
    taps = range(len(weights))
    across = sum(displacement[:, :, vertices[k]] * weights[k] for k in taps)
    down = sum(np.asarray(across)[:, vertices[k]] * weights[k][:, None] for k in taps)
    return np.asarray(down)


def _spline() -> Floats:
    """Return the uniform cubic B-spline basis, (33, control points)."""
    position = np.linspace(0, _CELLS, _LATTICE)[:, None] - np.arange(-1, _CELLS + 2)[None, :]
    distance = np.abs(position)
    excess = np.clip(2 - distance, 0, None)
    inner = 2 / 3 - distance * distance + distance * distance * distance / 2
    outer = excess * excess * excess / 6
    return np.asarray(np.where(distance < 1, inner, outer), dtype=np.float32)


@cache
def _cubic_taps(side: int) -> tuple[Indices, Floats]:
    """Return the taps of cubic convolution (Keys 1981, a = -1/2) at pixel centers.

    Returns:
        For each center the four vertices around it and their weights, both (4, side).
    """
    # The outermost vertices lie on the borders of the image.
    position = (np.arange(side) + 0.5) * ((_LATTICE - 1) / side)
    low = np.minimum(position.astype(np.intp), _LATTICE - 2)
    t = position - low
    weights = np.stack(
        [
            ((2 - t) * t - 1) * t / 2,
            ((3 * t - 5) * t * t + 2) / 2,
            ((4 - 3 * t) * t + 1) * t / 2,
            (t - 1) * t * t / 2,
        ]
    )
    vertices = np.clip(low + np.arange(-1, 3)[:, None], 0, _LATTICE - 1)
    return vertices, weights.astype(np.float32)


def _read_bilinear(field: Floats, points: Floats) -> Floats:
    """Read a lattice at points of the unit square, bilinearly."""
    scaled = np.clip(points, 0, 1) * np.float32(_LATTICE - 1)
    low = np.minimum(scaled.astype(np.intp), _LATTICE - 2)
    fy, fx = scaled - low.astype(np.float32)
    corner = low[0] * _LATTICE + low[1]
    planes = []
    for plane in field.reshape(2, -1):
        top = plane[corner] * (1 - fx) + plane[corner + 1] * fx
        bottom = plane[corner + _LATTICE] * (1 - fx) + plane[corner + _LATTICE + 1] * fx
        planes.append(top * (1 - fy) + bottom * fy)
    return np.stack(planes)
