"""A little other light: tone, saturation and hue, drawn for each picture.

Tone is a power law, v' = v^g for values from 0 to 1, which fixes black and white and clips nothing.
Colour is turned around the grey axis and scaled from it: c' = m + s R (c - m) with m the grey of c,
R a rotation by the hue. Greys stay grey. R s may lead out of the cube of colours; so s is held to
what the picture has room for, to within two levels of 255, and the turn is left smaller where not
even that is enough.
"""

import math

import numpy as np
from PIL import Image

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.pyramid import Floats, as_floats

__all__ = ["relight"]

_TONE, _HUE = 0.35, math.radians(6)
_PALER, _RICHER = 0.3, 0.12
"""Largest changes at full strength, as far as they still look like light: of the logarithm of
gamma, of hue, and of saturation down and up. Up by less: it soon looks unnatural."""

_TURNS = (1.0, 0.5, 0.25, 0.0)
"""Parts of the hue's turn that are tried, until the picture has room for one."""

_SAMPLE = 128
"""Rows and columns of the pixels that the room is measured on."""

_LOST, _OVER = 0.001, 2 / 255
"""Share of pixels that may be clipped, and how far the others may: neither stray pixels nor a level
or two near white must keep a picture from its light."""

_STEPS = 1024
"""The color matrix is rounded to multiples of 1/1024, so that float32 holds all of Pillow's sums
exactly. The cosine and sine in it differ between libraries by far less."""

_STREAM = 1
"""Keeps these draws apart from those that move the picture of the same seed."""


def relight(image: Image.Image, seed: int, strength: float) -> Image.Image:
    """Return a picture in a little other light.

    Args:
        image: A picture in mode L, LA, RGB or RGBA; alpha is left alone.
        seed: The same seed makes the same light.
        strength: 0 (no change) to 1.
    """
    tone, saturation, hue = (strength * draw for draw in Draws(seed, _STREAM).uniforms(3))
    gamma = math.exp(_TONE * tone)
    # Rounded to whole levels, which hides the last bits of powers. Nothing that was not black or
    # white becomes so.
    inner = (round(255 * (value / 255) ** gamma) for value in range(1, 255))
    curve = [0, *(min(max(value, 1), 254) for value in inner), 255]
    colour, alpha = image, None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        colour = image.convert(image.mode[:-1])
    colour = colour.point(curve * len(colour.getbands()))
    if colour.mode == "RGB":
        wanted = 1 + saturation * (_RICHER if saturation > 0 else _PALER)
        colour = colour.convert("RGB", _fitting(colour, wanted, _HUE * hue, 1 - _PALER * strength))
    if alpha is not None:
        colour.putalpha(alpha)
    return colour


def _fitting(image: Image.Image, wanted: float, hue: float, least: float) -> tuple[float, ...]:
    """Return the change of colour nearest to what is wanted that clips (almost) nothing.

    Args:
        image: In mode RGB.
        wanted: Saturation over that of the image.
        hue: Turn in radians.
        least: The smallest saturation to make room by.

    Returns:
        3 rows of 4 numbers, as Pillow takes them.
    """
    height, width = max(1, image.height // _SAMPLE), max(1, image.width // _SAMPLE)
    colours = as_floats(np.asarray(image)[::height, ::width]).reshape(-1, 3)
    for part in _TURNS:
        turn = _turn(part * hue)
        saturation = min(wanted, _room(colours, turn))
        if saturation >= least:
            break
    whole = np.rint((np.full((3, 3), 1 / 3) + saturation * turn) * _STEPS).astype(int)
    # The rows still sum to one, so that greys stay grey.
    whole[np.arange(3), np.arange(3)] += _STEPS - whole.sum(axis=1)
    rows = np.column_stack([whole / _STEPS, np.zeros(3)])
    return tuple(float(value) for value in rows.reshape(-1))


def _turn(hue: float) -> Floats:
    """Turn colours around the grey axis and take their grey away, (3, 3): Rodrigues' formula."""
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.asarray(math.cos(hue) * (np.eye(3) - axis) + math.sin(hue) * cross, dtype=np.float32)


def _room(colours: Floats, turn: Floats) -> float:
    """Return the largest saturation at which colours (n, 3) stay within 0 to 1 after a turn."""
    red, green, blue = (colours[:, k, None] for k in range(3))
    grey = (red + green + blue) / np.float32(3)
    beyond = red * turn[:, 0] + green * turn[:, 1] + blue * turn[:, 2]
    share = np.abs(beyond) / (np.where(beyond > 0, 1 - grey, grey) + np.float32(_OVER))
    worst = np.sort(share.max(axis=1))
    return 1 / max(float(worst[int((len(worst) - 1) * (1 - _LOST))]), 1e-6)
