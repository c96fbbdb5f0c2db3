"""From patch positions back to pixels: overlapping patches vote."""

import numpy as np

from langchain_image_variation.engines.local.patches import PATCH
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["vote"]


def vote(picture: Floats, found: Indices) -> Floats:
    """Average the patches that were found, each where its query was (the last step of GPNN).

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
