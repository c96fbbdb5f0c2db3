"""What the engine aims for, as a function of one number: the strength."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Schedule", "schedule"]

# Chosen by eye, on photos and drawings. Reach is what a face or a roof tolerates at that strength.
# Share is the change at which six strengths look evenly spaced. Firmness rises at the end, where
# the sketches with the fewest faults would otherwise be those that changed too little.
_STRENGTH = (0.0, 0.15, 0.3, 0.5, 0.6, 0.7, 0.85, 1.0)
_REACH = (0.003, 0.015, 0.03, 0.05, 0.06, 0.12, 0.2, 0.3)
_SHARE = (0.2, 0.33, 0.5, 0.61, 0.67, 0.75, 0.85, 0.95)
_FIRMNESS = (24, 24, 24, 24, 24, 24, 40, 70)

_BENT_UP_TO = 0.6
"""Up to this strength the image is only bent. Faces, buildings and lines stay whole."""


@dataclass(frozen=True)
class Schedule:
    """What a strength asks for. No number falls or jumps while the strength rises.

    The visible result does jump where `rearranges` begins. From there on, pieces come apart.
    """

    reach: float
    """How far a first guess may move things, as root mean square, in sides of the image. A sketch
    that changes too little is tried again from further away."""

    share: float
    """The wanted change, as a share of the change of an unrelated arrangement."""

    firmness: float
    """How much the squared relative error of the change weighs against faults."""

    rearranges: bool
    """Whether patches are matched again. If not, the source is only bent."""


def schedule(strength: float) -> Schedule:
    """Return what a strength asks for.

    Args:
        strength: 0 (nearly a copy) to 1.
    """
    return Schedule(
        reach=_interpolate(strength, _REACH),
        share=_interpolate(strength, _SHARE),
        firmness=_interpolate(strength, _FIRMNESS),
        rearranges=strength > _BENT_UP_TO,
    )


def _interpolate(strength: float, values: Sequence[float]) -> float:
    # `numpy.interp` may use fused multiply-adds, which round once instead of twice.
    index = max(1, bisect.bisect_left(_STRENGTH, strength))
    low, high = _STRENGTH[index - 1], _STRENGTH[index]
    share = (strength - low) / (high - low)
    return values[index - 1] + share * (values[index] - values[index - 1])
