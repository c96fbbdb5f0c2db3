"""A little other light: tone, saturation and hue, drawn for each picture.

Black, white and greys keep their colour: the tone curve fixes both ends and clips nothing, and the
colour matrix fixes the grey axis. Only the richest colours are clipped when made richer yet.
"""

import math

import numpy as np
from PIL import Image

__all__ = ["relight"]

_TONE, _HUE = 0.35, math.radians(6)
_PALER, _RICHER = 0.3, 0.12
"""Largest changes at full strength: of the logarithm of gamma, of hue, and of saturation down and
up; up by less, since rich colours have no room left and would be clipped."""

_STREAM = 1
"""Keeps these draws apart from those that move the picture, which they must not disturb."""


def relight(image: Image.Image, seed: int, strength: float) -> Image.Image:
    """Return a picture in a little other light.

    Args:
        image: A picture in mode L, LA, RGB or RGBA; alpha is left alone.
        seed: The same seed makes the same light.
        strength: 0 (no change) to 1.
    """
    generator = np.random.default_rng([seed, _STREAM])
    tone, saturation, hue = generator.uniform(-1, 1, 3) * strength
    gamma = math.exp(_TONE * tone)
    curve = [round(255 * (value / 255) ** gamma) for value in range(256)]
    colour, alpha = image, None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        colour = image.convert(image.mode[:-1])
    colour = colour.point(curve * len(colour.getbands()))
    saturation *= _RICHER if saturation > 0 else _PALER
    if colour.mode == "RGB":
        colour = colour.convert("RGB", _matrix(1 + saturation, _HUE * hue))
    if alpha is not None:
        colour.putalpha(alpha)
    return colour


def _matrix(saturation: float, hue: float) -> tuple[float, ...]:
    """Turn colours around the grey axis and scale their distance from it; 3 rows of 4 numbers."""
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = math.cos(hue) * (np.eye(3) - axis) + math.sin(hue) * cross
    rows = np.column_stack([axis + saturation * turned, np.zeros(3)])
    return tuple(float(value) for value in rows.reshape(-1))
