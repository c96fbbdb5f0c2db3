"""Whether an image shows letters that are large enough to be told apart: words, signs and numbers.

Letters are found without training, by what distinguishes them from most other things:

- A letter is a connected part of one tone, on a ground of another tone.
- Its neighbors in a line have similar height, tone and thickness, and are about a letter away.
- A row of pixels often crosses a letter twice or more. Twigs, grass, bars and windows are mostly
  crossed once.

The image is divided into two tones halfway between the darkest and the brightest place around each
pixel (Bernsen 1986, "Dynamic thresholding of grey-level images"), once with near and once with far
surroundings, for thin and for thick letters.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local.components import Components, Luma, group
from langchain_image_variation.engines.local.oklab import Doubles
from langchain_image_variation.engines.local.pyramid import Bytes, Indices
from langchain_image_variation.engines.local.salience import Whole

__all__ = ["has_words"]

_SURROUNDINGS = ((4, 3), (8, 7))
"""Side in pixels of the blocks whose extremes are compared, and how many blocks make a window."""

_RANGE, _CONTRAST = 40, 35
"""The least difference in gray levels within a window, and between a letter and its ground."""

_SHORTEST, _TALLEST = 5, 130
"""Heights of letters in pixels of an image of 256."""

_NARROWEST, _WIDEST = 0.08, 4.0
"""Widths of letters in heights. Some letters touch."""

_THINNEST, _FULLEST = 0.12, 0.9
"""The share of its box that a letter covers."""

_INK_SPREAD, _GROUND_SPREAD = 0.45, 0.6
"""The largest standard deviations of the tones of a letter and its ground, in contrasts."""

_HEIGHTS, _THICKNESSES = 1.7, 2.2
"""The largest ratios between neighbors."""

_TONES = 0.35
"""The largest difference in tone between neighbors, in contrasts."""

_SHARED, _FARTHEST, _NEAREST = 0.5, 1.1, -0.3
"""How much of their height neighbors share at least, and how far apart they are, in heights."""

_CROSSED = 1.12
"""How often rows cross the letters of a line on average, at least."""

_CROWDS = (16, 40, 100)
"""Up to how many parts of its size a line of two, three or four letters counts. Among more, leaves,
fur or beans make such a line by chance."""

_COMPARISONS = 2**17
"""How many pairs of parts are compared at once. An image may have thousands of small parts, and
comparing each with each at once would take hundreds of megabytes."""

_PAIR_CROSSED, _PAIR_GROUND_SPREAD, _PAIR_LENGTH = 1.2, 0.5, 3
"""Stricter limits for a line of two letters, which chance makes more often. The last is the length
of the line in heights."""


def has_words(luma: Bytes) -> bool:
    """Return whether an image shows two or more letters or digits in a line.

    Args:
        luma: uint8 (256, 256).
    """
    image = Luma(luma)
    for block, blocks in _SURROUNDINGS:
        dark, light = _divide(luma, block, blocks)
        if _has_line(Components.of(dark, image), -1, len(luma)):
            return True
        if _has_line(Components.of(light, image), 1, len(luma)):
            return True
    return False


def _divide(luma: Bytes, block: int, blocks: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the darker and the lighter of two tones. Plain surroundings have neither."""
    count = len(luma) // block
    strips = luma.reshape(count, block, -1)
    highest = strips.max(axis=1).reshape(count, count, block).max(axis=2)
    lowest = strips.min(axis=1).reshape(count, count, block).min(axis=2)
    high = np.asarray(Image.fromarray(highest).filter(ImageFilter.MaxFilter(blocks)))
    low = np.asarray(Image.fromarray(lowest).filter(ImageFilter.MinFilter(blocks)))
    has_range = high - low >= _RANGE
    middle = low + (high - low) // 2

    def enlarge(values: Bytes) -> Bytes:
        return values.repeat(block, axis=0).repeat(block, axis=1)

    is_light = luma > enlarge(np.where(has_range, middle, 255).astype(np.uint8))
    is_dark = luma < enlarge(np.where(has_range, middle + 1, 0).astype(np.uint8))
    return is_dark, is_light


def _has_line(parts: Components, sign: int, side: int) -> bool:
    """Return whether some parts are letters of one line.

    Args:
        parts: Parts of one tone.
        sign: 1 if they are lighter than their ground, or -1.
        side: The side of the image in pixels.
    """
    height, width = parts.bottom - parts.top, parts.right - parts.left
    ink, ink_variance = _mean_and_variance(parts.area, parts.total, parts.square_total)
    ground, ground_variance = _mean_and_variance(
        2 * parts.run_count, parts.outside_total, parts.outside_square_total
    )
    contrast = sign * (ink - ground)
    fill = parts.area / (height * width)
    is_letter = (
        (contrast >= _CONTRAST)
        & (ink_variance < _INK_SPREAD**2 * contrast * contrast)
        & (ground_variance < _GROUND_SPREAD**2 * contrast * contrast)
        & (height >= _SHORTEST)
        & (height <= _TALLEST)
        & (width >= _NARROWEST * height)
        & (width <= _WIDEST * height)
        & (fill >= _THINNEST)
        & (fill <= _FULLEST)
        # What leaves the image is hardly a letter.
        & (parts.top > 0)
        & (parts.bottom < side)
        & (parts.left > 0)
        & (parts.right < side)
    )
    letters = np.flatnonzero(is_letter)
    if len(letters) < 2:
        return False
    one, other = _neighbors(parts, letters, ink, contrast)
    label = group(len(letters), one, other)
    size = np.bincount(label)
    crossed = np.bincount(label, parts.run_count[letters])
    total = np.bincount(label, height[letters])
    # How many parts are about as high as the letters of a line.
    heights, line_height = np.sort(height[letters]), total / np.maximum(size, 1)
    crowd = np.searchsorted(heights, line_height * _HEIGHTS, side="right")
    crowd -= np.searchsorted(heights, line_height / _HEIGHTS)
    is_long = size >= 2 + np.searchsorted(_CROWDS, crowd)
    if (is_long & (size >= 3) & (crossed >= _CROSSED * total)).any():
        return True
    is_pair = is_long & (size == 2) & (crossed >= _PAIR_CROSSED * total)
    is_pair = is_pair[label[one]]
    one, other = letters[one[is_pair]], letters[other[is_pair]]
    spread = ground_variance / np.maximum(contrast * contrast, 1)
    is_plain = np.maximum(spread[one], spread[other]) < _PAIR_GROUND_SPREAD**2
    is_short = 2 * (parts.right[other] - parts.left[one]) <= _PAIR_LENGTH * (
        height[one] + height[other]
    )
    return bool((is_plain & is_short).any())


def _mean_and_variance(count: Whole, total: Whole, square_total: Whole) -> tuple[Doubles, Doubles]:
    mean = total / count
    return mean, square_total / count - mean * mean


def _neighbors(
    parts: Components, letters: Indices, ink: Doubles, contrast: Doubles
) -> tuple[Indices, Indices]:
    """Return the pairs of letters of which the second follows the first."""
    top, bottom, left, right = (
        edges[letters] for edges in (parts.top, parts.bottom, parts.left, parts.right)
    )
    thickness = parts.area[letters] / parts.run_count[letters]
    tone, difference = ink[letters], contrast[letters]
    height = bottom - top

    def find_near(first: int, last: int) -> tuple[Indices, Indices]:
        """Return the letters from `first` to before `last`, each with those that follow it."""
        rows = slice(first, last)
        lower = np.minimum(height[rows, None], height)
        gap = left - right[rows, None]
        shared = np.minimum(bottom[rows, None], bottom) - np.maximum(top[rows, None], top)
        is_near = (gap <= _FARTHEST * lower) & (gap >= _NEAREST * lower)
        is_near &= (left > left[rows, None]) & (shared >= _SHARED * lower)
        near, following = np.nonzero(is_near)
        return near + first, following

    # Only letters that are near each other are compared further.
    count = max(1, _COMPARISONS // len(letters))
    blocks = [find_near(first, first + count) for first in range(0, len(letters), count)]
    one, other = (np.concatenate(indices) for indices in zip(*blocks, strict=True))

    def is_alike(values: Doubles | Indices, ratio: float) -> NDArray[np.bool_]:
        a, b = values[one], values[other]
        return np.asarray(np.maximum(a, b) <= ratio * np.minimum(a, b))

    least = np.minimum(difference[one], difference[other])
    is_pair = is_alike(height, _HEIGHTS) & is_alike(thickness, _THICKNESSES)
    is_pair &= np.abs(tone[one] - tone[other]) < _TONES * least
    return one[is_pair], other[is_pair]
