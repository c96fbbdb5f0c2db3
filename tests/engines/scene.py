"""Images for tests of the local engine's steps."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["scene", "stones"]


def scene(side: int = 256, channels: int = 3) -> NDArray[np.uint8]:
    """A sky, textured ground, and discs of several colors."""
    return _draw_scene(side)[..., :channels].copy()


def stones(side: int = 256) -> NDArray[np.uint8]:
    """About a hundred stones of several colors, lit from the left: a source that is rearranged."""
    return _draw_stones(side).copy()


@cache
def _draw_scene(side: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([100 + 80 * y, 140 + 40 * y, 230 - 60 * y], axis=2)
    ground = 60 + 50 * generator.random((side, side, 1)) * [1.0, 1.4, 0.6]
    image = np.where((y > 0.6)[..., None], ground, image)
    for _ in range(9):
        cy, cx, radius = generator.uniform(0, 1, 3) * [1, 1, 0.08]
        inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.03 + radius) ** 2
        image[inside] = generator.uniform(0, 255, 3)
    return image.astype(np.uint8)


@cache
def _draw_stones(side: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(6)
    y, x = np.mgrid[:side, :side] / side
    image = np.full((side, side, 3), 40.0)
    nearest = np.full((side, side), np.inf)
    for row in range(11):
        for column in range(11):
            cy, cx = (np.array([row, column]) + generator.uniform(-0.3, 0.3, 2)) / 10
            distance = 10 * np.hypot(y - cy, x - cx)
            light = 1.1 - 4 * (x - cx) - 0.6 * distance**2
            is_stone = (distance < 0.62) & (distance < nearest)
            color = generator.uniform(60, 200, 3)
            image[is_stone] = light[is_stone, None] * color
            nearest = np.minimum(nearest, distance)
    image += 12 * generator.standard_normal((side, side, 1))
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)
