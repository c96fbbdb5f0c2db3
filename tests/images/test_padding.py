from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, ImageStat

from langchain_image_variation.images.normalize import PLAIN_MODES
from langchain_image_variation.images.padding import add_blurred_bars, add_mirrored_bars
from langchain_image_variation.images.pixels import decode_result, pixel_sha256
from pytest_image_variation.samples import non_square_png

Pad: TypeAlias = Callable[[Image.Image, int], Image.Image]

BOTH = pytest.mark.parametrize("pad", [add_mirrored_bars, add_blurred_bars])


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return an image with random colors. Alpha is random too, but never 0."""
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(random.integers(1, 256, (height, width), np.uint8)))
    return image


@BOTH
@settings(max_examples=40)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(PLAIN_MODES),
    portion=st.floats(0, 1),
)
def test_the_image_itself_is_unchanged(
    pad: Pad, width: int, height: int, mode: str, portion: float
) -> None:
    """The square is as large as the longer side, and shows the image where the margin says."""
    image = noise(width, height, mode)
    side = max(width, height)
    margin = round(portion * (side - min(width, height)))
    square = pad(image, margin)
    assert (square.size, square.mode) == ((side, side), mode)
    left, top = (0, margin) if width >= height else (margin, 0)
    assert square.crop((left, top, left + width, top + height)).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_mirrored_bars_repeat_the_image(mode: str) -> None:
    """Each copy is the mirror image of its neighbor, even if a bar is wider than the image."""
    image = noise(50, 7, mode)
    square = add_mirrored_bars(image, 20)
    for top in range(20 - 2 * 7, 50 - 7, 7):
        copy = square.crop((0, top, 50, top + 7))
        expected = image if (top - 20) % 14 == 0 else ImageOps.flip(image)
        assert copy.tobytes() == expected.tobytes()
    turned = add_mirrored_bars(image.transpose(Image.Transpose.TRANSPOSE), 20)
    assert turned.tobytes() == square.transpose(Image.Transpose.TRANSPOSE).tobytes()


def test_bars_are_sharp_at_the_image_and_soft_far_away() -> None:
    """The rows next to the image are its mirror image. Far away, no details are left."""
    image = noise(600, 100)
    square = add_blurred_bars(image, 250)
    edge = ImageOps.flip(image.crop((0, 0, 600, 4)))
    assert square.crop((0, 246, 600, 250)).tobytes() == edge.tobytes()
    deviations = [
        ImageStat.Stat(square.crop((0, top, 600, top + 20))).stddev[0] for top in (230, 180, 100, 0)
    ]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[0] > 10 * deviations[-1]


@pytest.mark.parametrize("width", [515, 516, 2185])
@pytest.mark.parametrize("edge", ["first", "last"])
def test_a_dark_edge_does_not_darken_the_bars(width: int, edge: str) -> None:
    """A line at the edge weighs as much as any other line, whether the side is odd or even."""
    image = Image.new("L", (width, width // 2), "white")
    left = 0 if edge == "first" else width - 1
    image.paste(0, (left, 0, left + 1, image.height))
    square = add_blurred_bars(image, (width - image.height) // 2)
    # Where the square ends, about a sixteenth of its side is averaged.
    limit = 255 - 3 * 255 // (width // 16)
    assert min(square.crop((0, 0, width, 4)).tobytes()) >= limit


@BOTH
def test_bars_have_the_colors_of_the_image(pad: Pad) -> None:
    """No bar is black, white or transparent if the image is not, and its mean color stays."""
    image = decode_result(non_square_png())
    mean = ImageStat.Stat(image).mean
    for bar in ((0, 0, 96, 16), (0, 80, 96, 96)):
        part = pad(image, 16).crop(bar)
        assert all(abs(a - b) < 60 for a, b in zip(ImageStat.Stat(part).mean, mean, strict=True))
    plain = Image.new("RGBA", (9, 2), (200, 10, 60, 77))
    # Alpha makes blurred colors less precise.
    for band, value in zip(pad(plain, 3).split(), (200, 10, 60, 77), strict=True):
        assert abs(ImageStat.Stat(band).mean[0] - value) <= 2


@BOTH
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_margins_stay_transparent(pad: Pad, mode: str) -> None:
    """If the image is transparent at an edge, the bars are. A hole inside changes nothing."""
    image = Image.new("RGBA", (40, 10), "red")
    image.paste((0, 0, 0, 0), (15, 3, 25, 7))
    image = image.convert(mode)
    bars = (0, 0, 40, 15), (0, 25, 40, 40)
    square = pad(image, 15)
    assert all(square.crop(bar).getchannel("A").getextrema()[1] == 255 for bar in bars)
    image.putpixel((39, 9), (0,) * len(mode))
    square = pad(image, 15)
    assert all(square.crop(bar).getchannel("A").getextrema() == (0, 0) for bar in bars)


def test_bars_are_the_same_on_every_machine() -> None:
    """The pixels have known hashes. Names, cache keys and resumed batches depend on them."""
    samples = bytes(index * index // 37 % 256 for index in range(3 * 211 * 67))
    image = Image.frombytes("RGB", (211, 67), samples)
    alpha = Image.frombytes("L", image.size, bytes(1 + index % 255 for index in range(211 * 67)))
    faded = image.copy()
    faded.putalpha(alpha)
    hashes = [
        pixel_sha256(pad(original, 70))[:16]
        for pad in (add_mirrored_bars, add_blurred_bars)
        for original in (image, faded, alpha)
    ]
    assert hashes == [
        *("bd6bc90222f1ad0e", "6ed49a38e798f5cd", "fff05ee7eed20bed"),
        *("e99181a7a76cf056", "408756b09592fd70", "e77cb617b5b386a0"),
    ]
