"""Descriptors of 7x7 patches: their coordinates along a few principal directions.

GPNN (arXiv 2103.15545, section 3) compares all values of two patches, d(p, q) = |p - q|^2. Pixels
of a patch are so alike that a few principal components B carry nearly all of it, |B'(p - q)|^2, as
TreeCANN (Olonetsky and Avidan 2012, section 3) found for the same task. One basis serves all
levels of a source. It is sought among the slow cosines only, where natural patches live: the
problem is then so small that BLAS stays on one thread.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["PATCH", "describe", "describe_some", "principal"]

PATCH = 7
"""Side of a patch in pixels (as GPNN)."""

_COMPONENTS = 24
"""Directions kept: on photos the nearest patch by them is 4 % further than the nearest by all."""

_SAMPLE = 800
"""Patches of each level, about, that the directions are found from."""

_MANY, _FEW = 24, 8
"""Cosines considered for grey or alpha, and for a difference of colours."""

_ROWS = 32
"""Rows of patches laid out at once: all of them would be 49 pictures."""


def principal(pictures: Sequence[Floats]) -> Floats:
    """Find the principal directions of the patches of several pictures.

    Args:
        pictures: Levels of one source, each float32 (side, side, channels).

    Returns:
        float32 (channels * 49, 24), orthonormal columns, the strongest first.
    """
    cosines = _cosines(pictures[0].shape[2])
    rows = []
    for picture in pictures:
        windows = _windows(picture)
        step = max(1, round((windows.shape[0] * windows.shape[1] / _SAMPLE) ** 0.5))
        some = windows[::step, ::step]
        rows.append(product(some.reshape(some.shape[0] * some.shape[1], -1), cosines))
    values = np.concatenate(rows)
    values -= values.mean(axis=0)
    _, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", values, values) / len(values))
    strongest = np.ascontiguousarray(vectors[:, ::-1][:, :_COMPONENTS], dtype=np.float32)
    return product(cosines, strongest)


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
        product(windows[top : top + _ROWS].reshape(-1, len(basis)), basis)
        for top in range(0, span, _ROWS)
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
    return np.asarray(product(windows[y, x].reshape(len(corners), len(basis)), basis))


def _cosines(channels: int) -> Floats:
    """Orthonormal slow directions of a patch, a column each.

    Products of a colour axis and a two-dimensional cosine: grey and, of colour, two differences.
    """
    axis = np.arange(PATCH)
    waves = np.cos(np.pi * np.outer(axis + 0.5, axis) / PATCH) * np.sqrt(2 / PATCH)
    waves[:, 0] /= np.sqrt(2)
    slow = sorted(itertools.product(axis, axis), key=lambda wave: wave[0] ** 2 + wave[1] ** 2)
    colours = np.eye(channels)
    if channels >= 3:
        differences = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
        colours[:3, :3] = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    columns = [
        np.einsum("c,i,j->cij", colour, waves[:, down], waves[:, across]).reshape(-1)
        for index, colour in enumerate(colours)
        for down, across in slow[: _FEW if index in (1, 2) and channels >= 3 else _MANY]
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _windows(picture: Floats) -> Floats:
    return sliding_window_view(picture, (PATCH, PATCH), axis=(0, 1))
