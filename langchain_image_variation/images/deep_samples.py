"""Reads samples of 16 bits in full, and rounds them to 8 bits.

Pillow has no mode for 16-bit color. It keeps only the high byte of each sample, which darkens the
image, loses dark tones before gamma is applied, and makes similar colors transparent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

from langchain_image_variation.images.color import gamma_table
from langchain_image_variation.images.strips import strip_boxes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["has_deep_samples", "load_deep_samples", "reduce_to_8_bits"]

_LOW_BYTES = "low_bytes"
"""The key in an image's `info` for a second image, which holds the low byte of each sample."""


def load_deep_samples(reopen: Callable[[], Image.Image]) -> Image.Image:
    """Decode a PNG file. If it has 16-bit color or alpha, keep the low bytes too.

    Args:
        reopen: Returns the image of the file, not yet decoded. It is called once or twice.
    """
    image = reopen()
    tiles = getattr(image, "tile", [])
    raw_mode = tiles[0].args if tiles else ""
    if raw_mode == "LA;16B":
        # Two 16-bit samples take as many bytes as four 8-bit samples.
        _select_raw_mode(image, "RGBA")
        high, low, high_alpha, low_alpha = image.split()
        info, format = image.info, image.format
        image = Image.merge("LA", (high, high_alpha))
        image.info = {**info, _LOW_BYTES: Image.merge("LA", (low, low_alpha))}
        image.format = format
        return image
    image.load()
    if raw_mode in ("RGB;16B", "RGBA;16B"):
        # In the other byte order, Pillow keeps what is the low byte here.
        low_bytes = reopen()
        _select_raw_mode(low_bytes, f"{image.mode};16L")
        low_bytes.load()
        image.info[_LOW_BYTES] = low_bytes
    return image


def _select_raw_mode(image: Image.Image, raw_mode: str) -> None:
    tiles = image.tile  # type: ignore[attr-defined]  # images from files have it
    image.tile = [tile._replace(args=raw_mode) for tile in tiles]  # type: ignore[attr-defined]  # same


def has_deep_samples(image: Image.Image) -> bool:
    """Return whether an image has samples of 16 bits."""
    return image.mode.startswith("I;16") or _LOW_BYTES in image.info


@lru_cache(maxsize=4)
def _sample_table(gamma: float | None) -> NDArray[np.uint8]:
    """Return the 8-bit sample of each 16-bit sample. Making it takes longer than most images."""
    import numpy as np

    table = np.array(gamma_table(gamma, 65535), np.uint8)
    table.setflags(write=False)
    return table


def reduce_to_8_bits(
    image: Image.Image, box: tuple[int, int, int, int], gamma: float | None
) -> Image.Image:
    """Return a part of an image with 16-bit samples in a plain mode.

    The samples are rounded once, after gamma. A single transparent color becomes alpha.

    Args:
        image: An image for which `has_deep_samples` is true.
        box: The part, as left, top, right and bottom in pixels.
        gamma: The gamma of the samples, or None if they are sRGB.
    """
    # Imported here because few images need it, and importing it takes longer than converting most.
    import numpy as np

    left, top, right, bottom = box
    low_bytes = image.info.get(_LOW_BYTES)
    transparent_color = image.info.get("transparency")
    if not isinstance(transparent_color, int | tuple):
        transparent_color = None
    colors = "RGB" if image.mode.startswith("RGB") else "L"
    has_alpha = image.mode.endswith("A")
    mode = colors + "A" * (has_alpha or transparent_color is not None)
    result = Image.new(mode, (right - left, bottom - top))
    for part_box in strip_boxes(box):
        samples = np.asarray(image.crop(part_box)).astype(np.uint16)
        if low_bytes is not None:
            samples = samples << np.uint16(8) | np.asarray(low_bytes.crop(part_box), np.uint16)
        samples = samples.reshape(samples.shape[0], samples.shape[1], -1)
        parts = [_sample_table(gamma)[samples[..., : len(colors)]]]
        if has_alpha:
            parts.append(_sample_table(None)[samples[..., len(colors) :]])
        elif transparent_color is not None:
            is_transparent = (samples == transparent_color).all(axis=-1, keepdims=True)
            parts.append(np.where(is_transparent, np.uint8(0), np.uint8(255)))
        strip = np.concatenate(parts, axis=-1)
        result.paste(
            Image.fromarray(strip.squeeze(-1) if mode == "L" else strip), (0, part_box[1] - top)
        )
    return result
