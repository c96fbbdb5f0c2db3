"""Exact nearest neighbours for the coarse levels, with every part of the source wanted.

GPNN's score of a query q_i for a key k_j is d(q_i, k_j) / (alpha + min_l d(q_l, k_j))
(arXiv 2103.15545): a key that no query resembles yet becomes cheap, so what the picture
lacks comes back. At the coarsest levels, where a lost key is a lost object, the same wish is met in
full by a transport plan between all queries and all keys. All distances of a level come from one
matrix product, which is exact, since descriptors are whole numbers.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["balanced", "misfits", "nearest"]

Doubles: TypeAlias = NDArray[np.float64]

_ALPHA = 10.0
"""Squared difference per value. GPNN's 0.005 for values -1 to 1 would be 81 for -128 to 127; an
eighth of it asks for more, because the levels above only inherit what is complete here."""

_BLUR = 130.0
"""Squared difference per value within which keys are interchangeable when they are shared out."""

_ROUNDS = 12
"""Iterations, after which the heaviest key of a row hardly ever changes."""

_FINE, _NEVER = 512, 60
"""Steps per unit of the exponent, which is cut to a whole step, and the largest exponent. e^-60
stands for "never", yet keeps every sum above zero."""

_DECAY: Doubles = (
    np.cumprod([1.0] + _FINE * _NEVER * [0.9980487811074755]).astype(np.float32).astype(np.float64)
)
"""e^(-k / 512) at place k, from products alone, since exponentials differ between libraries; with
24 bits, so that products with 17-bit factors are exact."""


def nearest(queries: Floats, keys: Floats, per_patch: int, alpha: float = _ALPHA) -> Indices:
    """Find the best key of each query by GPNN's score.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel: what `alpha` is counted for.
        alpha: The smaller, the more is every key wanted; infinity is the plain nearest neighbour.

    Returns:
        The index of a key for each query, (n,).
    """
    distances = _squared(queries, keys)
    if np.isfinite(alpha):
        distances *= 1 / (np.float32(alpha * per_patch) + distances.min(axis=0))
    return np.asarray(distances.argmin(axis=1))


def balanced(queries: Floats, keys: Floats, per_patch: int) -> Indices:
    """Find keys for all queries so that each key is used about equally often.

    The entropic transport plan diag(u) K diag(v) between queries and keys, K = exp(-d / blur), by
    Sinkhorn's iterations u = 1 / (K v), v = 1 / (K'u) (Cuturi 2013, arXiv 1306.0895, algorithm 1);
    each query takes the heaviest key of its row.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel.

    Returns:
        The index of a key for each query, (n,).
    """
    exponents = _squared(queries, keys)
    exponents -= exponents.min(axis=1, keepdims=True)
    exponents *= np.float32(_FINE / (_BLUR * per_patch))
    steps = np.minimum(exponents, len(_DECAY) - 1, out=exponents).astype(np.int16)
    plan = _DECAY[steps]
    column = np.ones(len(keys))
    for _ in range(_ROUNDS):
        row = _to_17_bits(1 / _sums(plan, column))
        column = _to_17_bits(1 / np.maximum(_sums(plan.T, row), 1e-20))
    plan *= column
    return np.asarray(plan.argmax(axis=1))


def _sums(weights: Doubles, factors: Doubles) -> Doubles:
    """Return `weights @ factors`, each sum rounded to 17 bits as the exact one would be.

    BLAS adds in its own order, which changes a sum of n positive terms by at most n 2^-53 of it
    (Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1). The interval below
    is twice as wide, since its ends are rounded too. If both ends round alike, so does the exact
    sum. If not, the exact sum decides. Products are exact: weights have 24 bits and factors 17.
    """
    # BLAS may take a second thread here; cutting the product up would cost more.
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

    The two sums of the bidirectional similarity (Simakov et al. 2008, "Summarizing visual data
    using bidirectional similarity", equation 1), coherence and completeness, of distances instead
    of their squares.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        per_patch: Values in a patch, 49 for each channel.

    Returns:
        Two means of root mean square differences per value.
    """
    distances = _squared(queries, keys)
    coherence, completeness = (
        math.fsum(np.sqrt(distances.min(axis=axis) / np.float32(per_patch)).tolist()) / count
        for axis, count in ((1, len(queries)), (0, len(keys)))
    )
    return coherence, completeness


def _squared(queries: Floats, keys: Floats) -> Floats:
    """All squared distances, (n, m), without any error."""
    # Exact in any order: see `patches`.
    distances = product(queries, keys.T * np.float32(-2))
    distances += np.einsum("ij,ij->i", queries, queries)[:, None]
    distances += np.einsum("ij,ij->i", keys, keys)[None, :]
    return distances
