"""How the straight lines and ellipses of a source changed in a variation.

Both are found in the source as the frame of the variation shows it. Any frame keeps straight lines
straight and ellipses elliptic, so what bends them is not a change of framing. Each is followed in
the variation, by comparing the profile of the edge point by point.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quality.ellipses import along_ellipse, distances, ellipses, fit_ellipse
from quality.photos import SIDE
from quality.registration import Floats, Registration, luma, sample
from quality.segments import SHORTEST, Doubles, segments

__all__ = ["Bend", "bends"]

_PROFILE, _REACH = 5, 12
"""How much of the edge's profile to compare, and how far to look for it, in pixels."""

_FARTHEST = 30.0
"""How far an edge as a whole may have moved, in pixels."""

_SIDESTEP = 0.15
"""What a step aside costs along an edge, in correlation."""

_FOUND = 0.75
"""The least correlation of an edge's profile that was found."""

_COURSE = 9
"""The number of pixels over which the course of a curve is averaged."""


@dataclass(frozen=True)
class Bend:
    """How a straight line or an ellipse changed."""

    size: float
    """Its length in pixels."""
    found_share: float
    """The share of it that was found in the variation."""
    bend: float
    """How far its course is from a straight line or an ellipse, as root mean square, in pixels."""
    steps: float
    """How jagged it is along its course, as root mean square, in pixels."""
    turn: float
    """How far it turned within the frame, in degrees. 0 for ellipses."""


def bends(registration: Registration) -> list[Bend]:
    """Compare the lines and ellipses of the source with the variation."""
    variation = luma(registration.variation)
    result = []
    for x0, y0, x1, y1 in segments(registration.aligned):
        length = math.hypot(x1 - x0, y1 - y0)
        share = np.linspace(0, 1, round(length) + 1)
        points = np.stack([x0 + share * (x1 - x0), y0 + share * (y1 - y0)], axis=1)
        across = np.repeat(np.array([[y0 - y1, x1 - x0]]) / length, len(points), axis=0)
        offset, is_found = _track(registration, variation, points, across)
        if is_found.sum() < SHORTEST / 2:
            result.append(Bend(length, float(is_found.mean()), 0, 0, 0))
            continue
        slope, residuals = _fit_line(((share - 0.5) * length)[is_found], offset[is_found])
        bend, steps = _bend_and_steps(residuals)
        turn = math.degrees(math.atan(abs(slope)))
        result.append(Bend(length, float(is_found.mean()), bend, steps, turn))
    for scattered in ellipses(registration.aligned):
        conic = fit_ellipse(scattered)
        points, across = along_ellipse(conic)
        offset, is_found = _track(registration, variation, points, across)
        length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        if is_found.sum() < SHORTEST:
            result.append(Bend(length, float(is_found.mean()), 0, 0, 0))
            continue
        moved_points = points[is_found] + offset[is_found, None] * across[is_found]
        bend, steps = _bend_and_steps(distances(fit_ellipse(moved_points), moved_points))
        result.append(Bend(length, float(is_found.mean()), bend, steps, 0))
    return result


def _track(
    registration: Registration, variation: Floats, points: Doubles, across: Doubles
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Find the same edge in the variation.

    Args:
        registration: It says roughly where to look.
        variation: Its luma.
        points: Positions along the edge in the source, one pixel apart.
        across: The unit vector at right angles to the edge, at each of them.

    Returns:
        How far the edge moved across itself at each point, and where it was found for sure.
    """
    x, y = points.astype(np.float32).T
    rough = (sample(registration.forward, x, y) * across).sum(axis=1)
    trust = np.maximum(sample(registration.forward_match, x, y), 0.01)
    # A straight guess: the median of what the field says.
    order = np.argsort(rough)
    middle = np.searchsorted(np.cumsum(trust[order]), trust.sum() / 2)
    start = float(np.clip(rough[order[min(int(middle), len(order) - 1)]], -_FARTHEST, _FARTHEST))
    before = _strip(registration.aligned, points, across, np.arange(-_PROFILE, _PROFILE + 1.0))
    reach = _REACH + _PROFILE
    after = _strip(variation, points, across, start + np.arange(-reach, reach + 1))
    before = _average_along(before)
    windows = sliding_window_view(_average_along(after), len(before[0]), axis=1)
    before = before - before.mean(axis=1, keepdims=True)
    windows = windows - windows.mean(axis=2, keepdims=True)
    scale = np.sqrt((before**2).sum(axis=1)[:, None] * (windows**2).sum(axis=2)) + 1e-3
    score = np.einsum("ik,iok->io", before, windows) / scale
    path = _best_path(score)
    rows = np.arange(len(path))
    inner = np.clip(path, 1, score.shape[1] - 2)
    low, top, high = (score[rows, inner + step] for step in (-1, 0, 1))
    curve = low - 2 * top + high
    part = np.where(curve < -1e-6, (low - high) / (2 * np.minimum(curve, -1e-6)), 0)
    offset = start + inner - _REACH + np.clip(part, -0.5, 0.5)
    moved_points = points + offset[:, None] * across
    inside = sample(registration.inside.astype(np.float32), x, y) > 0.99
    inside &= ((moved_points > 1) & (moved_points < SIDE - 2)).all(axis=1)
    is_found = np.asarray(score[rows, path] > _FOUND, np.bool_) & inside
    return np.asarray(offset, np.float64), np.asarray(is_found, np.bool_)


def _strip(image: Floats, points: Doubles, across: Doubles, steps: NDArray[np.floating]) -> Floats:
    """Read an image on lines across a curve, (points, steps)."""
    places = points[:, None, :] + steps[None, :, None] * across[:, None, :]
    flat = places.reshape(-1, 2).astype(np.float32)
    return sample(image, flat[:, 0], flat[:, 1]).reshape(len(points), -1)


def _average_along(strip: Floats) -> Floats:
    padded = np.pad(strip, ((2, 2), (0, 0)), mode="edge")
    total = sum(padded[k : k + len(strip)] for k in range(5))
    return np.asarray(total / np.float32(5), dtype=np.float32)


def _best_path(score: Floats) -> NDArray[np.intp]:
    """Return the offsets of the highest total score that change by at most one per point."""
    count, width = score.shape
    total, choices = score[0].copy(), np.zeros((count, width), dtype=np.intp)
    for row in range(1, count):
        padded = np.pad(total, 1, constant_values=-1e9)
        options = np.stack([padded[:-2] - _SIDESTEP, padded[1:-1], padded[2:] - _SIDESTEP])
        choices[row] = options.argmax(axis=0) - 1
        total = options.max(axis=0) + score[row]
    path = np.empty(count, dtype=np.intp)
    path[-1] = total.argmax()
    for row in range(count - 1, 0, -1):
        path[row - 1] = path[row] + choices[row, path[row]]
    return path


def _bend_and_steps(residuals: Doubles) -> tuple[float, float]:
    """Split the distances along a curve into its course and its jagged rest."""
    kernel = np.ones(_COURSE) / _COURSE
    padded = np.pad(residuals, _COURSE // 2, mode="reflect")
    course = np.convolve(padded, kernel, mode="valid")
    rest = residuals - course
    return float(np.sqrt(np.mean(course**2))), float(np.sqrt(np.mean(rest**2)))


def _fit_line(position: Doubles, offset: Doubles) -> tuple[float, Doubles]:
    rows = np.stack([position, np.ones_like(position)], axis=1)
    (slope, level), *_ = np.linalg.lstsq(rows, offset, rcond=None)
    return float(slope), offset - slope * position - level
