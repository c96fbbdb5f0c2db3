"""Whether the edge of the picture cuts what the picture is about.

The frame of the variation is drawn into the source. What is salient along the frame, and is not
along the nearest edge of the source, is newly cut. What is salient outside the frame is lost.
"""

from dataclasses import dataclass

import numpy as np

from quality.photos import SIDE
from quality.registration import Registration, sample
from quality.salience import salience

__all__ = ["Crop", "crop"]

_NEAR = 3
"""A frame this close to the edge of the source, in pixels, cuts nothing new."""

_DEEP = 10
"""A cut object reaches at least this far inside the frame, in pixels."""


@dataclass(frozen=True)
class Crop:
    """What a frame does to what is salient."""

    cut_length: float
    """The newly cut length along the frame, as a share of the side, weighted by salience."""
    lost_share: float
    """The share of what is salient that lies outside the frame."""


def crop(registration: Registration) -> Crop:
    """Measure what the frame of a variation cuts."""
    salient = salience(registration.source)
    ends = np.linspace(0, SIDE - 1, SIDE)
    total = 0.0
    for axis, level in ((0, 0.0), (0, SIDE - 1.0), (1, 0.0), (1, SIDE - 1.0)):
        edge = np.empty((SIDE, 2))
        edge[:, axis], edge[:, 1 - axis] = level, ends
        deep = edge.copy()
        deep[:, axis] = _DEEP if level == 0 else SIDE - 1 - _DEEP
        on_edge, inner = registration.in_source(edge), registration.in_source(deep)
        outer = 2 * on_edge - inner
        values = [sample(salient, *one.astype(np.float32).T) for one in (on_edge, inner, outer)]
        distance = np.minimum(on_edge, SIDE - 1 - on_edge).min(axis=1)
        # An object is cut where it is on both sides of the frame.
        cut = np.where(distance > _NEAR, np.min(values, axis=0), 0)
        total += float(np.maximum(cut - 0.3, 0).sum()) / 0.7 / SIDE
    corners = registration.in_source(np.array([[0, 0], [255, 0], [255, 255], [0, 255]], float))
    inside = _inside(corners)
    return Crop(total, float(salient[~inside].sum() / max(float(salient.sum()), 1e-6)))


def _inside(corners: np.ndarray) -> np.ndarray:
    """Return which pixels of the source lie in a convex four-sided frame."""
    y, x = np.mgrid[:SIDE, :SIDE]
    sides = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        sides.append((end[0] - start[0]) * (y - start[1]) - (end[1] - start[1]) * (x - start[0]))
    signs = np.stack(sides)
    return np.asarray((signs >= 0).all(axis=0) | (signs <= 0).all(axis=0))
