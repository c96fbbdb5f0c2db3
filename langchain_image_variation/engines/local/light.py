"""Slightly different light: tone, saturation and hue, drawn for each image.

Tone is a power law, v' = v^g for values from 0 to 1. It keeps black and white and clips nothing.
Color is rotated around the gray axis and scaled away from it: c' = m + s R (c - m), where m is the
gray of c and R a rotation by the hue. Grays stay gray. R s can leave the color cube, so s is
limited to what fits, to within two levels of 255. If that is not enough, the rotation gets smaller.
"""

import math

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Floats, as_floats

__all__ = ["relight"]

_TONE, _HUE = 0.35, math.radians(6)
_PALER, _RICHER = 0.3, 0.12
"""The largest changes at full strength that still look like light: of the logarithm of gamma, of
hue, and of saturation down and up. Saturation goes up less, because more would soon look
unnatural."""

_HUE_SHARES = (1.0, 0.5, 0.25, 0.0)
"""Shares of the hue rotation to try, until the colors of the image have room for one."""

_SAMPLE = 128
"""Rows and columns of the pixels that the limit is measured on."""

_CLIPPED_SHARE, _CLIPPING = 0.001, 2 / 255
"""The share of pixels that may clip freely, and how far the others may clip. Neither stray pixels
nor a level or two near white should prevent the change of light."""

_STEPS = 1024
"""The color matrix is rounded to multiples of 1/1024, so that float32 holds all of Pillow's sums
exactly. The cosine and sine in it differ between libraries by far less."""

_STREAM = 1
"""Separates these draws from those that move the image of the same seed."""


def relight(image: Image.Image, seed: int, strength: float) -> Image.Image:
    """Return an image in slightly different light.

    Args:
        image: An image in mode L, LA, RGB or RGBA. Alpha does not change.
        seed: The same seed makes the same light.
        strength: 0 (no change) to 1.
    """
    tone, saturation, hue = (strength * draw for draw in Draws(seed, _STREAM).uniforms(3))
    gamma = math.exp(_TONE * tone)
    # Rounded to whole levels, which hides the last bits of powers. Only black stays black, and only
    # white stays white.
    inner = (round(255 * (value / 255) ** gamma) for value in range(1, 255))
    curve = [0, *(min(max(value, 1), 254) for value in inner), 255]
    color, alpha = image, None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        color = image.convert(image.mode[:-1])
    color = color.point(curve * len(color.getbands()))
    if color.mode == "RGB":
        factor = 1 + saturation * (_RICHER if saturation > 0 else _PALER)
        matrix = _color_matrix(color, factor, _HUE * hue, 1 - _PALER * strength)
        color = color.convert("RGB", matrix)
    if alpha is not None:
        color.putalpha(alpha)
    return color


def _color_matrix(
    image: Image.Image, saturation: float, hue: float, least: float
) -> tuple[float, ...]:
    """Return the color matrix nearest to the wanted change that clips almost nothing.

    Args:
        image: In mode RGB.
        saturation: The wanted factor of saturation.
        hue: The rotation in radians.
        least: The smallest factor to accept before the rotation gets smaller.

    Returns:
        3 rows of 4 numbers, in the form that Pillow takes.
    """
    height, width = max(1, image.height // _SAMPLE), max(1, image.width // _SAMPLE)
    colors = as_floats(np.asarray(image)[::height, ::width]).reshape(-1, 3)
    for share in _HUE_SHARES:
        rotation = _rotation(share * hue)
        factor = min(saturation, _saturation_limit(colors, rotation))
        if factor >= least:
            break
    whole = np.rint((np.full((3, 3), 1 / 3) + factor * rotation) * _STEPS).astype(int)
    # The rows must still sum to one, so that grays stay gray.
    whole[np.arange(3), np.arange(3)] += _STEPS - whole.sum(axis=1)
    rows = np.column_stack([whole / _STEPS, np.zeros(3)])
    return tuple(float(value) for value in rows.reshape(-1))


def _rotation(hue: float) -> Floats:
    """Return the rotation around the gray axis that also removes gray (Rodrigues' formula)."""
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.asarray(math.cos(hue) * (np.eye(3) - axis) + math.sin(hue) * cross, dtype=np.float32)


def _saturation_limit(colors: Floats, rotation: Floats) -> float:
    """Return the largest saturation at which rotated colors (n, 3) stay within 0 to 1."""
    red, green, blue = (colors[:, k, None] for k in range(3))
    gray = (red + green + blue) / np.float32(3)
    rotated = red * rotation[:, 0] + green * rotation[:, 1] + blue * rotation[:, 2]
    share = np.abs(rotated) / (np.where(rotated > 0, 1 - gray, gray) + np.float32(_CLIPPING))
    worst = np.sort(share.max(axis=1))
    return 1 / max(float(worst[int((len(worst) - 1) * (1 - _CLIPPED_SHARE))]), 1e-6)
