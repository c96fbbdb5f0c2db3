"""Matrix products on the calling thread alone.

Each variation is made on one thread. If a BLAS started more threads for each product, they would
wait for each other, and limiting its threads would affect the host program. But a BLAS computes
small products on the calling thread. So this module cuts large products into small ones.
"""

import numpy as np

from langchain_image_variation.engines.local.pyramid import Floats

__all__ = ["product"]

_SMALL = 250_000
"""Multiplications below which OpenBLAS stays on one thread (its limit is 4 * 65,536)."""


def product(left: Floats, right: Floats) -> Floats:
    """Return `left @ right`, computed a few rows at a time.

    Args:
        left: float32 (n, k).
        right: float32 (k, m).
    """
    rows, inner = left.shape
    columns = right.shape[1]
    block = max(1, _SMALL // (inner * columns))
    count = rows // block
    whole = count * block
    result = np.empty((rows, columns), dtype=np.float32)
    np.matmul(
        left[:whole].reshape(count, block, inner),
        right,
        out=result[:whole].reshape(count, block, columns),
    )
    np.matmul(left[whole:], right, out=result[whole:])
    return result
