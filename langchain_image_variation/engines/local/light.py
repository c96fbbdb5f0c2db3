"""The light of another hour: tone and color, changed by lightness and from top to bottom.

Colors are changed in OKLab. A mood bends the curve of lightness, tints shadows and highlights
differently (split toning), and scales color. Its top and bottom differ, as a sky differs from the
ground. Where a color would leave sRGB, its distance from gray is compressed softly, so that
different colors stay different. Then it is mixed with the original, by the amount.

A table of 17^3 colors holds the result. Pillow interpolates in it with whole numbers.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.oklab import (
    Doubles,
    from_srgb,
    is_displayable,
    to_srgb,
)

__all__ = ["MOODS", "relight"]


@dataclass(frozen=True, slots=True)
class Mood:
    """A kind of light. Numbers are changes of OKLab values, or factors."""

    exposure: float
    contrast: float
    saturation: float
    highlights: tuple[float, float]
    """What is added to a and b where it is light."""
    shadows: tuple[float, float]
    white: float
    """The lightness of white. It is below 1 where white is tinted."""
    black: float
    """The lightness of black."""
    top: tuple[float, float, float]
    """What is added to exposure, a and b at the top of the image."""
    bottom: tuple[float, float, float]

    def strengthen(self, factor: float) -> "Mood":
        """Return a mood that differs from neutral light by a multiple of what this one does."""

        def pair(values: tuple[float, float]) -> tuple[float, float]:
            return factor * values[0], factor * values[1]

        return Mood(
            exposure=factor * self.exposure,
            contrast=factor * self.contrast,
            saturation=1 + factor * (self.saturation - 1),
            highlights=pair(self.highlights),
            shadows=pair(self.shadows),
            white=1 + factor * (self.white - 1),
            black=factor * self.black,
            top=(factor * self.top[0], *pair(self.top[1:])),
            bottom=(factor * self.bottom[0], *pair(self.bottom[1:])),
        )

    def darken_less(self, factor: float) -> "Mood":
        """Return a mood that darkens by a share of what this one does. It brightens as much."""

        def limit(exposure: float) -> float:
            return factor * exposure if exposure < 0 else exposure

        return replace(
            self,
            exposure=limit(self.exposure),
            top=(limit(self.top[0]), *self.top[1:]),
            bottom=(limit(self.bottom[0]), *self.bottom[1:]),
        )


# Chosen by eye, on photos of people, animals, buildings, landscapes and textures.
MOODS = {
    "golden": Mood(
        *(0.02, 0.1, 1.06, (0.02, 0.044), (0.01, 0.004), 0.975, 0.0),
        top=(-0.06, 0.002, -0.02),
        bottom=(0.03, 0.008, 0.014),
    ),
    "dusk": Mood(
        *(-0.17, 0.06, 0.86, (0.022, 0.008), (0.0, -0.048), 0.93, 0.0),
        top=(-0.09, 0.004, -0.022),
        bottom=(0.05, 0.012, 0.022),
    ),
    "vivid": Mood(
        *(-0.01, 0.24, 1.24, (-0.003, 0.01), (-0.002, -0.012), 1.0, 0.0),
        top=(-0.07, -0.002, -0.012),
        bottom=(0.03, 0.0, 0.004),
    ),
    "overcast": Mood(
        *(0.0, -0.16, 0.66, (-0.006, -0.016), (-0.004, -0.022), 0.955, 0.0),
        top=(0.05, -0.001, -0.006),
        bottom=(-0.06, 0.0, 0.0),
    ),
    "morning": Mood(
        *(0.12, -0.1, 0.88, (0.012, 0.026), (-0.006, -0.026), 0.985, 0.07),
        top=(0.04, 0.006, 0.012),
        bottom=(-0.03, -0.002, -0.01),
    ),
}
"""The moods by name, in the order of `Shot.mood`."""

_NODES = 17
"""Nodes of the table along an axis."""

_STEPS = 4080
"""Entries of the table are multiples of 1/4080, so that Pillow's 1/16320 hold them exactly."""

_STRIP, _STRIPS = 8, 64
"""The least height of a strip in pixels, and how many strips a tall image has. From one to the
next, light changes by about half a gray level."""

_KNEE = 0.88
"""The share of the largest displayable distance from gray above which it is compressed."""

_HALVINGS = 9
"""Steps of the search for that distance."""

_DRAW = 0.25
"""How much the numbers of a mood vary from seed to seed, as a share of them."""

_HUE = 0.3
"""How far the colors of a graphic may turn, about in radians."""

_BRIGHT = 0.4
"""The brightness below which an image is darkened less, so that it stays visible."""

_STREAM = 1
"""Separates these draws from the others of the same seed."""


def relight(
    image: Image.Image,
    seed: int,
    mood: int,
    amount: float,
    *,
    brightness: float = 1.0,
    is_gray: bool = False,
    is_graphic: bool = False,
) -> Image.Image:
    """Return an image in the light of a mood.

    Args:
        image: An image in mode L, LA, RGB or RGBA. Alpha does not change.
        seed: The same seed makes the same light.
        mood: The index of the mood in `MOODS`.
        amount: 0 (no change) to 1 (the mood). Above 1, the mood is stronger.
        brightness: The mean gray of the source, 0 to 1. A dark one is darkened less.
        is_gray: Whether the image has no color. Then only tone changes.
        is_graphic: Whether it is a logo or drawing. Then all of it gets the same light, and black,
            gray and white take no tint.
    """
    draws = Draws(seed, _STREAM).uniforms(5)
    light = list(MOODS.values())[mood]
    if amount > 1:
        light, amount = light.strengthen(amount), 1.0
    light = light.darken_less(min(brightness / _BRIGHT, 1.0))
    color, alpha = image, None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        color = image.convert(image.mode[:-1])
    if is_gray or color.mode == "L":
        values = _curve(light, amount, draws, is_graphic=is_graphic)
    else:
        values = _table(light, amount, draws, is_graphic=is_graphic)
    lit = _apply(values[0], color) if is_graphic else _apply_gradient(values, color)
    if alpha is not None:
        lit.putalpha(alpha)
    return lit


def _apply_gradient(values: Doubles, image: Image.Image) -> Image.Image:
    """Apply the values of the top and of the bottom to strips, mixed by their height."""
    width, height = image.size
    lit = Image.new(image.mode, image.size)
    rows = max(_STRIP, height // _STRIPS)
    for top in range(0, height, rows):
        place = min(top + rows / 2, height) / height
        share = place * place * (3 - 2 * place)
        strip = image.crop((0, top, width, min(top + rows, height)))
        lit.paste(_apply(values[0] + share * (values[1] - values[0]), strip), (0, top))
    return lit


def _apply(values: Doubles, image: Image.Image) -> Image.Image:
    """Apply a curve of 256 tones, or a table of colors."""
    if len(values) == 256:
        return image.point(np.rint(values).astype(np.int64).tolist() * len(image.getbands()))
    return image.filter(ImageFilter.Color3DLUT(_NODES, np.rint(values) / _STEPS))


def _curve(mood: Mood, amount: float, draws: list[float], *, is_graphic: bool) -> Doubles:
    """Return the tones of 256 grays at the top and at the bottom, (2, 256), 0 to 255."""
    gray = np.arange(256) / 255
    lightness, _, _ = from_srgb(gray, gray, gray)
    tones = []
    for gradient in (mood.top, mood.bottom):
        changed = _tone(lightness, mood, gradient[0], draws, is_graphic=is_graphic)
        zero = np.zeros(256)
        red, _, _ = to_srgb(changed, zero, zero)
        tones.append(255 * (gray + amount * (red - gray)))
    result = np.clip(tones, 0, 255)
    # Where the curve is steep, rounding must not merge tones with black or white.
    result[:, 1:-1] = np.clip(result[:, 1:-1], 1, 254)
    return np.asarray(result)


def _table(mood: Mood, amount: float, draws: list[float], *, is_graphic: bool) -> Doubles:
    """Return the colors at the top and at the bottom, (2, 17^3 * 3), 0 to 4080."""
    rgb, (lightness, a, b) = _nodes()
    saturation = np.max(rgb, axis=0) - np.min(rgb, axis=0)
    skin = _skin(lightness, a, b)
    light = lightness * lightness * (3 - 2 * lightness)
    # Black takes no tint.
    tint = np.minimum(3 * lightness, 1) * (0.0 if is_graphic else 1 + _DRAW * draws[3])
    # Strongly different saturation or tint would make faces look ill.
    gentle = min(max(mood.saturation, 0.9), 1.08)
    scale = mood.saturation + (gentle - mood.saturation) * skin
    planes = []
    for gradient in (mood.top, mood.bottom):
        tone = _tone(lightness, mood, gradient[0], draws, is_graphic=is_graphic)
        change = tone - lightness
        # A saturated color has no lighter version that is as saturated.
        tone = lightness + np.minimum(change, 0) + np.maximum(change, 0) * (1 - 0.9 * saturation)
        shifts = (
            ((1 - light) * shadow + light * highlight + offset) * tint * (1 - share * skin)
            for shadow, highlight, offset, share in zip(
                mood.shadows, mood.highlights, gradient[1:], (0.4, 0.5), strict=True
            )
        )
        shift_a, shift_b = shifts
        planes.append((tone, a * scale + shift_a, b * scale + shift_b))
    tone, a, b = (np.stack(plane) for plane in zip(*planes, strict=True))
    if is_graphic:
        a, b = a - _HUE * draws[4] * b, b + _HUE * draws[4] * a
    share = _compression(tone, a, b)
    colors = np.stack(to_srgb(tone, a * share, b * share), axis=-1)
    original = np.stack(rgb, axis=-1)
    mixed = original + amount * (colors - original)
    return np.clip(mixed * _STEPS, 0, _STEPS).reshape(2, -1)


def _tone(
    lightness: Doubles,
    mood: Mood,
    gradient: float,
    draws: list[float],
    *,
    is_graphic: bool,
) -> Doubles:
    """Return the lightness that a mood gives to a lightness. Both rise together."""
    exposure = mood.exposure * (1 + _DRAW * draws[0])
    if not is_graphic:
        exposure += gradient * (1 + _DRAW * draws[1])
    contrast = mood.contrast * (1 + _DRAW * draws[2])
    tone = lightness + 2.4 * exposure * lightness * (1 - lightness)
    tone = tone + 4 * contrast * tone * (1 - tone) * (tone - 0.5)
    return tone if is_graphic else mood.black + (mood.white - mood.black) * tone


def _skin(lightness: Doubles, a: Doubles, b: Doubles) -> Doubles:
    """Return how likely colors are those of skin, 0 to 1: orange, and neither pale nor dark."""
    chroma = np.sqrt(a * a + b * b) + 1e-9
    orange = np.clip(((0.64 * a + 0.77 * b) / chroma - 0.85) / 0.12, 0, 1)
    richness = np.clip(chroma / 0.03, 0, 1) * np.clip((0.2 - chroma) / 0.06, 0, 1)
    return np.asarray(orange * richness * np.clip((lightness - 0.3) / 0.2, 0, 1))


def _compression(lightness: Doubles, a: Doubles, b: Doubles) -> Doubles:
    """Return factors of a and b with which colors are displayable and different ones differ."""
    share = np.ones_like(lightness)
    # Most colors are far from the border of sRGB.
    is_near = ~is_displayable(lightness, a / _KNEE, b / _KNEE)
    lightness, a, b = lightness[is_near], a[is_near], b[is_near]
    low, high = np.zeros_like(lightness), np.full_like(lightness, 1 / _KNEE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = is_displayable(lightness, a * middle, b * middle)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    overshoot = 1 / np.maximum(low, 1e-3)
    excess = np.maximum(overshoot - _KNEE, 0) / (1 - _KNEE)
    share[is_near] = (_KNEE + (1 - _KNEE) * excess / (1 + excess)) / overshoot
    return share


@cache
def _nodes() -> tuple[list[Doubles], tuple[Doubles, Doubles, Doubles]]:
    """Return sRGB and OKLab of the nodes of the table, in Pillow's order: red changes fastest."""
    axis = np.arange(_NODES) / (_NODES - 1)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    rgb = [red.reshape(-1), green.reshape(-1), blue.reshape(-1)]
    return rgb, from_srgb(*rgb)
