"""The paths of variations: `images/ab/<stem>-<hash>-<index>.png`.

The stem comes from the name of the source. The hash covers the source's bytes and everything that
determines what the variations look like. So a path is known before the image is made, and is the
same on every machine. Sources with the same name in two folders do not clash.
"""

import hashlib
import json
from collections.abc import Sequence

from langchain_image_variation.batch.folders import IMAGES_DIR
from langchain_image_variation.output.names import safe_name

__all__ = ["image_id", "image_index", "output_path"]

_HASH_LENGTH = 24
"""The number of digits of the hash in a name. 96 bits are enough for any number of images."""


def output_path(name: str, source_sha256: str, settings: Sequence[object], index: int) -> str:
    """Return the path of a variation, relative to the outputs.

    Args:
        name: The name of the source, without its suffix.
        source_sha256: The SHA-256 of the source's bytes, in hex.
        settings: Everything else that determines what the variations look like, as JSON types.
        index: The number of the variation, from 1.
    """
    content = json.dumps([source_sha256, *settings])
    digest = hashlib.sha256(content.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{IMAGES_DIR}/{digest[:2]}/{safe_name(name)}-{digest}-{index}.png"


def image_id(path: str) -> str:
    """Return the part of a path that sources with the same content share."""
    return path[len(path.rsplit("-", 2)[0]) + 1 :].removesuffix(".png")


def image_index(path: str) -> int:
    """Return the number of a variation, from 1."""
    return int(image_id(path).rpartition("-")[2])
