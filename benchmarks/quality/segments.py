"""Straight segments of a picture.

Regions of pixels whose gradients point the same way are approximated by lines, as in LSD (Grompone
von Gioi et al. 2010, "LSD: a fast line segment detector"). Segments that continue each other are
joined.
"""

import math

import numpy as np
from numpy.typing import NDArray

from quality.registration import Floats, box_mean

__all__ = ["EDGE", "SAME_WAY", "SHORTEST", "Doubles", "gradient", "segments"]

Doubles = NDArray[np.float64]

EDGE = 0.025
"""The least gradient of an edge, in luma per pixel, where black is 0 and white is 1."""

SAME_WAY = math.radians(22.5)
"""Gradients that differ by less than this point the same way."""

SHORTEST = 20
"""The shortest segment that counts, in pixels."""

_THICKEST = 1.3
"""How far the pixels of a segment may be from its line, as root mean square, in pixels."""

_GAP, _ASIDE, _TURNED = 14, 2.0, 0.06
"""How far apart segments that continue each other may be, how far from one line, both in pixels,
and how far turned, in radians."""


def segments(image: Floats) -> Doubles:
    """Return the straight segments of a luma image, (n, 4): x and y of both ends."""
    size, angle = gradient(image)
    order = np.argsort(-size, axis=None)
    order = order[size.flat[order] > EDGE]
    used = size <= EDGE
    angles, taken = angle.tolist(), used.tolist()
    parts = []
    width = image.shape[1]
    for start in order.tolist():
        y, x = divmod(start, width)
        if taken[y][x]:
            continue
        region = _grow(y, x, angles, taken)
        if len(region) >= SHORTEST:
            parts += _as_segment(np.array(region, dtype=float), size)
    return _joined(np.array(parts).reshape(-1, 4))


def gradient(image: Floats) -> tuple[Floats, Floats]:
    """Return the length and the angle of the gradient of luma."""
    soft = box_mean(image, 1)
    down, right = np.gradient(soft)
    return np.hypot(down, right), np.arctan2(down, right)


def _grow(
    y: int, x: int, angles: list[list[float]], taken: list[list[bool]]
) -> list[tuple[int, int]]:
    """Take the connected pixels whose gradients point the same way."""
    height, width = len(angles), len(angles[0])
    cos, sin = math.cos(angles[y][x]), math.sin(angles[y][x])
    mean = angles[y][x]
    region = [(y, x)]
    taken[y][x] = True
    for row, column in region:
        for near_row in range(max(row - 1, 0), min(row + 2, height)):
            for near in range(max(column - 1, 0), min(column + 2, width)):
                if taken[near_row][near]:
                    continue
                other = angles[near_row][near]
                difference = abs(other - mean)
                if min(difference, 2 * math.pi - difference) < SAME_WAY:
                    taken[near_row][near] = True
                    region.append((near_row, near))
                    cos, sin = cos + math.cos(other), sin + math.sin(other)
                    mean = math.atan2(sin, cos)
    return region


def _as_segment(region: Doubles, size: Floats) -> list[tuple[float, float, float, float]]:
    """Approximate a region by a segment, if it is long and thin."""
    weights = size[region[:, 0].astype(int), region[:, 1].astype(int)].astype(float)
    center = np.average(region, axis=0, weights=weights)
    away = region - center
    values, vectors = np.linalg.eigh((away * weights[:, None]).T @ away / weights.sum())
    along = away @ vectors[:, 1]
    low, high = float(along.min()), float(along.max())
    if high - low < SHORTEST or math.sqrt(max(values[0], 0)) > _THICKEST:
        return []
    (y0, x0), (y1, x1) = (center + end * vectors[:, 1] for end in (low, high))
    return [(x0, y0, x1, y1)]


def _joined(parts: Doubles) -> Doubles:
    """Join segments that continue each other, longest first."""
    rest = sorted(parts.tolist(), key=lambda s: -math.hypot(s[2] - s[0], s[3] - s[1]))
    result = []
    while rest:
        current = np.array(rest.pop(0)).reshape(2, 2)
        again = True
        while again:
            again = False
            direction = current[1] - current[0]
            length = float(np.linalg.norm(direction))
            direction = direction / length
            across = np.array([-direction[1], direction[0]])
            for index, other in enumerate(rest):
                ends = np.array(other).reshape(2, 2)
                offsets, places = (ends - current[0]) @ across, (ends - current[0]) @ direction
                gap = max(float(places.min()) - length, -float(places.max()))
                slope = abs(offsets[1] - offsets[0]) / max(abs(places[1] - places[0]), 1e-6)
                if gap < _GAP and np.abs(offsets).max() < _ASIDE and slope < _TURNED:
                    every = np.vstack([current, ends])
                    reach = (every - current[0]) @ direction
                    current = every[[int(reach.argmin()), int(reach.argmax())]]
                    del rest[index]
                    again = True
                    break
        result.append(current.ravel())
    return np.array(result).reshape(-1, 4)
