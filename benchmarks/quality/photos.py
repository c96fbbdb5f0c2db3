"""The photos and drawings that variations are judged and measured on.

Photos are read from the examples and from installed packages, so none is kept here:

    pip install scikit-image scikit-learn matplotlib
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["DRAWINGS", "EXAMPLES", "PHOTOS", "SIDE", "Bytes", "load", "source"]

Bytes = NDArray[np.uint8]

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE = 256

PHOTOS = {
    "lake": ("examples", "lake.jpg"),
    "tea garden": ("examples", "tea-garden.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "clock": ("skimage", "data/clock_motion.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "grass": ("skimage", "data/grass.png"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "page": ("skimage", "data/page.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "portrait": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Photos by name: the package that has it, and its path there."""


def source(name: str) -> Bytes:
    """Return a photo or a drawing by its name, uint8 (256, 256, 3).

    Raises:
        ModuleNotFoundError: If the package that has the photo is not installed.
    """
    if name in DRAWINGS:
        return DRAWINGS[name]()
    package, path = PHOTOS[name]
    return load((EXAMPLES if package == "examples" else _folder(package)) / path)


def load(path: Path) -> Bytes:
    """Read the center square of a photo at 256 pixels."""
    with Image.open(path) as opened:
        rgb = opened.convert("RGB")
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box))


@cache
def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; it has photos that this needs.")
    return Path(spec.origin).parent


def _drawn_house() -> Bytes:
    """Draw a flat house with outlines, a sun and a fence."""
    image = Image.new("RGB", (1024, 1024), (200, 225, 250))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 717, 1024, 1024), (120, 180, 90))
    pen.ellipse((737, 82, 922, 266), (250, 210, 60), (0, 0, 0), 10)
    pen.rectangle((205, 461, 563, 819), (200, 90, 80), (0, 0, 0), 10)
    pen.polygon(((154, 461), (384, 256), (614, 461)), (110, 60, 50), (0, 0, 0), 10)
    pen.rectangle((266, 532, 348, 635), (240, 240, 180), (0, 0, 0), 8)
    pen.rectangle((430, 594, 512, 819), (90, 60, 40), (0, 0, 0), 8)
    for post in range(635, 973, 61):
        pen.line((post, 635, post, 758), (90, 60, 30), 13)
    pen.line((614, 676, 973, 676), (90, 60, 30), 13)
    return _shrink(image)


def _drawn_face() -> Bytes:
    """Draw a face in black lines on white, in a frame."""
    image = Image.new("RGB", (1024, 1024), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((51, 51, 973, 973), None, (0, 0, 0), 12)
    pen.ellipse((205, 154, 819, 870), None, (0, 0, 0), 17)
    for center in (379, 645):
        pen.ellipse((center - 72, 389, center + 72, 492), None, (0, 0, 0), 12)
        pen.ellipse((center - 20, 420, center + 20, 461), (0, 0, 0))
    pen.line((512, 471, 471, 614, 543, 614), (0, 0, 0), 11)
    pen.arc((369, 594, 655, 758), 20, 160, (0, 0, 0), 12)
    return _shrink(image)


def _drawn_street() -> Bytes:
    """Draw towers with windows under an evening sky, in flat colors."""
    image = Image.new("RGB", (1024, 1024), (250, 200, 150))
    pen = ImageDraw.Draw(image)
    pen.ellipse((620, 120, 800, 300), (255, 240, 200))
    towers = ((40, 240, 420), (300, 200, 250), (520, 180, 560), (720, 260, 380))
    for shade, (left, width, top) in enumerate(towers):
        pen.rectangle((left, top, left + width, 900), (70 + 20 * shade, 80, 110 - 10 * shade))
        for x in range(left + 25, left + width - 35, 55):
            for y in range(top + 35, 860, 75):
                lit = (x // 55 + y // 75) % 3 == 0
                pen.rectangle((x, y, x + 28, y + 42), (250, 220, 120) if lit else (40, 50, 70))
    pen.rectangle((0, 900, 1024, 1024), (60, 60, 60))
    for x in range(30, 1024, 130):
        pen.rectangle((x, 955, x + 70, 967), (230, 230, 230))
    return _shrink(image)


def _drawn_sign() -> Bytes:
    """Draw a shop sign with words and a ring."""
    image = Image.new("RGB", (1024, 1024), (240, 235, 220))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((80, 180, 944, 844), 60, (30, 80, 90), (200, 150, 60), 24)
    pen.ellipse((160, 400, 400, 640), None, (240, 235, 220), 28)
    pen.ellipse((240, 480, 320, 560), (200, 150, 60))
    pen.text((450, 360), "FRESH", (240, 235, 220), ImageFont.load_default(140))
    pen.text((450, 510), "BREAD", (240, 235, 220), ImageFont.load_default(140))
    pen.text((450, 690), "daily from 6 to 11", (200, 150, 60), ImageFont.load_default(52))
    return _shrink(image)


def _drawn_balloons() -> Bytes:
    """Draw balloons over hills, with shaded colors."""
    down, across = np.mgrid[:1024, :1024] / 1024
    sky = np.stack([120 + 90 * down, 170 + 50 * down, 235 - 20 * down], axis=2)
    hill = down > 0.72 + 0.06 * np.sin(7 * across) + 0.02 * np.sin(19 * across)
    ground = np.stack([70 + 90 * across, 120 + 30 * across, 60 + 20 * down], axis=2)
    image = np.where(hill[..., None], ground, sky)
    spots = ((0.2, 0.25, 0.1), (0.55, 0.18, 0.08), (0.78, 0.4, 0.12), (0.4, 0.5, 0.07))
    colors = ((220, 60, 50), (240, 190, 60), (70, 90, 200), (200, 90, 170))
    for (x, y, radius), color in zip(spots, colors, strict=True):
        distance = np.hypot(across - x, (down - y) * 0.9) / radius
        light = 1.1 - 0.5 * np.hypot(across - x + radius / 3, down - y + radius / 3) / radius
        stripes = 0.85 + 0.15 * np.sign(np.sin((across - x) / radius * 9))
        shade = np.clip(light * stripes, 0, 1.1)[..., None] * np.array(color)
        image = np.where((distance < 1)[..., None], shade, image)
        basket = (np.abs(across - x) < radius / 5) & (np.abs(down - y - 1.5 * radius) < radius / 7)
        image = np.where(basket[..., None], np.array([90.0, 60, 40]), image)
    return _shrink(Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)))


def _shrink(image: Image.Image) -> Bytes:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


DRAWINGS: dict[str, Callable[[], Bytes]] = {
    "house (drawn)": _drawn_house,
    "face (drawn)": _drawn_face,
    "street (drawn)": _drawn_street,
    "sign (drawn)": _drawn_sign,
    "balloons (drawn)": _drawn_balloons,
}
"""Drawings by name: what draws it."""
