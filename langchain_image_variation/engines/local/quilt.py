"""Full-resolution images from a field of displacements.

Where the field f is smooth, a pixel is one sample of the source S at a sub-pixel position,
T(x) = S(x + f(x)). Where the four nodes i around it disagree, it is blended from what each of them
would put there, T(x) = sum_i w_i(x) S(x + f_i) with bilinear weights w_i, as overlapping patches
vote in GPNN (arXiv 2103.15545, section 3). Pixels only move, so the variation is as sharp as the
source at any size, and costs one lookup per pixel.
"""

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local.pyramid import Bytes, Floats, Indices, enlarge

__all__ = ["Quilt", "seams", "snap_to_pixels"]

_JUMP = 1.5
"""There is a seam between nodes whose displacements differ by more than this many nodes."""

_NEARLY = 0.25
"""Displacements this close to a whole pixel become whole."""

_STRIP = 64
"""How many rows to draw at once. Their data fits into the cache of a processor."""


class Quilt:
    """A source ready to be sampled anywhere.

    It is stored enlarged, with its own pixels among the new ones. So the nearest is never more than
    a quarter of a source pixel away, and a move by whole pixels is a copy. It is packed, so one
    lookup of 32 bits reads all channels.

    Args:
        source: uint8 (side, side, channels).
        side: The side of the images to draw, in pixels. The default is that of the source, which
            may be larger, for views of a part of it.
    """

    def __init__(self, source: Bytes, side: int | None = None) -> None:
        self.shape = source.shape
        source_side, _, self.channels = source.shape
        self.side = side or source_side
        self._large = source_side * (2 if source_side > 512 else 4)
        self._words = enlarge(source, self._large).view(np.uint32).reshape(-1)

    def draw(self, field: Floats, *, snap: bool = True) -> Bytes:
        """Draw the image that a field describes.

        Args:
            field: Displacements (2, nodes, nodes).
            snap: Whether displacements that are nearly whole pixels become whole.

        Returns:
            uint8 (side, side, channels).
        """
        centers = (np.arange(self.side, dtype=np.float32) + 0.5) / np.float32(self.side)
        low, share = _nodes_around(centers, field.shape[1])
        rest = np.float32(1) - share
        # `take` keeps both planes contiguous, unlike an index. That makes the next steps faster.
        across = field.take(low, axis=2) * rest + field.take(low + 1, axis=2) * share
        words = np.empty((self.side, self.side), dtype=np.uint32)
        for top in range(0, self.side, _STRIP):
            rows = slice(top, top + _STRIP)
            above = low[rows]
            displacement = across.take(above, axis=1)
            displacement *= rest[rows, None]
            displacement += across.take(above + 1, axis=1) * share[rows, None]
            moved_y, moved_x = snap_to_pixels(displacement, self.side) if snap else displacement
            words[rows] = self._sample(moved_y + centers[rows, None], moved_x + centers)
        self._blend(words, field, centers)
        pixels = words.view(np.uint8).reshape(self.side, self.side, 4)
        return np.ascontiguousarray(pixels[..., : self.channels])

    def _blend(self, words: NDArray[np.uint32], field: Floats, centers: Floats) -> None:
        """Replace the pixels of cells with a seam by a mix of what their four nodes put there."""
        nodes = field.shape[1]
        low, share = _nodes_around(centers, nodes)
        has_seam = seams(field)
        if not has_seam.any():
            return
        y, x = np.nonzero(has_seam.take(low, axis=0).take(low, axis=1))
        mixed = np.zeros((len(y), 4), dtype=np.float32)
        for dy, wy in ((0, 1 - share[y]), (1, share[y])):
            for dx, wx in ((0, 1 - share[x]), (1, share[x])):
                node = (low[y] + dy) * nodes + low[x] + dx
                moved_y, moved_x = (plane.reshape(-1)[node] for plane in field)
                samples = self._sample(centers[y] + moved_y, centers[x] + moved_x)
                mixed += samples.view(np.uint8).reshape(-1, 4) * (wy * wx)[:, None]
        words[y, x] = (mixed + np.float32(0.5)).astype(np.uint8).view(np.uint32).reshape(-1)

    def _sample(self, y: Floats, x: Floats) -> NDArray[np.uint32]:
        """Look up points (y, x) of the unit square. Points outside move to its edge.

        The pixels that `enlarge` returns lie half a step further than cells of the unit square.
        """
        last = self._large - 1
        size, half = np.float32(self._large), np.float32(0.5)
        row = np.clip((y * size - half).astype(np.int32), 0, last)
        column = np.clip((x * size - half).astype(np.int32), 0, last)
        row *= np.int32(self._large)
        row += column
        return np.asarray(self._words[row])


def seams(field: Floats) -> NDArray[np.bool_]:
    """Mark the cells between four nodes that contain a seam, (nodes - 1, nodes - 1)."""
    limit = np.float32(_JUMP / field.shape[1])
    down = (np.abs(field[:, 1:] - field[:, :-1]) > limit).any(axis=0)
    across = (np.abs(field[:, :, 1:] - field[:, :, :-1]) > limit).any(axis=0)
    return np.asarray(down[:, :-1] | down[:, 1:] | across[:-1] | across[1:])


def snap_to_pixels(field: Floats, side: int) -> Floats:
    """Round displacements that are nearly whole pixels to whole pixels.

    There a patch is an exact copy. No displacement changes by more than a quarter of a pixel.

    Args:
        field: Displacements, one for each pixel.
        side: Pixels along a side of the image.
    """
    pixels = field * np.float32(side)
    whole = np.rint(pixels)
    rest = pixels - whole
    excess = np.maximum(np.abs(rest) - np.float32(_NEARLY), 0) * np.float32(0.5 / (0.5 - _NEARLY))
    return np.asarray((whole + np.copysign(excess, rest)) / np.float32(side))


def _nodes_around(centers: Floats, nodes: int) -> tuple[Indices, Floats]:
    """Return the node before each pixel center, and the share of the way to the next node."""
    position = np.clip(centers * np.float32(nodes) - np.float32(0.5), 0, nodes - 1)
    low = np.minimum(position.astype(np.intp), nodes - 2)
    return low, np.asarray(position - low.astype(np.float32), dtype=np.float32)
