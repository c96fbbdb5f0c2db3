"""Samples of 8 and 16 bits become the 8-bit sRGB samples of a reference in floating point."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from langchain_image_variation.images.normalize import normalize
from langchain_image_variation.images.pixels import decode_png, decode_result
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from tests.images.encoder import (
    CHANNELS,
    GRAY,
    GRAY_ALPHA,
    INDEXED,
    RGB,
    RGBA,
    SampleImage,
    chunk,
)
from tests.images.profiles import srgb_profile
from tests.images.valid import random_image

GAMMAS = [0.1, 0.3, 0.42, 0.6, 1.0, 1.8, 2.2, 2.8]
TYPES = pytest.mark.parametrize(
    ("color_type", "mode"), [(GRAY, "L"), (GRAY_ALPHA, "LA"), (RGB, "RGB"), (RGBA, "RGBA")]
)
DEPTHS = pytest.mark.parametrize("depth", [8, 16])


def gama(gamma: float) -> bytes:
    """Return a gAMA chunk (clause 11.3.2.2)."""
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def every_tone(color_type: int, depth: int) -> SampleImage:
    """Return an image of all 8-bit tones, or of the 400 darkest and many other 16-bit tones."""
    step = np.linspace(400, 65535, 500).round().astype(int).tolist()
    tones = list(range(256)) if depth == 8 else [*range(400), *step]
    colors = 1 if color_type in (GRAY, GRAY_ALPHA) else 3
    # The samples of a pixel differ, so that swapped samples are found.
    opaque = (2**depth - 1,) * (CHANNELS[color_type] - colors)
    pixels = [
        (*(tones[(at + 7 * number) % len(tones)] for number in range(colors)), *opaque)
        for at in range(len(tones))
    ]
    side = int(len(pixels) ** 0.5)
    rows = [pixels[y * side : (y + 1) * side] for y in range(side)]
    return SampleImage(color_type, depth, rows, filters=(0, 1, 2, 3, 4))


def srgb(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """Apply the transfer function of sRGB (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def assert_rounded(pixels: Image.Image, expected: NDArray[np.floating]) -> None:
    """Assert that each sample is the expected one, correctly rounded."""
    actual = np.asarray(pixels).reshape(expected.shape)
    assert np.abs(actual - expected).max() <= 0.5 + 1e-6


@pytest.mark.mostly_slow("0.1-8-0-L", "0.3-8-4-LA", "0.42-16-2-RGB", "0.6-16-6-RGBA")
@TYPES
@DEPTHS
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gamma_is_exact_in_every_tone(color_type: int, mode: str, depth: int, gamma: float) -> None:
    """Every sample is converted to sRGB by the formulas, even in the darkest tones."""
    sample = every_tone(color_type, depth)
    samples = np.array(sample.rows, np.float64) / (2**depth - 1)
    expected = 255 * srgb(samples ** (1 / gamma))
    pixels = decode_png(load_source(sample.replace_fields(first=gama(gamma)).png()).png)
    assert pixels.mode == mode
    assert_rounded(pixels, expected)


@pytest.mark.mostly_slow("-8-0-L", "-16-2-RGB", "-8-6-RGBA")
@TYPES
@DEPTHS
@pytest.mark.parametrize("first", [b"", gama(1 / 2.2), chunk(b"sRGB", b"\0") + gama(1.0)])
def test_srgb_samples_are_only_rounded(
    color_type: int, mode: str, depth: int, first: bytes
) -> None:
    """Samples of sRGB are rounded to 8 bits; the sRGB chunk has precedence over gAMA."""
    sample = every_tone(color_type, depth)
    data = sample.replace_fields(first=first).png()
    expected = 255 * np.array(sample.rows, np.float64) / (2**depth - 1)
    for pixels in (decode_png(SquarePNG(data)), decode_result(data)):
        assert pixels.mode == mode
        assert_rounded(pixels, expected)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color_type", [GRAY_ALPHA, RGB, RGBA])
def test_all_sixteen_bits_are_read(color_type: int, interlaced: bool) -> None:
    """Both bytes of random 16-bit samples are read, with every filter and interlaced."""
    sample = random_image(color_type, 16).replace_fields(
        interlaced=interlaced, filters=(0, 1, 2, 3, 4), rows=_opaque(color_type)
    )
    expected = 255 * np.array(sample.rows, np.float64) / 65535
    assert_rounded(decode_png(SquarePNG(sample.png())), expected)


def _opaque(color_type: int) -> list[list[tuple[int, ...]]]:
    random = np.random.default_rng(7)
    samples = random.integers(0, 65536, (19, 19, CHANNELS[color_type]))
    if color_type in (GRAY_ALPHA, RGBA):
        samples[..., -1] = np.maximum(samples[..., -1], 4096)
    return [[tuple(map(int, pixel)) for pixel in row] for row in samples]


@pytest.mark.parametrize("color_type", [GRAY, GRAY_ALPHA, RGB, RGBA])
def test_the_note_says_only_what_was_done(color_type: int) -> None:
    """The note does not say that a 16-bit PNG was converted to PNG."""
    rows = [row[:9] for row in _opaque(color_type)]
    source = load_source(SampleImage(color_type, 16, rows).png(), name="deep")
    assert source.note == "deep: cropped 9x19 to the centered 9x9."


@pytest.mark.parametrize(("color_type", "mode"), [(GRAY, "LA"), (RGB, "RGBA")])
@pytest.mark.parametrize("first", [b"", gama(1.0)])
def test_only_the_exact_color_is_transparent(color_type: int, mode: str, first: bytes) -> None:
    """All 16 bits of each sample count for tRNS (clause 11.3.1.1)."""
    clear = (0x1234, 0x5678, 0x9ABC)[: CHANNELS[color_type]]
    others = [tuple(value ^ 1 << bit for value in clear) for bit in range(15)]
    others[0] = (*clear[:-1], clear[-1] ^ 1)
    pixels = [clear, *others]
    rows = [pixels[y * 4 : y * 4 + 4] for y in range(4)]
    sample = SampleImage(color_type, 16, rows, trns=clear, first=first)
    decoded = decode_png(load_source(sample.png()).png)
    assert decoded.mode == mode
    assert list(decoded.getchannel("A").tobytes()) == [0] + [255] * 15


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_palette_and_short_samples_have_gamma_too(gamma: float) -> None:
    """The colors of a palette, and samples of 1, 2 and 4 bits, are converted in the same way."""
    for color_type, depth in ((INDEXED, 8), (GRAY, 1), (GRAY, 2), (GRAY, 4)):
        sample = random_image(color_type, depth)
        values = np.array(sample.rows, np.float64)[..., 0] / (2**depth - 1)
        if color_type == INDEXED:
            values = np.array(sample.palette, np.float64)[np.array(sample.rows)[..., 0]] / 255
        pixels = decode_png(load_source(sample.replace_fields(first=gama(gamma)).png()).png)
        assert_rounded(pixels, 255 * srgb(values ** (1 / gamma)))


@pytest.mark.mostly_slow("0.1-8", "0.6-16")
@DEPTHS
@pytest.mark.parametrize("gamma", GAMMAS)
def test_other_primaries_are_converted_after_gamma(depth: int, gamma: float) -> None:
    """With cHRM, samples become sRGB by the formulas, within 2 of 255 levels."""
    points = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)  # Display P3
    body = struct.pack(">8I", *(round(value * 100_000) for value in points))
    sample = every_tone(RGB, depth).replace_fields(first=gama(gamma) + chunk(b"cHRM", body))
    light = (np.array(sample.rows, np.float64) / (2**depth - 1)) ** (1 / gamma)
    expected = 255 * srgb(np.clip(light @ _to_srgb(points).T, 0, 1))
    actual = np.asarray(decode_png(load_source(sample.png()).png))
    assert np.abs(actual - expected).max() <= 2


def _to_srgb(points: tuple[float, ...]) -> NDArray[np.floating]:
    """Return the matrix from light in these primaries to light in those of sRGB."""

    def to_xyz(values: tuple[float, ...]) -> NDArray[np.floating]:
        xy = np.reshape(values, (4, 2))
        white, *corners = np.column_stack([xy, 1 - xy.sum(axis=1)])
        scales = np.linalg.solve(np.transpose(corners), white / white[1])
        return np.transpose(corners) * scales

    rec709 = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    return np.linalg.solve(to_xyz(rec709), to_xyz(points))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_part_of_a_deep_image_is_the_same_part(depth: int) -> None:
    """Cropping before the conversion gives the same pixels as cropping after it."""
    sample = every_tone(RGB, depth).replace_fields(first=gama(1.0))
    rows = [row[:16] for row in sample.rows[:9]]
    whole = decode_png(load_source(sample.replace_fields(rows=[row[:9] for row in rows]).png()).png)
    wide = load_source(sample.replace_fields(rows=rows).png())
    middle = load_source(sample.replace_fields(rows=[row[3:12] for row in rows]).png())
    assert decode_png(wide.png).tobytes() == decode_png(middle.png).tobytes() != whole.tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda mode: Image.new(mode, (9, 9), 40_000),
        lambda mode: Image.new(mode, (700, 600), 40_000).crop((5, 5, 600, 400)),
    ],
)
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_pil_images_of_sixteen_bits_are_rounded(
    make: Callable[[str], Image.Image], mode: str
) -> None:
    """Each byte order of Pillow's 16-bit gray is rounded, in any size."""
    assert load_source(make(mode)).png.color_type == GRAY
    assert normalize(make(mode)).getextrema() == (156, 156)


def test_a_profile_is_applied_to_rounded_samples() -> None:
    """16-bit samples with an embedded profile are rounded first, and keep their transparency."""
    rows: list[Any] = [[(0xFFFF, 0x80FF, 0), (1, 2, 3)]] * 2
    sample = SampleImage(RGB, 16, rows, trns=(1, 2, 3))
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG", icc_profile=srgb_profile(swap=True))
    iccp = buffer.getvalue()[33 : buffer.getvalue().index(b"IDAT") - 4]
    pixels = decode_png(load_source(sample.replace_fields(first=iccp).png()).png)
    red, green, blue, alpha = pixels.getpixel((0, 0))  # type: ignore[misc]  # a tuple in RGBA
    assert (round(red / 9), round(green / 9), round(blue / 9), alpha) == (0, 14, 28, 255)
    assert pixels.getpixel((1, 0)) == (255, 255, 255, 0)
