"""What makes a variation another picture: a vector of four changes."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from quality.photos import SIDE
from quality.registration import Floats, Registration, sample

__all__ = ["Difference", "difference"]

_TONES = 32


@dataclass(frozen=True)
class Difference:
    """How a variation differs from its source. 0 is the same."""

    framing: float
    """How far the frame moved, as root mean square over its area, in sides."""
    side: float
    """1 if it is mirrored, else 0."""
    light: float
    """How far colors of large areas moved, as root mean square, where white is 1."""
    arrangement: float
    """How far things moved in the frame, as root mean square, in sides."""


def difference(registration: Registration) -> Difference:
    """Measure how a variation differs from its source, part by part."""
    y, x = np.mgrid[8:SIDE:16, 8:SIDE:16]
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    start = points.copy()
    if registration.mirrored:
        start[:, 0] = SIDE - 1 - start[:, 0]
    shift = registration.in_source(points) - start
    return Difference(
        framing=float(np.sqrt(np.mean((shift**2).sum(axis=1)))) / SIDE,
        side=float(registration.mirrored),
        light=_light(registration),
        arrangement=_arrangement(registration),
    )


def _light(registration: Registration) -> float:
    """Compare the colors of large areas at the same place of the scene."""
    y, x = np.mgrid[:SIDE, :SIDE]
    points = registration.in_source(np.stack([x.ravel(), y.ravel()], axis=1).astype(float))
    px, py = points.T.reshape(2, SIDE, SIDE).astype(np.float32)
    aligned = sample(registration.source.astype(np.float32), px, py)
    pairs = [_shrink(aligned), _shrink(registration.variation.astype(np.float32))]
    # Where things moved, the same place is not the same thing: compare the sorted colors as well,
    # and take the smaller difference.
    direct = np.sqrt(np.mean((pairs[0] - pairs[1]) ** 2)) / 255
    ordered = [np.sort(one.reshape(-1, 3), axis=0) for one in pairs]
    sorted_difference = np.sqrt(np.mean((ordered[0] - ordered[1]) ** 2)) / 255
    return float(min(direct, sorted_difference))


def _shrink(image: Floats) -> Floats:
    planes = [Image.fromarray(image[..., k]) for k in range(3)]
    small = [one.resize((_TONES, _TONES), Image.Resampling.BOX) for one in planes]
    return np.stack([np.asarray(one) for one in small], axis=2)


def _arrangement(registration: Registration) -> float:
    """Return how far things moved that were found again."""
    match = registration.backward_match
    weight = np.where(match > 0.5, match, 0)
    squares = (registration.backward**2).sum(axis=2)
    return float(np.sqrt((weight * squares).sum() / max(float(weight.sum()), 1e-6))) / SIDE
