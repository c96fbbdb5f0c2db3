"""Pieces of the source in a variation: torn apart, shown twice, or left out.

Patches of 9 x 9 pixels at half size are matched by normalized cross-correlation: first near the
place that the registration expects, then anywhere in the source. A patch of the variation without
a match was not in the source. A patch of the source that distant patches of the variation match is
there twice. Where neighbors come from distant places, the variation is torn.

Each patch counts by its contrast, and by how salient the place is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from quality.registration import Floats, Registration, box_mean, luma, sample
from quality.salience import salience

__all__ = ["Pieces", "pieces"]

_SIDE = 128
_PATCH = 9
_DIMENSIONS = 24
_FLAT = 0.03
"""A standard deviation of luma below this, from 0 to 1, is too flat to be matched."""

_MATCH = 0.75
"""The least correlation of a match."""

_SURE = 0.06
"""A distant match must be better than the near one by this."""

_APART = 6
"""Displacements that differ by this many pixels, at half size, are apart."""

_ELSEWHERE = 10
"""A patch is elsewhere if it is more than this many pixels away, at half size."""

_UNLIKE, _ALIKE = 0.55, 0.9
"""Correlations with the most similar patch elsewhere, between which uniqueness falls to 0."""


@dataclass(frozen=True)
class Pieces:
    """Shares from 0 to 1, of what is salient and has contrast."""

    unexplained_share: float
    """Of the variation: what is not in the source."""
    torn_share: float
    """Of the variation: what joins distant places of the source."""
    doubled_share: float
    """Of the source: what is there twice."""
    missing_share: float
    """Of the source, inside the frame: what is not there at all."""
    unique_share: float
    """Of the source, inside the frame: what looks like nothing else in it. Textures have little."""


def pieces(registration: Registration) -> Pieces:
    """Measure how a variation tears, doubles and loses pieces of its source."""
    query, key = _halve(luma(registration.variation)), _halve(registration.aligned)
    queries, query_spread = _descriptors(query)
    keys, key_spread = _descriptors(key)
    basis = _basis(keys)
    queries, keys = queries @ basis, keys @ basis
    count = _SIDE - _PATCH + 1
    middle = _PATCH // 2

    y, x = (one.reshape(-1).astype(np.float32) for one in np.mgrid[:count, :count])
    inner = slice(middle, middle + count), slice(middle, middle + count)
    local_field = _halved_field(registration.backward)[inner]
    near_x = np.clip(np.rint(x + local_field[..., 0].reshape(-1)), 0, count - 1).astype(int)
    near_y = np.clip(np.rint(y + local_field[..., 1].reshape(-1)), 0, count - 1).astype(int)
    is_inside = _halve(registration.inside.astype(np.float32))[inner].reshape(-1) > 0.99
    near_index = near_y * count + near_x
    near_match = np.einsum("ij,ij->i", queries, keys[near_index])
    best_index, best_match = _nearest(queries, np.where(is_inside[:, None], keys, 0))
    index = np.where(best_match > near_match + _SURE, best_index, near_index)
    match = np.where(best_match > near_match + _SURE, best_match, near_match)

    importance = _importance(registration)
    query_weight = importance[0] * np.where(query_spread > _FLAT, query_spread, 0)
    key_weight = importance[1] * np.where((key_spread > _FLAT) & is_inside, key_spread, 0)
    is_explained = (match > _MATCH) & (query_spread > _FLAT)
    dx = (index % count - x).reshape(count, count)
    dy = (index // count - y).reshape(count, count)
    grid = is_explained.reshape(count, count)
    is_torn = np.zeros((count, count), bool)
    step = 4
    near_part, far_part, everything = slice(None, -step), slice(step, None), slice(None)
    for first, second in (
        ((near_part, everything), (far_part, everything)),
        ((everything, near_part), (everything, far_part)),
    ):
        apart = np.hypot(dx[first] - dx[second], dy[first] - dy[second]) > _APART
        is_torn[first] |= apart & grid[first] & grid[second]
    is_doubled, is_missing = _copies(index, is_explained, x, y, count)
    total = max(float(query_weight.sum()), 1e-6)
    source_total = max(float(key_weight.sum()), 1e-6)
    return Pieces(
        unexplained_share=float(query_weight[(query_spread > _FLAT) & ~is_explained].sum()) / total,
        torn_share=float(query_weight[is_torn.reshape(-1)].sum()) / total,
        doubled_share=float(key_weight[is_doubled].sum()) / source_total,
        missing_share=float(key_weight[is_missing].sum()) / source_total,
        unique_share=float((key_weight * _uniqueness(keys, count)).sum()) / source_total,
    )


def _copies(
    index: NDArray[np.intp], is_explained: NDArray[np.bool_], x: Floats, y: Floats, count: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which patches of the source are shown in distant places, and which in none."""
    shape = (count, count)
    weight = is_explained.astype(np.float64)
    sums = [
        box_mean(
            np.bincount(index, weight * part, count * count).reshape(shape).astype(np.float32), 2
        )
        for part in (np.ones_like(x), x, y, x * x + y * y)
    ]
    number = np.maximum(sums[0], 1e-6)
    # The variance of the places in the variation that one small window of the source is seen at.
    spread = sums[3] / number - (sums[1] / number) ** 2 - (sums[2] / number) ** 2
    is_doubled = (np.sqrt(np.maximum(spread, 0)) > _APART) & (sums[0] > 0.6)
    return is_doubled.reshape(-1), (sums[0] < 0.1).reshape(-1)


def _uniqueness(keys: Floats, count: int) -> Floats:
    """Return how little each patch of the source resembles patches elsewhere, 0 to 1."""
    y, x = np.divmod(np.arange(count * count), count)
    # Every fourth patch is enough: neighbors resemble each other.
    others = np.flatnonzero((y % 2 == 0) & (x % 2 == 0))
    best = np.empty(count * count, dtype=np.float32)
    for start in range(0, len(best), 1024):
        part = slice(start, start + 1024)
        match = keys[part] @ keys[others].T
        is_near = (np.abs(y[part, None] - y[others]) <= _ELSEWHERE) & (
            np.abs(x[part, None] - x[others]) <= _ELSEWHERE
        )
        match[is_near] = -1
        best[part] = match.max(axis=1)
    unlike = np.clip((_ALIKE - best) / (_ALIKE - _UNLIKE), 0, 1)
    return box_mean(unlike.reshape(count, count), 2).reshape(-1)


def _importance(registration: Registration) -> tuple[Floats, Floats]:
    result = []
    for place in (salience(registration.variation), _in_frame(registration)):
        middle = _PATCH // 2
        count = _SIDE - _PATCH + 1
        small = _halve(place)[middle : middle + count, middle : middle + count]
        result.append(small.reshape(-1))
    return result[0], result[1]


def _in_frame(registration: Registration) -> Floats:
    y, x = np.mgrid[:256, :256]
    points = registration.in_source(np.stack([x.ravel(), y.ravel()], axis=1).astype(float))
    px, py = points.T.reshape(2, 256, 256).astype(np.float32)
    return sample(salience(registration.source), px, py)


def _halve(image: Floats) -> Floats:
    picture = Image.fromarray(image.astype(np.float32))
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _halved_field(field: Floats) -> Floats:
    return np.stack([_halve(field[..., k]) / 2 for k in (0, 1)], axis=2)


def _descriptors(image: Floats) -> tuple[Floats, Floats]:
    """Return all patches at unit length without their mean, and their standard deviations."""
    windows = sliding_window_view(image, (_PATCH, _PATCH))
    patches = windows.reshape(-1, _PATCH * _PATCH).astype(np.float32)
    patches = patches - patches.mean(axis=1, keepdims=True)
    spread = patches.std(axis=1)
    unit_patches = patches / np.maximum(spread, 0.01)[:, None] / _PATCH
    return np.asarray(unit_patches, np.float32), np.asarray(spread, np.float32)


def _basis(patches: Floats) -> Floats:
    _, vectors = np.linalg.eigh(patches.T @ patches)
    return np.asarray(vectors[:, -_DIMENSIONS:], dtype=np.float32)


def _nearest(queries: Floats, keys: Floats) -> tuple[NDArray[np.intp], Floats]:
    index = np.empty(len(queries), dtype=np.intp)
    match = np.empty(len(queries), dtype=np.float32)
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ keys.T
        index[start : start + 1024] = scores.argmax(axis=1)
        match[start : start + 1024] = scores.max(axis=1)
    return index, match
