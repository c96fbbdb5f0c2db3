"""Full-resolution pictures from a field of displacements.

Where the field f is smooth, a pixel is one sample of the source S at a sub-pixel position,
T(x) = S(x + f(x)). Where the four nodes i around it disagree, it is blended from what each of them
would put there, T(x) = sum_i w_i(x) S(x + f_i) with bilinear weights w_i, as overlapping patches
vote in GPNN (arXiv 2103.15545, section 3). Pixels are only moved, so the variation is as sharp as
the source at any size, and costs one look-up a pixel.
"""

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Bytes, Floats, Indices, enlarge

__all__ = ["Quilt", "seams", "settled"]

_JUMP = 1.5
"""Nodes whose displacements differ by more than this many nodes have a seam between them."""

_NEARLY = 0.25
"""Displacements within this of a whole pixel are made whole."""

_STRIP = 64
"""Rows drawn at once: what they need stays in a processor's cache."""


class Quilt:
    """A source ready to be sampled anywhere.

    It is held enlarged, its own pixels among the new ones: so the nearest is never more than a
    quarter of a source pixel away, and a move by whole pixels is a copy. It is packed, so that one
    look-up of 32 bits brings all channels.

    Args:
        source: uint8 (side, side, channels).
    """

    def __init__(self, source: Bytes) -> None:
        self.side, _, self.channels = source.shape
        self._large = self.side * (2 if self.side > 512 else 4)
        packed = np.zeros((self._large, self._large, 4), dtype=np.uint8)
        packed[..., : self.channels] = enlarge(source, self._large)
        self._words = packed.view(np.uint32).reshape(-1)

    def draw(self, field: Floats) -> Bytes:
        """Draw the picture that a field describes.

        Args:
            field: Displacements (2, nodes, nodes).

        Returns:
            uint8 (side, side, channels).
        """
        centres = (np.arange(self.side, dtype=np.float32) + 0.5) / np.float32(self.side)
        low, part = _between(centres, field.shape[1])
        rest = np.float32(1) - part
        across = field[:, :, low] * rest + field[:, :, low + 1] * part
        words = np.empty((self.side, self.side), dtype=np.uint32)
        for top in range(0, self.side, _STRIP):
            rows = slice(top, top + _STRIP)
            above = low[rows]
            moved = across[:, above] * rest[rows, None] + across[:, above + 1] * part[rows, None]
            moved_y, moved_x = settled(moved, self.side)
            words[rows] = self._sample(moved_y + centres[rows, None], moved_x + centres)
        self._blend(words, field, centres)
        pixels = words.view(np.uint8).reshape(self.side, self.side, 4)
        return np.ascontiguousarray(pixels[..., : self.channels])

    def _blend(self, words: NDArray[np.uint32], field: Floats, centres: Floats) -> None:
        """Overwrite the pixels of torn cells by a mix of what their four nodes put there."""
        nodes = field.shape[1]
        low, part = _between(centres, nodes)
        torn = seams(field)
        y, x = np.nonzero(torn[low[:, None], low[None, :]])
        mixed = np.zeros((len(y), 4), dtype=np.float32)
        for dy, wy in ((0, 1 - part[y]), (1, part[y])):
            for dx, wx in ((0, 1 - part[x]), (1, part[x])):
                node = (low[y] + dy) * nodes + low[x] + dx
                moved_y, moved_x = (plane.reshape(-1)[node] for plane in field)
                found = self._sample(centres[y] + moved_y, centres[x] + moved_x)
                mixed += found.view(np.uint8).reshape(-1, 4) * (wy * wx)[:, None]
        words[y, x] = (mixed + np.float32(0.5)).astype(np.uint8).view(np.uint32).reshape(-1)

    def _sample(self, y: Floats, x: Floats) -> NDArray[np.uint32]:
        """Look up the points (y, x) of the unit square; those outside are moved to its edge.

        What `enlarge` returns lies half a step further than cells of the unit square would.
        """
        last = self._large - 1
        size, half = np.float32(self._large), np.float32(0.5)
        row = np.clip((y * size - half).astype(np.int32), 0, last)
        column = np.clip((x * size - half).astype(np.int32), 0, last)
        row *= np.int32(self._large)
        row += column
        return np.asarray(self._words[row])


def seams(field: Floats) -> NDArray[np.bool_]:
    """Mark the cells between four nodes that a seam runs through, (nodes - 1, nodes - 1)."""
    limit = np.float32(_JUMP / field.shape[1])
    down = np.abs(field[:, 1:] - field[:, :-1]).max(axis=0) > limit
    across = np.abs(field[:, :, 1:] - field[:, :, :-1]).max(axis=0) > limit
    return np.asarray(down[:, :-1] | down[:, 1:] | across[:-1] | across[1:])


def settled(field: Floats, side: int) -> Floats:
    """Draw displacements that are nearly whole pixels onto whole pixels.

    There a patch is a copy, down to its finest grain; no pixel is moved by more than a quarter.

    Args:
        field: Displacements, one for each pixel.
        side: Pixels along a side of the picture.
    """
    pixels = field * np.float32(side)
    whole = np.rint(pixels)
    rest = pixels - whole
    beyond = np.maximum(np.abs(rest) - np.float32(_NEARLY), 0) * np.float32(0.5 / (0.5 - _NEARLY))
    return np.asarray((whole + np.copysign(beyond, rest)) / np.float32(side))


def _between(centres: Floats, nodes: int) -> tuple[Indices, Floats]:
    """The node before each pixel centre, and the share of the way from it to the next node."""
    place = np.clip(centres * np.float32(nodes) - np.float32(0.5), 0, nodes - 1)
    low = np.minimum(place.astype(np.intp), nodes - 2)
    return low, np.asarray(place - low.astype(np.float32), dtype=np.float32)
