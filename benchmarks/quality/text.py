"""Places that look like text, and how they changed.

A small window looks like text if it has two tones, ink and paper, of clear contrast, the paper is
even, and rows of it change between the two several times. Words make several such windows next to
each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quality.registration import Floats, Registration, sample

__all__ = ["Text", "text", "text_windows"]

_HEIGHT, _WIDTH, _STEP = 10, 28, 4
_CONTRAST = 0.25
_CHANGES = 3.0
_SHORT = 0.2
_WORD = 3
"""How many windows in a row make a word."""


@dataclass(frozen=True)
class Text:
    """How text changed. Both shares are 0 where there is none."""

    mirrored_share: float
    """The share of the picture with text, if it is mirrored."""
    garbled_share: float
    """The share of the picture with text whose letters no longer match."""


def text(registration: Registration) -> Text:
    """Measure text that is mirrored or garbled."""
    windows = text_windows(registration.aligned)
    y, x = np.nonzero(windows)
    if not len(y):
        return Text(0, 0)
    share = len(y) / windows.size
    if registration.mirrored:
        return Text(share, 0)
    center_x = (x * _STEP + _WIDTH / 2).astype(np.float32)
    center_y = (y * _STEP + _HEIGHT / 2).astype(np.float32)
    match = sample(registration.forward_match, center_x, center_y)
    inside = sample(registration.inside.astype(np.float32), center_x, center_y) > 0.99
    bad = np.clip((0.8 - match) / 0.8, 0, 1)
    return Text(0, float(bad[inside].sum()) / windows.size)


def text_windows(image: Floats) -> NDArray[np.bool_]:
    """Return which windows of a luma image look like a part of a word."""
    view = sliding_window_view(image, (_HEIGHT, _WIDTH))[::_STEP, ::_STEP]
    low, high = (np.quantile(view, share, axis=(2, 3)) for share in (0.04, 0.96))
    spread = high - low
    middle = (low + high) / 2
    bright = view > middle[..., None, None]
    share = bright.mean(axis=(2, 3))
    paper_is_bright = share >= 0.5
    paper = np.where(paper_is_bright[..., None, None], bright, ~bright)
    number = np.maximum(paper.sum(axis=(2, 3)), 1)
    mean = (view * paper).sum(axis=(2, 3)) / number
    even = np.sqrt(((view - mean[..., None, None]) ** 2 * paper).sum(axis=(2, 3)) / number)
    between = share * (1 - share)
    whole = view.var(axis=(2, 3))
    light, dark = (
        (view * part).sum(axis=(2, 3)) / np.maximum(part.sum(axis=(2, 3)), 1)
        for part in (bright, ~bright)
    )
    two_tones = between * (light - dark) ** 2 / np.maximum(whole, 1e-6)
    changes = (bright[..., 1:] != bright[..., :-1]).sum(axis=3)
    busy = np.quantile(changes, 0.7, axis=2) >= _CHANGES
    # Strokes are shorter than a window: rows differ, unlike those of bars and bricks.
    short = (bright[:, :, 5:] != bright[:, :, :-5]).mean(axis=(2, 3)) > _SHORT
    ink = np.minimum(share, 1 - share)
    looks_right = (
        (spread > _CONTRAST) & (even < 0.14 * spread) & (two_tones > 0.72) & busy
        & short & (ink > 0.12) & (ink < 0.48)
    )  # fmt: skip
    runs = sliding_window_view(looks_right, _WORD, axis=1).all(axis=2)
    result = np.zeros_like(looks_right)
    for shift in range(_WORD):
        result[:, shift : shift + runs.shape[1]] |= runs
    return np.asarray(result)
