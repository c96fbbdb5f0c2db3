"""OKLab, a color space in which equal distances look about equally large (Ottosson 2020).

L is lightness, 0 for black to 1 for white. a and b are green to red and blue to yellow. Roots are
computed by Newton's method, whose single operations every machine rounds alike.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Doubles", "from_srgb", "is_displayable", "to_srgb"]

Doubles: TypeAlias = NDArray[np.float64]

_STEPS = 12
"""Steps of Newton's method. From the starting values below, ten reach the last bits."""

_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_FROM_ROOTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_TO_ROOTS = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_CONES = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)

_SLACK = 1e-3
"""How far linear light may leave 0 to 1 and still count as displayable: a third of a gray level."""


def from_srgb(red: Doubles, green: Doubles, blue: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return L, a and b of sRGB values from 0 to 1."""
    light = [_decode(channel) for channel in (red, green, blue)]
    return _multiply(_FROM_ROOTS, [_cube_root(cone) for cone in _multiply(_TO_CONES, light)])


def to_srgb(lightness: Doubles, a: Doubles, b: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return red, green and blue, 0 to 1, of OKLab values. What leaves that range is clipped."""
    red, green, blue = (_encode(np.clip(light, 0, 1)) for light in _linear_light(lightness, a, b))
    return red, green, blue


def is_displayable(lightness: Doubles, a: Doubles, b: Doubles) -> NDArray[np.bool_]:
    """Return where OKLab values are colors of sRGB."""
    lights = _linear_light(lightness, a, b)
    inside = [(light > -_SLACK) & (light < 1 + _SLACK) for light in lights]
    return inside[0] & inside[1] & inside[2]


def _linear_light(lightness: Doubles, a: Doubles, b: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    roots = _multiply(_TO_ROOTS, [lightness, a, b])
    return _multiply(_FROM_CONES, [root * root * root for root in roots])


def _multiply(
    matrix: Sequence[tuple[float, float, float]], values: Sequence[Doubles]
) -> tuple[Doubles, Doubles, Doubles]:
    # Written term by term. BLAS adds in an order that depends on the processor.
    one, other, third = (
        row[0] * values[0] + row[1] * values[1] + row[2] * values[2] for row in matrix
    )
    return one, other, third


def _decode(value: Doubles) -> Doubles:
    """Return the linear light of sRGB values: x^2.4 above a linear start (IEC 61966-2-1)."""
    x = (np.maximum(value, 0.04) + 0.055) / 1.055
    # x^2.4 = x^2 (x^2)^(1/5). A start far below the root would take many steps.
    square, root = x * x, np.sqrt(x)
    for _ in range(_STEPS):
        power = root * root
        root = (4 * root + square / (power * power)) / 5
    return np.where(value <= 0.04045, value / 12.92, square * root)


def _encode(light: Doubles) -> Doubles:
    """Return the sRGB values of linear light: x^(1 / 2.4) above a linear start."""
    # x^(5 / 12) is the fifth power of the cube root of the fourth root.
    root = _cube_root(np.sqrt(np.sqrt(np.maximum(light, 0.003))))
    square = root * root
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * (square * square * root) - 0.055)


def _cube_root(value: Doubles) -> Doubles:
    """Return the cube root of values from 0 to 1."""
    root = np.sqrt(np.sqrt(value)) + 1e-9
    for _ in range(_STEPS):
        root = (2 * root + value / (root * root)) / 3
    return root
