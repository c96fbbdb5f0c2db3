"""From patch positions back to pixels: overlapping patches vote.

A pixel is the mean of what the patches that cover it put there, x(p) = sum_i k_f(i)(p - i) / 49 for
the corners i of the 49 windows around p. This is the coherence part of the update of Simakov et al.
2008, "Summarizing visual data using bidirectional similarity", section 3, and the last step of an
iteration of GPNN (arXiv 2103.15545, section 3). Completeness comes from how patches are matched.
"""

import numpy as np

from langchain_image_variation.engines.local.patches import PATCH, Values
from langchain_image_variation.engines.local.pyramid import Indices

__all__ = ["vote"]


def vote(values: Values, matches: Indices) -> Values:
    """Average the matched patches, each at the position of its query.

    Args:
        values: The source at this level in its contrast, (side, side, channels).
        matches: The flat corner index y * (side - 6) + x of each patch, (side - 6, side - 6).

    Returns:
        Values of the same shape, rounded.
    """
    side, span = values.shape[0], matches.shape[0]
    corners = (matches // span) * side + matches % span
    pixels = values.reshape(side * side, -1)
    # 49 values of at most 128 fit into 16 bits.
    total = np.zeros_like(values)
    for dy in range(PATCH):
        for dx in range(PATCH):
            total[dy : dy + span, dx : dx + span] += pixels[corners + (dy * side + dx)]
    ramp = np.arange(1, side + 1)
    votes = np.minimum(np.minimum(ramp, ramp[::-1]), min(PATCH, span)).astype(np.float32)
    return np.rint(total / (votes[:, None] * votes[None, :])[..., None]).astype(np.int16)
