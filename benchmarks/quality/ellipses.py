"""Ellipses in a picture.

Ellipses are fitted to random samples of connected edges (Fitzgibbon et al. 1999, "Direct least
squares fitting of ellipses"). One is kept if most of its course lies on edges that run along it.
"""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from quality.photos import SIDE
from quality.registration import Floats, sample
from quality.segments import EDGE, SAME_WAY, Doubles, gradient

__all__ = ["along_ellipse", "distances", "ellipses", "fit_ellipse"]

_FEWEST = 50
"""The fewest edge pixels of an ellipse."""

_SAMPLES = 80
"""How many random samples to try for each set of connected edges."""

_COVERED = 0.7
"""The share of an ellipse that must lie on edges."""


def ellipses(image: Floats) -> list[Doubles]:
    """Return ellipses of a luma image, each as the positions (n, 2) of its edge pixels."""
    thin = _thin_edges(image)
    angle = gradient(image)[1]
    generator = np.random.default_rng(3)
    result = []
    for chain in _connected(thin):
        points = np.array(chain, dtype=float)[:, ::-1]
        for _ in range(3):
            column, row = points.astype(int).T
            support = _best_ellipse(points, angle[row, column], generator)
            if support is None:
                break
            result.append(points[support])
            points = points[~support]
    return result


def fit_ellipse(points: Doubles) -> Doubles:
    """Return the conic a x^2 + b x y + c y^2 + d x + e y + f closest to the points.

    It is an ellipse unless the points lie on a line.
    """
    x, y = (points / (SIDE / 2) - 1).T
    quadratic = np.stack([x * x, x * y, y * y], axis=1)
    linear = np.stack([x, y, np.ones_like(x)], axis=1)
    scatter = linear.T @ linear + 1e-9 * np.eye(3)
    mixed = quadratic.T @ linear
    reduced = -np.linalg.solve(scatter, mixed.T)
    matrix = quadratic.T @ quadratic + mixed @ reduced
    matrix = np.stack([matrix[2] / 2, -matrix[1], matrix[0] / 2])
    _, vectors = np.linalg.eig(matrix)
    vectors = np.real(vectors)
    condition = 4 * vectors[0] * vectors[2] - vectors[1] ** 2
    first = vectors[:, int(condition.argmax())]
    return np.concatenate([first, reduced @ first])


def distances(conic: Doubles, points: Doubles) -> Doubles:
    """Return how far points are from a conic, to first order, in pixels."""
    x, y = (points / (SIDE / 2) - 1).T
    a, b, c, d, e, f = conic
    value = a * x * x + b * x * y + c * y * y + d * x + e * y + f
    slope = np.hypot(2 * a * x + b * y + d, b * x + 2 * c * y + e)
    return np.asarray(value / np.maximum(slope, 1e-9) * (SIDE / 2))


def along_ellipse(conic: Doubles) -> tuple[Doubles, Doubles]:
    """Return points about a pixel apart on an ellipse, and the unit vectors across it."""
    axes = _axes(conic)
    assert axes is not None
    center, matrix = axes
    radius = float(np.linalg.norm(matrix, axis=0).mean()) * SIDE / 2
    angles = np.linspace(0, 2 * math.pi, round(2 * math.pi * radius), endpoint=False)
    unit = np.stack([np.cos(angles), np.sin(angles)])
    points = ((matrix @ unit).T + center + 1) * (SIDE / 2)
    normal = np.linalg.solve(matrix.T, unit).T
    return points, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _thin_edges(image: Floats) -> NDArray[np.bool_]:
    """Return the pixels where the gradient is largest along its own direction."""
    size, angle = gradient(image)
    y, x = np.mgrid[: size.shape[0], : size.shape[1]].astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    ahead, behind = sample(size, x + cos, y + sin), sample(size, x - cos, y - sin)
    return (size > EDGE) & (size >= ahead) & (size > behind)


def _connected(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Return the connected sets of pixels that are long enough for an ellipse."""
    rest = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    result = []
    while rest:
        queue = deque([rest.pop()])
        chain = []
        while queue:
            y, x = queue.popleft()
            chain.append((y, x))
            for dy in (-2, -1, 0, 1, 2):
                for dx in (-2, -1, 0, 1, 2):
                    near = (y + dy, x + dx)
                    if near in rest:
                        rest.remove(near)
                        queue.append(near)
        if len(chain) >= _FEWEST:
            result.append(chain)
    return result


def _best_ellipse(
    points: Doubles, angles: Floats, generator: np.random.Generator
) -> NDArray[np.bool_] | None:
    """Return which points lie on one ellipse that they cover for the most part, if any."""
    if len(points) < _FEWEST:
        return None
    best, most = None, 40
    for _ in range(_SAMPLES):
        chosen = points[generator.integers(0, len(points), 6)]
        conic = fit_ellipse(chosen)
        if not _is_round(conic):
            continue
        near = _on_ellipse(conic, points, angles, 1.2)
        if near.sum() > most:
            best, most = near, int(near.sum())
    if best is None:
        return None
    conic = fit_ellipse(points[best])
    near = _on_ellipse(conic, points, angles, 1.5)
    if not _is_round(conic) or near.sum() < 40:
        return None
    return near if _coverage(conic, points[near]) > _COVERED else None


def _on_ellipse(
    conic: Doubles, points: Doubles, angles: Floats, tolerance: float
) -> NDArray[np.bool_]:
    """Return which points are on a conic, with an edge there that runs along it."""
    x, y = (points / (SIDE / 2) - 1).T
    a, b, c, d, e, _ = conic
    difference = np.arctan2(b * x + 2 * c * y + e, 2 * a * x + b * y + d) - angles
    along = np.abs(np.cos(difference)) > math.cos(SAME_WAY)
    return np.asarray((np.abs(distances(conic, points)) < tolerance) & along)


def _axes(conic: Doubles) -> tuple[Doubles, Doubles] | None:
    """Return the center and the matrix that maps the unit circle onto the ellipse."""
    a, b, c, d, e, f = conic
    matrix = np.array([[a, b / 2], [b / 2, c]])
    if 4 * a * c - b * b <= 1e-9:
        return None
    center = np.linalg.solve(2 * matrix, [-d, -e])
    level = center @ matrix @ center - f
    values, vectors = np.linalg.eigh(matrix / level if level else matrix)
    if level == 0 or values.min() <= 1e-6:
        return None
    return center, vectors / np.sqrt(values)


def _is_round(conic: Doubles) -> bool:
    """Return whether an ellipse is large enough to be seen, and not so narrow that it is a line."""
    axes = _axes(conic)
    if axes is None:
        return False
    long, short = sorted((np.linalg.norm(axes[1], axis=0) * SIDE / 2).tolist(), reverse=True)
    return bool(8 < short and long < 0.8 * SIDE and short / long > 0.3)


def _coverage(conic: Doubles, points: Doubles) -> float:
    """Return the share of the ellipse's directions in which there are points."""
    axes = _axes(conic)
    if axes is None:
        return 0.0
    unit = np.linalg.solve(axes[1], (points / (SIDE / 2) - 1 - axes[0]).T)
    directions = np.arctan2(unit[1], unit[0])
    return float((np.histogram(directions, 36, (-math.pi, math.pi))[0] > 0).mean())
