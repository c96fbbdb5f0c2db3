"""Images as arrays, and the coarse-to-fine levels of the source.

The levels are those of GPNN (arXiv 2103.15545, section 3): one image at sides s_k = s_0 / r^k for
level k with r = 3/4. At the coarsest level, a 7x7 patch covers a large part of the image.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "NODES",
    "Bytes",
    "Floats",
    "Indices",
    "as_floats",
    "deviation",
    "enlarge",
    "gray",
    "resize",
    "sides",
]

Bytes: TypeAlias = NDArray[np.uint8]
"""An image (side, side, channels) of 1 to 4 channels. Color is premultiplied by alpha."""

Floats: TypeAlias = NDArray[np.float32]
"""Computed values. An image as floats holds values from 0 to 1."""

Indices: TypeAlias = NDArray[np.intp]

NODES = 256
"""Side in pixels of the finest level at which patches are compared. Above it, pixels only move."""

_DENSE = 128
"""Side in pixels of the next-to-last level. Between it and `NODES`, there is nothing to decide."""

_RATIO = 0.75


def resize(image: Bytes, side: int) -> Bytes:
    """Resample an image, each channel separately: Lanczos down, bicubic up.

    Args:
        image: uint8 (height, width, channels).
        side: The wanted side in pixels.

    Returns:
        uint8 (side, side, channels).
    """
    if image.shape[:2] == (side, side):
        return image
    smaller = side < image.shape[0]
    kernel = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return _resample(image, side, kernel, (0, 0, *image.shape[1::-1]))


def enlarge(image: Bytes, side: int) -> Bytes:
    """Enlarge an image by an even factor so that its own pixels are among those of the result.

    Lanczos interpolates between them. The center of pixel i of the result lies at (i + 1) / side,
    half a pixel further than usual. Otherwise an even factor would put no pixel onto the source's.

    Args:
        image: uint8 (height, width, channels), a square.
        side: The wanted side in pixels.

    Returns:
        uint8 (side, side, 4). Channels that the image lacks hold anything.
    """
    old_side, _, channels = image.shape
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    half = old_side / side / 2
    kernel, box = Image.Resampling.LANCZOS, (half, half, old_side + half, old_side + half)
    if channels == 3:
        # Pillow stores RGB in four bytes a pixel, so no channel has to be copied alone.
        enlarged = Image.fromarray(padded).resize((side, side), kernel, box)
        words = np.frombuffer(enlarged.tobytes("raw", "RGBX"), dtype=np.uint8)
        return words.reshape(side, side, 4)
    packed = np.zeros((side, side, 4), dtype=np.uint8)
    packed[..., :channels] = _resample(padded, side, kernel, box)
    return packed


def _resample(
    image: Bytes, side: int, kernel: Image.Resampling, box: tuple[float, float, float, float]
) -> Bytes:
    channels = image.shape[2]
    # Pillow has a mode for four plain channels, but none for two. It would weight RGBA by alpha.
    mode = {3: "RGB", 4: "CMYK"}.get(channels, "L")
    groups = [image] if mode != "L" else np.split(image, channels, axis=2)
    images = [Image.frombytes(mode, image.shape[1::-1], group.tobytes()) for group in groups]
    resized = [np.asarray(image.resize((side, side), kernel, box)) for image in images]
    return np.dstack(resized)


def as_floats(image: Bytes) -> Floats:
    """Return an image as values from 0 to 1."""
    return image.astype(np.float32) / np.float32(255)


def gray(image: Bytes) -> Bytes:
    """Return the luma of an image (weights of ITU-R BT.601), or the mean of luma and alpha.

    Alpha is part of it so that a change of outline on a transparent ground counts as a change.

    Returns:
        uint8 (side, side).
    """
    values = image.astype(np.int32)
    channels = values.shape[2]
    luma = values[..., 0]
    if channels > 2:
        luma = (299 * luma + 587 * values[..., 1] + 114 * values[..., 2] + 500) // 1000
    if channels in (2, 4):
        luma = (luma + values[..., -1] + 1) // 2
    return luma.astype(np.uint8)


def deviation(values: NDArray[np.integer[Any]]) -> float:
    """Return the standard deviation of whole numbers. Their sums are exact."""
    exact = values.astype(np.int64)
    total, squares = int(exact.sum()), int((exact * exact).sum())
    return math.sqrt(exact.size * squares - total * total) / exact.size


def sides(start: int) -> list[int]:
    """Return the sides of the levels from `start` to 128 pixels, coarse to fine, about 3/4 apart.

    Args:
        start: Side of the coarsest level in pixels, below 128.
    """
    steps = max(1, round(math.log(_DENSE / start) / math.log(1 / _RATIO)))
    # No side lies near a half, where the last bits of a power could decide.
    return [round(start * (_DENSE / start) ** (step / steps)) for step in range(steps + 1)]
