"""What the engine aims for, as a function of one number: the strength."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Schedule", "schedule"]

# Chosen by eye, on photos and drawings. At 0.5, the change of view and light is plain to see. A
# closer crop adds little to it, and cuts more. At 1, all are as large as faces, buildings and
# horizons allow.
# Sway is what nobody notices. Reach and share belong to arrangements. The last three shares differ
# by more than a sketch may miss, so change rises from each to the next. Firmness rises at the end,
# where the sketches with the fewest faults would otherwise be those that changed too little.
_STRENGTH = (0.0, 0.15, 0.3, 0.5, 0.6, 0.7, 0.85, 1.0)
_CROP = (0.02, 0.05, 0.08, 0.12, 0.13, 0.14, 0.18, 0.28)
_MOTION = (0.1, 0.4, 0.7, 1.0, 1.1, 1.2, 1.4, 1.7)
_LIGHT = (0.1, 0.52, 0.95, 1.45, 1.5, 1.5, 1.55, 1.65)
_SWAY = (0.001, 0.003, 0.006, 0.01, 0.012, 0.014, 0.017, 0.02)
_REACH = (0.06, 0.06, 0.06, 0.06, 0.06, 0.12, 0.2, 0.3)
_SHARE = (0.67, 0.67, 0.67, 0.67, 0.67, 0.75, 0.81, 0.88)
_FIRMNESS = (24, 24, 24, 24, 24, 24, 40, 50)

_MIRRORED_FROM = 0.4
"""From this strength, three of four images are mirrored. Below, that would change too much."""

_ARRANGED_ABOVE = 0.6
"""Above this strength, patches of textures and of many small things are rearranged."""


@dataclass(frozen=True)
class Schedule:
    """What a strength asks for. While it rises, no number falls or jumps.

    The visible result does jump where `mirrors` and `arranges` begin.
    """

    crop: float
    """How much of a side the closest view may crop."""

    motion: float
    """How much the camera turns and tilts, 1 at the default strength."""

    mirrors: bool
    """Whether three of four images are mirrored."""

    light: float
    """How much of a mood's light to apply. Above 1, the mood is stronger."""

    sway: float
    """How far parts may move on their own, as root mean square, in sides of the image."""

    arranges: bool
    """Whether patches are matched again, if the source allows it and the result has few faults."""

    reach: float
    """How far the first guess of an arrangement may move things, as root mean square, in sides of
    the image. A sketch that changes too little is tried again from further away."""

    share: float
    """The wanted change of an arrangement, as a share of that of an unrelated one."""

    firmness: float
    """How much the squared relative error of the change weighs against faults."""


def schedule(strength: float) -> Schedule:
    """Return what a strength asks for.

    Args:
        strength: 0 (nearly a copy) to 1.
    """
    return Schedule(
        crop=_interpolate(strength, _CROP),
        motion=_interpolate(strength, _MOTION),
        mirrors=strength >= _MIRRORED_FROM,
        light=_interpolate(strength, _LIGHT),
        sway=_interpolate(strength, _SWAY),
        arranges=strength > _ARRANGED_ABOVE,
        reach=_interpolate(strength, _REACH),
        share=_interpolate(strength, _SHARE),
        firmness=_interpolate(strength, _FIRMNESS),
    )


def _interpolate(strength: float, values: Sequence[float]) -> float:
    # `numpy.interp` may use fused multiply-adds, which round once instead of twice.
    index = max(1, bisect.bisect_left(_STRENGTH, strength))
    low, high = _STRENGTH[index - 1], _STRENGTH[index]
    share = (strength - low) / (high - low)
    return values[index - 1] + share * (values[index] - values[index - 1])
