"""Descriptors of 7x7 patches: their coordinates along a few principal directions.

GPNN (arXiv 2103.15545, section 3.1) compares all values of two patches. Pixels of a patch are so
alike that a few principal components carry nearly all of the distance, as TreeCANN (Olonetsky and
Avidan 2012) found for the same task. One basis serves all levels of a source.
"""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["PATCH", "describe", "describe_some", "principal"]

PATCH = 7
"""Side of a patch in pixels (GPNN, section 4)."""

_COMPONENTS = 24
_SAMPLE = 1500
_ROWS = 32


def principal(pictures: Sequence[Floats]) -> Floats:
    """Find the principal directions of the patches of several pictures.

    Args:
        pictures: Levels of one source, each float32 (side, side, channels).

    Returns:
        float32 (channels * 49, 24), orthonormal columns, the strongest first.
    """
    rows = []
    for picture in pictures:
        windows = _windows(picture)
        step = max(1, round((windows.shape[0] * windows.shape[1] / _SAMPLE) ** 0.5))
        some = windows[::step, ::step]
        rows.append(some.reshape(some.shape[0] * some.shape[1], -1))
    _, vectors = np.linalg.eigh(np.cov(np.concatenate(rows), rowvar=False))
    return np.ascontiguousarray(vectors[:, ::-1][:, :_COMPONENTS], dtype=np.float32)


def describe(picture: Floats, basis: Floats) -> Floats:
    """Return the descriptors of all patches of a picture, row by row.

    Args:
        picture: float32 (side, side, channels).
        basis: What `principal` returned.

    Returns:
        float32 ((side - 6) ** 2, 24).
    """
    windows = _windows(picture)
    span = windows.shape[1]
    parts = [
        product(windows[top : top + _ROWS].reshape(-1, len(basis)), basis) for top in range(0, span, _ROWS)
    ]
    return np.concatenate(parts)


def describe_some(picture: Floats, basis: Floats, corners: Indices) -> Floats:
    """Return the descriptors of those patches whose flat corner index is in `corners`.

    Args:
        picture: float32 (side, side, channels).
        basis: What `principal` returned.
        corners: y * (side - 6) + x of each top-left corner.
    """
    windows = _windows(picture)
    y, x = np.divmod(corners, windows.shape[1])
    return np.asarray(product(windows[y, x].reshape(len(corners), -1), basis))


def _windows(picture: Floats) -> Floats:
    return sliding_window_view(picture, (PATCH, PATCH), axis=(0, 1))
