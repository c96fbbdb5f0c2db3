"""Pictures as arrays, and the coarse-to-fine levels of the source.

The levels are those of GPNN (arXiv 2103.15545, section 3): one picture at sides that shrink by
r = 3/4, s_k = s_0 / r^k for level k, from where a 7x7 patch covers a large part of it.
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
    "grey",
    "resize",
    "sides",
]

Bytes: TypeAlias = NDArray[np.uint8]
"""A picture (side, side, channels), 1 to 4 channels; before alpha, colour is premultiplied."""

Floats: TypeAlias = NDArray[np.float32]
"""Whatever is computed. A picture as floats holds values from 0 to 1."""

Indices: TypeAlias = NDArray[np.intp]

NODES = 256
"""Side in pixels of the finest level at which patches are compared; above it pixels only move."""

_DENSE = 128
"""Side in pixels of the last level but one; between it and `NODES` there is nothing to decide."""

_RATIO = 0.75


def resize(picture: Bytes, side: int) -> Bytes:
    """Resample a picture, each channel by itself: Lanczos down, bicubic up.

    Args:
        picture: uint8 (height, width, channels).
        side: The wanted side in pixels.

    Returns:
        uint8 (side, side, channels).
    """
    if picture.shape[:2] == (side, side):
        return picture
    smaller = side < picture.shape[0]
    kernel = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return _resampled(picture, side, kernel, (0, 0, *picture.shape[1::-1]))


def enlarge(picture: Bytes, side: int) -> Bytes:
    """Enlarge a picture by an even factor so that its own pixels are among those of the result.

    Between them Lanczos interpolates. The centre of pixel i of the result lies at (i + 1) / side,
    half a pixel further than usual, where an even factor puts none onto the source's.

    Args:
        picture: uint8 (height, width, channels), a square.
        side: The wanted side in pixels.

    Returns:
        uint8 (side, side, channels).
    """
    old = picture.shape[0]
    padded = np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge")
    half = old / side / 2
    return _resampled(padded, side, Image.Resampling.LANCZOS, (half, half, old + half, old + half))


def _resampled(
    picture: Bytes, side: int, kernel: Image.Resampling, box: tuple[float, float, float, float]
) -> Bytes:
    channels = picture.shape[2]
    # Four plain channels have a mode in Pillow, two have not; RGBA would be weighted by alpha.
    mode = {3: "RGB", 4: "CMYK"}.get(channels, "L")
    groups = [picture] if mode != "L" else np.split(picture, channels, axis=2)
    images = [Image.frombytes(mode, picture.shape[1::-1], group.tobytes()) for group in groups]
    resized = [np.asarray(image.resize((side, side), kernel, box)) for image in images]
    return np.dstack(resized)


def as_floats(picture: Bytes) -> Floats:
    """Return a picture as values from 0 to 1."""
    return picture.astype(np.float32) / np.float32(255)


def grey(picture: Bytes) -> Bytes:
    """Return the luma of a picture (weights of ITU-R BT.601), or the mean of luma and alpha.

    With alpha in it, a change of outline on transparent ground counts as a change.

    Returns:
        uint8 (side, side).
    """
    values = picture.astype(np.int32)
    channels = values.shape[2]
    luma = values[..., 0]
    if channels > 2:
        luma = (299 * luma + 587 * values[..., 1] + 114 * values[..., 2] + 500) // 1000
    if channels in (2, 4):
        luma = (luma + values[..., -1] + 1) // 2
    return luma.astype(np.uint8)


def deviation(values: NDArray[np.integer[Any]]) -> float:
    """Return the standard deviation of whole numbers, which are summed without any error."""
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
