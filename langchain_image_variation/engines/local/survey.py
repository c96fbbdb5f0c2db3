"""What one source allows: found once, and used for each of its variations."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from langchain_image_variation.engines.local.lettering import has_print
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, gray, resize
from langchain_image_variation.engines.local.salience import (
    CELLS,
    Whole,
    find_skin,
    salience,
)
from langchain_image_variation.engines.local.slender import find_slender
from langchain_image_variation.engines.local.straightness import straightness
from langchain_image_variation.engines.local.words import has_words

__all__ = ["Survey"]

_NEARLY_GRAY = 12
"""The largest difference between channels, in gray levels, that JPEG makes of gray."""

_PLAIN_SHARE, _GROUND_SHARE = 0.5, 0.2
"""The shares of pixels that equal their neighbors, and that have the most common color, above which
an image is a graphic."""

_COLORS, _COLOR_PIXELS = 300, 8
"""The number of colors above which an image is a photo, and the pixels that make a color count. A
thing on a plain ground has more, a logo with gradients fewer."""

_SAME_GROUND, _OTHER_THAN_GROUND = 6, 24
"""Differences in gray levels between pixels of one ground, and between ground and object."""

_GROUND_BORDER = 0.9
"""The share of the border of an image that shows a ground of one color."""

_PARTS = 4
"""Parts along a side whose colors and detail are compared."""

_EVEN, _EVEN_WITH_SKIN = 0.85, 0.91
"""The evenness from which a source is rearranged, and from which one with the colors of skin is.
The objects of others would come apart, and so would people in a crowd."""

_STRAIGHT = 0.05
"""The share of edges on long straight lines above which an image is neither bent nor rearranged."""


@dataclass(frozen=True)
class Survey:
    """What one source allows."""

    objects: Whole
    """What a crop must not cut, (64, 64), 0 to 255."""

    slender: Whole
    """Where thin things are that a crop must not cut, (64, 64), 0 or 255."""

    is_gray: bool
    """Whether the source has no color."""

    is_graphic: bool
    """Whether it is a logo or drawing: plain areas of few colors."""

    is_boundless: bool
    """Whether the source lies on a ground of one color, which can be continued."""

    evenness: float
    """How similar the parts of the source are in color and detail, 0 to 1. Textures and many small
    things are even. An object on plain ground is not."""

    brightness: float
    """The mean gray, 0 (black) to 1 (white)."""

    may_mirror: bool
    """Whether the source has neither text nor the form of a logo."""

    may_rearrange: bool
    """Whether the source is a texture or many small things. Logos, most text and images with long
    straight lines are neither."""

    may_bend: bool
    """Whether bending goes unnoticed: no faces, long straight lines, text or logos."""

    @classmethod
    def of(cls, source: Bytes) -> Self:
        """Survey a source, uint8 (256, 256, channels)."""
        is_graphic = _is_graphic(source)
        luma = gray(source)
        is_print = has_print(luma)
        is_text = is_print or has_words(luma)
        ground = _find_ground(source)
        small = resize(source, CELLS)
        values = salience(small)
        mean = int(values.sum()) // values.size
        objects = np.clip((values - mean - mean // 6) * 3 // 2, 0, 255)
        is_boundless = False
        if ground is not None:
            is_object = np.abs(source.astype(np.int16) - ground).max(axis=2) > _OTHER_THAN_GROUND
            cells = is_object.reshape(CELLS, NODES // CELLS, CELLS, NODES // CELLS).any(axis=(1, 3))
            objects = np.maximum(objects, 255 * cells.astype(np.int64))
            edge = np.concatenate([is_object[0], is_object[-1], is_object[:, 0], is_object[:, -1]])
            is_boundless = not edge.any()
        has_face = bool(find_skin(small).any())
        evenness = min(_color_evenness(source), _detail_evenness(luma))
        is_even = evenness >= (_EVEN_WITH_SKIN if has_face else _EVEN)
        may_bend = not (is_graphic or is_text or has_face)
        # Coins and stars look like print, and grass looks like words. Only text looks like both.
        may_rearrange = is_even and not is_graphic and not (is_print and has_words(luma))
        if (may_bend or may_rearrange) and straightness(luma) > _STRAIGHT:
            may_bend = may_rearrange = False
        return cls(
            objects=objects,
            slender=find_slender(luma),
            is_gray=_is_gray(source),
            is_graphic=is_graphic,
            is_boundless=is_boundless,
            evenness=evenness,
            brightness=int(luma.sum()) / (255 * luma.size),
            may_mirror=not (is_graphic or is_text),
            may_rearrange=may_rearrange,
            may_bend=may_bend,
        )


def _is_gray(source: Bytes) -> bool:
    if source.shape[2] < 3:
        return True
    red, green, blue = np.moveaxis(source[..., :3], 2, 0)
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    is_colored = high - low > _NEARLY_GRAY
    # A few colored pixels do not make a gray photo colored.
    return bool(1000 * int(is_colored.sum()) < is_colored.size)


def _color_evenness(source: Bytes) -> float:
    """Return the share of the variance of colors that lies within sixteen parts of a source."""
    side = NODES // _PARTS
    # Sums of whole numbers are exact.
    rows = source.reshape(_PARTS, side, NODES, -1).sum(axis=1, dtype=np.int64)
    sums = rows.reshape(_PARTS, _PARTS, side, -1).sum(axis=2).reshape(_PARTS * _PARTS, -1)
    squares = int((sums * sums).sum())
    total = (sums.sum(axis=0) * sums.sum(axis=0)).sum()
    between = _PARTS**2 * squares - int(total)
    level = np.arange(256)
    counts = np.bincount(source.reshape(-1), minlength=len(level))
    whole = NODES**2 * int((counts * level * level).sum()) - int(total)
    return 1 - between / whole if whole else 1.0


def _detail_evenness(luma: Bytes) -> float:
    """Return over how many of sixteen parts the detail of a source is spread, as a share of them.

    That is (sum of d)^2 / (16 sum of d^2) for the sums d of gradients, the index of Jain et al.
    1984, "A quantitative measure of fairness".
    """
    values = luma.astype(np.int64)
    gradient = np.zeros_like(values)
    gradient[:, 1:] += np.abs(values[:, 1:] - values[:, :-1])
    gradient[1:] += np.abs(values[1:] - values[:-1])
    side = NODES // _PARTS
    sums = gradient.reshape(_PARTS, side, _PARTS, side).sum(axis=(1, 3))
    squares = int((sums * sums).sum())
    return int(sums.sum()) ** 2 / (sums.size * squares) if squares else 1.0


def _is_graphic(source: Bytes) -> bool:
    """Return whether a source is drawn: mostly plain, in few colors, of which one prevails."""
    is_plain = np.ones((NODES - 1, NODES - 1), dtype=bool)
    for plane in np.moveaxis(source, 2, 0):
        here = plane[:-1, :-1]
        for neighbor in (plane[:-1, 1:], plane[1:, :-1]):
            # Unsigned differences do not overflow this way.
            is_plain &= np.maximum(here, neighbor) - np.minimum(here, neighbor) <= 1
    if is_plain.mean() < _PLAIN_SHARE:
        return False
    coarse = (source >> 3).astype(np.int64)
    codes = sum(coarse[..., channel] << (5 * channel) for channel in range(source.shape[2]))
    counts = np.bincount(np.asarray(codes).reshape(-1))
    has_ground = int(counts.max()) >= _GROUND_SHARE * NODES**2
    return has_ground and int((counts >= _COLOR_PIXELS).sum()) <= _COLORS


def _find_ground(source: Bytes) -> Bytes | None:
    """Return the color around the objects of a source, or None if it has no such ground."""
    border = np.concatenate([source[0], source[-1], source[:, 0], source[:, -1]])
    color = np.sort(border, axis=0)[len(border) // 2]
    difference = np.abs(border.astype(np.int16) - color).max(axis=1)
    is_plain = int((difference <= _SAME_GROUND).sum()) >= _GROUND_BORDER * len(border)
    return color if is_plain else None
