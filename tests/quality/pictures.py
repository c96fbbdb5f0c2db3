"""Pictures whose measures are known."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Bytes = NDArray[np.uint8]

__all__ = ["Bytes", "bent", "crop", "discs", "lines", "page", "scene"]


def lines() -> Bytes:
    """Vertical bars on grained paper, with a few marks that show where each part is."""
    image = _paper()
    pen = ImageDraw.Draw(image)
    for x in (60, 120, 190):
        pen.rectangle((x, 20, x + 14, 235), (40, 60, 90))
    pen.ellipse((20, 40, 44, 60), (200, 60, 60))
    pen.polygon(((215, 200), (245, 210), (228, 240)), (60, 140, 60))
    return np.asarray(image)


def discs(*centers: tuple[int, int]) -> Bytes:
    """Discs with a cross, on grained paper."""
    image = _paper()
    pen = ImageDraw.Draw(image)
    for x, y in centers:
        pen.ellipse((x - 32, y - 32, x + 32, y + 32), (190, 50, 40))
        pen.line((x - 20, y - 6, x + 18, y + 9), (250, 230, 120), 7)
        pen.line((x - 4, y - 22, x + 9, y + 14), (40, 50, 120), 6)
    return np.asarray(image)


def page() -> Bytes:
    """Words on paper, and one round mark."""
    image = _paper()
    pen = ImageDraw.Draw(image)
    words = ("another time they", "went by the river", "found a small boat", "sailed until dusk")
    for row, text in enumerate(words):
        pen.text((16, 30 + 48 * row), text, (20, 20, 30), ImageFont.load_default(24))
    return np.asarray(image)


def scene() -> Bytes:
    """A house, a sun, a fence and grained ground."""
    image = _paper()
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 170, 256, 256), (110, 150, 90))
    pen.rectangle((90, 100, 160, 185), (180, 80, 70))
    pen.polygon(((80, 100), (125, 60), (170, 100)), (90, 50, 40))
    pen.ellipse((190, 30, 225, 65), (240, 200, 70))
    for x in range(20, 80, 14):
        pen.rectangle((x, 150, x + 5, 190), (80, 60, 40))
    noise = np.random.default_rng(2).normal(0, 5, (256, 256, 1))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def bent(image: Bytes, amplitude: float, period: float) -> Bytes:
    """Move each row sideways by a sine of its height, in pixels."""
    rows = np.arange(256)
    shift = amplitude * np.sin(2 * np.pi * rows / period)
    x = np.clip(np.arange(256)[None, :] + shift[:, None], 0, 255)
    left = np.minimum(x.astype(int), 254)
    part = (x - left)[..., None]
    mixed = image[rows[:, None], left] * (1 - part) + image[rows[:, None], left + 1] * part
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def crop(image: Bytes, left: float, top: float, side: float, *, mirror: bool = False) -> Bytes:
    """Cut out a square and enlarge it to 256 pixels."""
    box = (left, top, left + side, top + side)
    part = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(part)
    return pixels[:, ::-1].copy() if mirror else pixels


def _paper() -> Image.Image:
    """Light paper with soft grain, which can be matched everywhere."""
    noise = np.random.default_rng(1).normal(0, 14, (64, 64)).astype(np.float32)
    grain = np.asarray(Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(205 + grain[..., None] * [1, 1, 0.9], 0, 255).astype(np.uint8))
