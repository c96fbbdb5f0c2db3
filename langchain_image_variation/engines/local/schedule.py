"""From one number, the strength, to what the engine aims for."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Schedule", "schedule"]

# Set by looking, on photos and drawings: reach is what a face or a roof bears at that strength, and
# share the change at which six strengths look evenly apart. Firmness rises at the end, where the
# least broken sketches would otherwise be those that changed too little.
_STRENGTH = (0.0, 0.15, 0.3, 0.5, 0.6, 0.7, 0.85, 1.0)
_REACH = (0.003, 0.015, 0.03, 0.05, 0.06, 0.12, 0.2, 0.3)
_SHARE = (0.2, 0.33, 0.5, 0.61, 0.67, 0.75, 0.85, 0.95)
_FIRMNESS = (24, 24, 24, 24, 24, 24, 40, 70)

_WHOLE = 0.6
"""Up to this strength the picture is only bent, so that faces, buildings and lines stay whole."""


@dataclass(frozen=True)
class Schedule:
    """What a strength asks for. No number falls or jumps while the strength rises.

    What is seen does jump where `rearranged` begins: from then on pieces part from each other.
    """

    reach: float
    """How far a first guess may move things, root mean square, in sides of the picture. A sketch
    that changed too little is tried again from further."""

    share: float
    """Change wanted, as a share of the change that an unrelated arrangement would bring."""

    firmness: float
    """How much the square of a missed share of that change weighs against faults."""

    rearranged: bool
    """Whether patches are matched anew, or the source is only bent."""


def schedule(strength: float) -> Schedule:
    """Return what a strength asks for.

    Args:
        strength: 0 (nearly a copy) to 1.
    """
    return Schedule(
        reach=_interpolated(strength, _REACH),
        share=_interpolated(strength, _SHARE),
        firmness=_interpolated(strength, _FIRMNESS),
        rearranged=strength > _WHOLE,
    )


def _interpolated(strength: float, values: Sequence[float]) -> float:
    # Not by `numpy.interp`, which may use fused multiply-adds: they round once instead of twice.
    after = max(1, bisect.bisect_left(_STRENGTH, strength))
    low, high = _STRENGTH[after - 1], _STRENGTH[after]
    share = (strength - low) / (high - low)
    return values[after - 1] + share * (values[after] - values[after - 1])
