"""What a picture is about, without a trained network.

The mean of two maps at 64 pixels: how hard it is to reach a place from the border without crossing
a change of color (Zhang et al. 2015, "Minimum barrier salient object detection at 80 fps"), and how
much its color differs from those along each side of the picture.
"""

import numpy as np
from PIL import Image

from quality.photos import SIDE, Bytes
from quality.registration import Floats, box_mean

__all__ = ["salience"]

_SMALL = 64
_BAND = 5
_CLEAR = 0.35
"""A barrier, or a difference, of color from 0 to 1 that makes a place fully salient."""


def salience(image: Bytes) -> Floats:
    """Return how salient each pixel is, 0 to 1.

    Args:
        image: uint8 (256, 256, 3).
    """
    picture = Image.fromarray(image).resize((_SMALL, _SMALL), Image.Resampling.BOX)
    color = np.asarray(picture).astype(np.float32) / 255
    red, green, blue = color[..., 0], color[..., 1], color[..., 2]
    planes = np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue])
    barrier = sum(_barrier(plane) for plane in planes)
    bands = [planes[:, :_BAND], planes[:, -_BAND:], planes[:, :, :_BAND], planes[:, :, -_BAND:]]
    distances = []
    for band in bands:
        values = band.reshape(len(planes), -1)
        center, spread = values.mean(axis=1), values.std(axis=1)
        away = np.abs(planes - center[:, None, None]) - spread[:, None, None]
        distances.append(np.maximum(away, 0).sum(axis=0))
    # A side that shows the object itself must not hide it: the largest distance is left out.
    unlike = (np.sum(distances, axis=0) - np.max(distances, axis=0)) / 3
    small = np.clip((np.asarray(barrier) + unlike) / 2 / _CLEAR, 0, 1)
    soft = Image.fromarray(box_mean(small, 1))
    return np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).clip(0, 1)


def _barrier(plane: Floats) -> Floats:
    """Return the least range of values along a path from the border, by raster scans."""
    side = len(plane)
    distance = np.full((side, side), 9, dtype=np.float32)
    distance[0] = distance[-1] = distance[:, 0] = distance[:, -1] = 0
    high, low = plane.copy(), plane.copy()
    for _ in range(3):
        for _ in range(4):
            for row in range(1, side):
                top = np.maximum(high[row - 1], plane[row])
                bottom = np.minimum(low[row - 1], plane[row])
                better = top - bottom < distance[row]
                distance[row][better] = (top - bottom)[better]
                high[row][better], low[row][better] = top[better], bottom[better]
            distance, high, low, plane = (
                np.ascontiguousarray(np.rot90(one)) for one in (distance, high, low, plane)
            )
    return distance
