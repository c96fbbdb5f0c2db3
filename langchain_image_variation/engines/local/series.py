"""The shots of a series: what a seed asks for.

Consecutive seeds differ on purpose, like the pictures that somebody takes of one thing: in their
light, in the part of the scene, and in the distance. Each is a function of the seed alone, so image
i of seed s is image 1 of seed s + i - 1.

Images are mirrored unless their seed is a multiple of 4, because people accept a mirrored image as
another picture more often than one that differs only in view and light.
"""

from dataclasses import dataclass
from typing import Self

__all__ = ["MOOD_COUNT", "Shot"]

MOOD_COUNT = 5
"""How many moods of light there are. It is odd, so that each mood occurs on both sides."""

_SIDES = ((-1, -1), (1, -1), (-1, 1), (1, 1))
"""Down and right, for four consecutive seeds, before they are mirrored."""

_MIRROR_PERIOD = 4
"""One of this number of consecutive seeds is not mirrored."""

_DISTANCES = (1.0, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class Shot:
    """What distinguishes the image of one seed from those of its neighbors."""

    mood: int
    """The index of a mood, 0 to 4."""

    side: tuple[int, int]
    """Which part of the source to prefer: -1 or 1, down and right."""

    closeness: float
    """How much to crop, as a share of what the strength allows."""

    is_mirrored: bool

    @classmethod
    def of(cls, seed: int) -> Self:
        """Return the shot of a seed."""
        return cls(
            mood=seed % MOOD_COUNT,
            side=_SIDES[seed % len(_SIDES)],
            closeness=_DISTANCES[seed % len(_DISTANCES)],
            is_mirrored=seed % _MIRROR_PERIOD != 0,
        )
