"""From patch positions back to pixels: overlapping patches vote.

A pixel is the mean of what the patches that cover it put there, x(p) = sum_i k_f(i)(p - i) / 49 for
the corners i of the 49 windows around p: the coherence part of the update of Simakov et al. 2008,
"Summarizing visual data using bidirectional similarity", section 3. So ends an iteration of GPNN
(arXiv 2103.15545, section 3); its completeness is in how the patches are found.
"""

import numpy as np

from langchain_image_variation.engines.local.patches import PATCH
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["vote"]


def vote(picture: Floats, found: Indices) -> Floats:
    """Average the patches that were found, each where its query was.

    Args:
        picture: The source at this level, float32 (side, side, channels).
        found: The flat corner index y * (side - 6) + x of each patch, (side - 6, side - 6).

    Returns:
        float32 (side, side, channels).
    """
    side, span = picture.shape[0], found.shape[0]
    corner = (found // span) * side + found % span
    pixels = picture.reshape(side * side, -1)
    total = np.zeros_like(picture)
    for dy in range(PATCH):
        for dx in range(PATCH):
            total[dy : dy + span, dx : dx + span] += pixels[corner + (dy * side + dx)]
    ramp = np.arange(1, side + 1)
    votes = np.minimum(np.minimum(ramp, ramp[::-1]), min(PATCH, span)).astype(np.float32)
    return total / (votes[:, None] * votes[None, :])[..., None]
