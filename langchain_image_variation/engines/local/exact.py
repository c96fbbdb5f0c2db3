"""Exact nearest neighbours for the coarse levels, with every part of the source wanted.

GPNN's score of a query q_i for a key k_j is d(q_i, k_j) / (alpha + min_l d(q_l, k_j))
(arXiv 2103.15545): a key that no query resembles yet becomes cheap, so what the picture
lacks comes back. At the coarsest levels, where a lost key is a lost object, the same wish is met in
full by a transport plan between all queries and all keys. All distances of a level come from one
matrix product.
"""

import numpy as np

from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["ALPHA", "balanced", "misfits", "nearest"]

ALPHA = 0.00015
"""Squared difference per value, 0 to 1. GPNN's 0.005 for values -1 to 1 would be 0.00125 here; an
eighth of it asks for more, because the levels above only inherit what is complete here."""

_BLUR = 0.002
"""Squared difference per value within which keys are interchangeable when they are shared out."""

_ROUNDS = 20
"""Iterations, after which the heaviest key of a row hardly ever changes."""


def nearest(queries: Floats, keys: Floats, values: int, alpha: float = ALPHA) -> Indices:
    """Find the best key of each query by GPNN's score.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        values: Values in a patch, 49 for each channel: what `alpha` is counted for.
        alpha: The smaller, the more is every key wanted; infinity is the plain nearest neighbour.

    Returns:
        The index of a key for each query, (n,).
    """
    distances = _squared(queries, keys)
    if np.isfinite(alpha):
        closest = np.maximum(distances.min(axis=0), 0)
        distances *= 1 / (np.float32(alpha * values) + closest)
    return np.asarray(distances.argmin(axis=1))


def balanced(queries: Floats, keys: Floats, values: int) -> Indices:
    """Find keys for all queries so that each key is used about equally often.

    The entropic transport plan diag(u) K diag(v) between queries and keys, K = exp(-d / blur), by
    Sinkhorn's iterations u = 1 / (K v), v = 1 / (K'u) (Cuturi 2013, arXiv 1306.0895, algorithm 1);
    each query takes the heaviest key of its row.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        values: Values in a patch, 49 for each channel.

    Returns:
        The index of a key for each query, (n,).
    """
    plan = _squared(queries, keys)
    plan -= plan.min(axis=1, keepdims=True)
    plan *= np.float32(-1 / (_BLUR * values))
    # e^-60 stands for "never", and no sum of it can be zero.
    np.exp(np.maximum(plan, -60, out=plan), out=plan)
    column: Floats = np.ones(len(keys), dtype=np.float32)
    # BLAS may take a second thread for these two products; cutting them up would cost more.
    for _ in range(_ROUNDS):
        row = np.reciprocal(plan @ column)
        column = np.reciprocal(np.maximum(row @ plan, np.float32(1e-20)))
    plan *= column
    return np.asarray(plan.argmax(axis=1))


def misfits(queries: Floats, keys: Floats, values: int) -> tuple[float, float]:
    """Return how far queries are from their nearest keys, and keys from their nearest queries.

    The two sums of the bidirectional similarity (Simakov et al. 2008, "Summarizing visual data
    using bidirectional similarity", equation 1), coherence and completeness, of distances instead
    of their squares.

    Args:
        queries: Descriptors (n, d).
        keys: Descriptors (m, d).
        values: Values in a patch, 49 for each channel.

    Returns:
        Two means of root mean square differences per value.
    """
    distances = np.maximum(_squared(queries, keys), 0) / np.float32(values)
    near_keys, near_queries = distances.min(axis=1), distances.min(axis=0)
    return float(np.sqrt(near_keys).mean()), float(np.sqrt(near_queries).mean())


def _squared(queries: Floats, keys: Floats) -> Floats:
    """All squared distances, (n, m)."""
    distances = product(queries, keys.T * np.float32(-2))
    distances += np.einsum("ij,ij->i", queries, queries)[:, None]
    distances += np.einsum("ij,ij->i", keys, keys)[None, :]
    return distances
