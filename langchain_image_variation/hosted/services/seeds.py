"""The seed of each image of a request, and what is sent to a service for it."""

import hashlib
import secrets

__all__ = ["MAX_SEED", "image_seeds", "sent_seed"]

MAX_SEED = 2**32 - 1
"""The largest seed that is sent as it is. A batch derives larger ones from its sources."""


def image_seeds(seed: int | None, n: int) -> range:
    """Return the seed of each image. None draws the first one."""
    first = secrets.randbits(31) if seed is None else seed
    return range(first, first + n)


def sent_seed(seed: int) -> int:
    """Return what is sent for the seed of an image: a hash of it if it is above `MAX_SEED`."""
    if seed <= MAX_SEED:
        return seed
    digest = hashlib.sha256(str(seed).encode("ascii")).digest()
    return int.from_bytes(digest[:4], "big")
