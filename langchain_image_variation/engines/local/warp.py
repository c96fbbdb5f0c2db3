"""The first guess: the source seen through a smooth random change of coordinates.

A random velocity v, cubic B-spline between a few control cells, is integrated by scaling and
squaring (Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms",
section 3): exp(v) = exp(v / 2^N)^(2^N), where exp(v / 2^N)(x) is about x + v(x) / 2^N, and each of
N squarings composes a map with itself. So it has no folds at any amplitude; and as no velocity
crosses a border, it maps the square onto itself: nothing is drawn in from outside.
"""

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.pyramid import Floats

__all__ = ["flow", "resample", "velocity"]

_LATTICE = 33
"""Vertices along a side: 16 a control cell, between which a cubic is straight for the eye."""

_CELLS = 2
"""Control cells along a side: with more, faces and straight lines waver."""

_SQUARINGS = 5
"""N: the first of 2^5 steps is then about a hundredth of the side at full strength."""

_VERTICAL = 0.5
"""Vertical speed over horizontal: what stands above what says more about a scene than beside."""


def velocity(generator: np.random.Generator) -> Floats:
    """Draw a smooth random velocity.

    Args:
        generator: Where the randomness comes from.

    Returns:
        float32 (2, 33, 33): y and x component at the vertices of a lattice over the square,
        of root mean square length 1.
    """
    basis = _spline()
    control = generator.standard_normal((2, _CELLS + 3, _CELLS + 3)).astype(np.float32)
    speed = basis @ control @ basis.T
    inside = 1 - np.linspace(-1, 1, _LATTICE, dtype=np.float32) ** 4
    speed[0] *= _VERTICAL * inside[:, None]
    speed[1] *= inside[None, :]
    return np.asarray(speed / np.sqrt(np.mean(np.sum(speed**2, axis=0))), dtype=np.float32)


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
    # The outermost vertices lie on the borders: half a lattice pixel in from Pillow's edges.
    box = (0.5, 0.5, _LATTICE - 0.5, _LATTICE - 0.5)
    planes = [
        Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC, box=box)
        for plane in displacement
    ]
    return np.stack([np.asarray(plane) for plane in planes])


def _spline() -> Floats:
    """The uniform cubic B-spline basis, (33, control points)."""
    place = np.linspace(0, _CELLS, _LATTICE)[:, None] - np.arange(-1, _CELLS + 2)[None, :]
    away = np.abs(place)
    inner = 2 / 3 - away**2 + away**3 / 2
    outer = np.clip(2 - away, 0, None) ** 3 / 6
    return np.asarray(np.where(away < 1, inner, outer), dtype=np.float32)


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
