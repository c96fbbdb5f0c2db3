"""Exact and complete nearest neighbors for the coarse levels.

GPNN's score of a query q_i for a key k_j is d(q_i, k_j) / (alpha + min_l d(q_l, k_j)) (arXiv
2103.15545). It makes a key cheap that no query resembles yet, so what the image lacks comes back.
At the coarsest levels a lost key is a lost object. There, a transport plan between all queries and
all keys uses every key. All distances of a level come from one matrix product. It is exact, because
descriptors are whole numbers.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["find_balanced", "find_nearest", "misfits"]

Doubles: TypeAlias = NDArray[np.float64]

_ALPHA = 10.0
"""Squared difference per value. The 0.005 of GPNN for values -1 to 1 would be 81 for -128 to 127.
An eighth of it asks for more completeness, because the levels above only inherit it."""

_BLUR = 130.0
"""Squared difference per value within which the transport plan treats keys as interchangeable."""

_ROUNDS = 12
"""Iterations. After them, the heaviest key of a row hardly ever changes."""

_STEPS_PER_UNIT, _MAX_EXPONENT = 512, 60
"""Steps per unit of the exponent, which is truncated to a step, and the largest exponent. e^-60
stands for "never", yet keeps every sum above zero."""

_DECAY: Doubles = (
    np.cumprod([1.0] + _STEPS_PER_UNIT * _MAX_EXPONENT * [0.9980487811074755])
    .astype(np.float32)
    .astype(np.float64)
)
"""e^(-k / 512) at index k. It is computed by products alone, because exponentials differ between
libraries. It has 24 bits, so that products with 17-bit factors are exact."""


def find_nearest(queries: Floats, keys: Floats, per_patch: int, alpha: float = _ALPHA) -> Indices:
    """Find the best key of each query by GPNN's score.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel. `alpha` is per value.
        alpha: Smaller values ask for more completeness. Infinity is the plain nearest neighbor.

    Returns:
        The index of a key for each query, (n,).
    """
    distances = _squared_distances(queries, keys)
    if np.isfinite(alpha):
        distances *= 1 / (np.float32(alpha * per_patch) + distances.min(axis=0))
    return np.asarray(distances.argmin(axis=1))


def find_balanced(queries: Floats, keys: Floats, per_patch: int) -> Indices:
    """Find keys for all queries so that each key is used about equally often.

    Sinkhorn's iterations u = 1 / (K v), v = 1 / (K'u) (Cuturi 2013, arXiv 1306.0895, algorithm 1)
    give the entropic transport plan diag(u) K diag(v) between queries and keys, K = exp(-d / blur).
    Each query takes the heaviest key of its row.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel.

    Returns:
        The index of a key for each query, (n,).
    """
    exponents = _squared_distances(queries, keys)
    exponents -= exponents.min(axis=1, keepdims=True)
    exponents *= np.float32(_STEPS_PER_UNIT / (_BLUR * per_patch))
    steps = np.minimum(exponents, len(_DECAY) - 1, out=exponents).astype(np.int16)
    plan = _DECAY[steps]
    column = np.ones(len(keys))
    for _ in range(_ROUNDS):
        row = _to_17_bits(1 / _sums(plan, column))
        column = _to_17_bits(1 / np.maximum(_sums(plan.T, row), 1e-20))
    plan *= column
    return np.asarray(plan.argmax(axis=1))


def _sums(weights: Doubles, factors: Doubles) -> Doubles:
    """Return `weights @ factors`, each sum rounded to 17 bits as the exact sum would be.

    BLAS adds in an order of its choice, which changes a sum of n positive terms by at most n 2^-53
    of it (Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1). The interval
    below is twice as wide, because its ends are rounded too. If both ends round alike, so does the
    exact sum. If not, the exact sum decides. Products are exact: weights have 24 bits, factors 17.
    """
    # BLAS may use a second thread here. Cutting the product up would cost more.
    sums = weights @ factors
    error = sums * (len(factors) * 2.0**-52)
    low, high = _to_17_bits(sums - error), _to_17_bits(sums + error)
    for index in np.flatnonzero(low != high):
        low[index] = _to_17_bits(np.array([math.fsum((weights[index] * factors).tolist())]))[0]
    return low


def _to_17_bits(values: Doubles) -> Doubles:
    """Round positive numbers to 17 significant bits."""
    bits = values.view(np.int64)
    return ((bits + (1 << 35)) >> 36 << 36).view(np.float64)


def misfits(queries: Floats, keys: Floats, per_patch: int) -> tuple[float, float]:
    """Return how far queries are from their nearest keys, and keys from their nearest queries.

    These are coherence and completeness, the two sums of the bidirectional similarity (Simakov et
    al. 2008, "Summarizing visual data using bidirectional similarity", equation 1), of distances
    instead of their squares.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel.

    Returns:
        Two means of root mean square differences per value.
    """
    distances = _squared_distances(queries, keys)
    coherence, completeness = (
        math.fsum(np.sqrt(distances.min(axis=axis) / np.float32(per_patch)).tolist()) / count
        for axis, count in ((1, len(queries)), (0, len(keys)))
    )
    return coherence, completeness


def _squared_distances(queries: Floats, keys: Floats) -> Floats:
    """Return all squared distances, (n, m). They are exact."""
    # Exact in any order: see `patches`.
    distances = product(queries, keys.T * np.float32(-2))
    distances += np.einsum("ij,ij->i", queries, queries)[:, None]
    distances += np.einsum("ij,ij->i", keys, keys)[None, :]
    return distances
