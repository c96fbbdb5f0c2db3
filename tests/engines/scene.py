"""An image for tests of the local engine's steps."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["scene"]


def scene(side: int = 256, channels: int = 3) -> NDArray[np.uint8]:
    """A sky, textured ground, and discs of several colors."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([100 + 80 * y, 140 + 40 * y, 230 - 60 * y], axis=2)
    ground = 60 + 50 * generator.random((side, side, 1)) * [1.0, 1.4, 0.6]
    image = np.where((y > 0.6)[..., None], ground, image)
    for _ in range(9):
        cy, cx, radius = generator.uniform(0, 1, 3) * [1, 1, 0.08]
        inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.03 + radius) ** 2
        image[inside] = generator.uniform(0, 255, 3)
    return image.astype(np.uint8)[..., :channels]
