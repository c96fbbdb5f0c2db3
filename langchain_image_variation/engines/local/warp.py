"""The first guess: the source seen through a smooth random change of coordinates.

A random velocity v, cubic B-spline between a few control cells, is integrated by scaling and
squaring (Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms",
section 3): exp(v) = exp(v / 2^N)^(2^N), where exp(v / 2^N)(x) is about x + v(x) / 2^N, and each of
N squarings composes a map with itself. So it has no folds at any amplitude; and as no velocity
crosses a border, it maps the square onto itself: nothing is drawn in from outside.
"""

import math
from functools import cache

import numpy as np

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["flow", "resample", "velocity"]

_LATTICE = 33
"""Vertices along a side: 16 a control cell, between which a cubic is straight for the eye."""

_CELLS = 2
"""Control cells along a side: with more, faces and straight lines waver."""

_SQUARINGS = 5
"""N: the first of 2^5 steps is then about a hundredth of the side at full strength."""

_VERTICAL = 0.5
"""Vertical speed over horizontal: what stands above what says more about a scene than beside."""


def velocity(draws: Draws) -> Floats:
    """Draw a smooth random velocity.

    Args:
        draws: Where the randomness comes from.

    Returns:
        float32 (2, 33, 33): y and x component at the vertices of a lattice over the square,
        of root mean square length 1.
    """
    basis = _spline()
    points = range(_CELLS + 3)
    control = draws.normals(2, len(points), len(points))
    # Both products term by term: BLAS sums in an order that depends on the processor.
    rows = sum(basis[:, k, None] * control[:, k, None, :] for k in points)
    speed = sum(np.asarray(rows)[..., k, None] * basis[:, k] for k in points)
    place = np.linspace(-1, 1, _LATTICE, dtype=np.float32)
    squared = place * place
    inside = 1 - squared * squared
    result = np.asarray(speed)
    result[0] *= np.float32(_VERTICAL) * inside[:, None]
    result[1] *= inside[None, :]
    length = math.sqrt(math.fsum((result * result).reshape(-1).tolist())) / _LATTICE
    return np.asarray(result / np.float32(length))


def flow(velocity: Floats, amplitude: float) -> Floats:
    """Integrate a velocity over unit time.

    Args:
        velocity: What `velocity` returned.
        amplitude: Its root mean square speed in sides of the picture.

    Returns:
        float32 (2, 33, 33): where each vertex comes from, minus where it is, in sides.
    """
    axis = np.linspace(0, 1, _LATTICE, dtype=np.float32)
    vertices = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    moved = velocity * np.float32(amplitude / 2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        moved = moved + _read(moved, vertices + moved)
    return moved


def resample(displacement: Floats, side: int) -> Floats:
    """Read a lattice of displacements at the pixel centres of a picture.

    Args:
        displacement: (2, 33, 33).
        side: Pixels along a side.

    Returns:
        float32 (2, side, side).
    """
    vertices, weights = _cubic(side)
    taps = range(len(weights))
    across = sum(displacement[:, :, vertices[k]] * weights[k] for k in taps)
    down = sum(np.asarray(across)[:, vertices[k]] * weights[k][:, None] for k in taps)
    return np.asarray(down)


def _spline() -> Floats:
    """The uniform cubic B-spline basis, (33, control points)."""
    place = np.linspace(0, _CELLS, _LATTICE)[:, None] - np.arange(-1, _CELLS + 2)[None, :]
    away = np.abs(place)
    beyond = np.clip(2 - away, 0, None)
    inner = 2 / 3 - away * away + away * away * away / 2
    outer = beyond * beyond * beyond / 6
    return np.asarray(np.where(away < 1, inner, outer), dtype=np.float32)


@cache
def _cubic(side: int) -> tuple[Indices, Floats]:
    """Cubic convolution (Keys 1981, a = -1/2) at the pixel centres of a picture.

    Returns:
        For each centre the four vertices around it and their weights, both (4, side).
    """
    # The outermost vertices lie on the borders of the picture.
    place = (np.arange(side) + 0.5) * ((_LATTICE - 1) / side)
    low = np.minimum(place.astype(np.intp), _LATTICE - 2)
    t = place - low
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


def _read(field: Floats, at: Floats) -> Floats:
    """Read a lattice at points of the unit square, bilinearly."""
    scaled = np.clip(at, 0, 1) * np.float32(_LATTICE - 1)
    low = np.minimum(scaled.astype(np.intp), _LATTICE - 2)
    fy, fx = scaled - low.astype(np.float32)
    corner = low[0] * _LATTICE + low[1]
    planes = []
    for plane in field.reshape(2, -1):
        top = plane[corner] * (1 - fx) + plane[corner + 1] * fx
        bottom = plane[corner + _LATTICE] * (1 - fx) + plane[corner + _LATTICE + 1] * fx
        planes.append(top * (1 - fy) + bottom * fy)
    return np.stack(planes)
