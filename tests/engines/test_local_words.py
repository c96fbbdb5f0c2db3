import itertools
import math
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from langchain_image_variation.engines.local.components import Components, Luma
from langchain_image_variation.engines.local.survey import Survey
from langchain_image_variation.engines.local.words import has_words
from tests.engines.scene import scene

Bytes = NDArray[np.uint8]
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PHOTOS = ("astronaut.png", "chelsea.png", "lake.jpg", "tea-garden.jpg")
WORDS = ("42", "EXIT", "Hotel", "bread", "open daily", "FC 1904")
SIZES = (36, 60, 110)
COLORS = ("white", "black", (250, 210, 60), (190, 20, 30))


def _photo(name: str) -> Image.Image:
    return _read_photo(name).copy()


@cache
def _read_photo(name: str) -> Image.Image:
    with Image.open(EXAMPLES / name) as photo:
        edge = min(photo.size)
        left, top = (photo.width - edge) // 2, (photo.height - edge) // 2
        box = (left, top, left + edge, top + edge)
        return photo.convert("RGB").resize((512, 512), box=box)


def _with_sign(name: str, word: str, size: int, number: int) -> Bytes:
    """Put words on a photo: on a turned sign, or without a sign."""
    photo, font = _photo(name), ImageFont.load_default(size)
    width, height = (int(length) + size for length in font.getbbox(word)[2:])
    ink, plate = COLORS[number % 4], COLORS[(number + 1) % 4]
    sign = Image.new("RGBA", (width, height), plate if number % 2 else (0, 0, 0, 0))
    ImageDraw.Draw(sign).text((size // 2, size // 2), word, ink, font)
    turned = sign.rotate(7 - 5 * (number % 4), Image.Resampling.BICUBIC, expand=True)
    turned.thumbnail((480, 480))
    place = ((511 - turned.width) * (number % 3) // 2, (511 - turned.height) * (number % 5) // 4)
    photo.paste(turned, place, turned)
    noise = np.random.default_rng(number).normal(0, 3, (256, 256, 1))
    values = np.asarray(photo.resize((256, 256), Image.Resampling.LANCZOS)) + noise
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.mostly_slow("small")
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES], ids=["small", "all"])
def test_signs_are_not_mirrored(sizes: tuple[int, ...]) -> None:
    """Single words and numbers on a photo are found, in seven of eight cases or more."""
    cases = enumerate(itertools.product(SIZES, PHOTOS, WORDS))
    may_mirror = [
        Survey.of(_with_sign(name, word, size, number)).may_mirror
        for number, (size, name, word) in cases
        if size in sizes
    ]
    assert np.mean(may_mirror) <= 1 / 8


def test_photos_without_words_may_be_mirrored() -> None:
    """Snow on rock, fur, leaves and plain discs are not words, however the photo is resized."""
    kernels = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
    for name, kernel in itertools.product(PHOTOS, kernels):
        small = _photo(name).convert("L").resize((256, 256), kernel)
        assert not has_words(np.asarray(small))
    assert not has_words(scene()[..., 1])


def test_a_clock_face_shows_numbers() -> None:
    """The numbers of a clock face are found: mirrored, the clock would run backwards."""
    image = Image.new("L", (512, 512), 120)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(36)
    pen.ellipse((100, 100, 412, 412), 245, 20, 8)
    for hour in range(1, 13):
        angle = math.radians(30 * hour - 90)
        place = 256 + 127 * math.cos(angle), 256 + 127 * math.sin(angle)
        pen.text(place, str(hour), 20, font, anchor="mm")
    assert has_words(np.asarray(image.resize((256, 256))))


def test_bars_windows_and_noise_are_not_words() -> None:
    """A fence, a wall of windows, noise and an image of one color are not words."""
    fence, windows = np.full((2, 256, 256), 200, dtype=np.uint8)
    for place in range(10, 240, 20):
        fence[100:180, place : place + 8] = 40
        for top in range(10, 240, 30):
            windows[top : top + 16, place : place + 10] = 50
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    for image in (fence, windows, noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert not has_words(image)


def test_thousands_of_small_parts_take_little_memory() -> None:
    """An image full of small hooks, each of which could be a letter, takes a few megabytes."""
    hooks = np.full((256, 256), 230, dtype=np.uint8)
    for top, left in itertools.product(range(1, 250, 6), range(1, 252, 4)):
        hooks[top : top + 5, left] = hooks[top + 4, left : left + 2] = 20
    tracemalloc.start()
    try:
        assert not has_words(hooks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_connected_parts_are_found() -> None:
    """A ring, a dot inside it, and two pixels that touch at a corner are three parts."""
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:25, 10:30] = True
    mask[8:22, 13:27] = False
    mask[14:16, 18:21] = True
    mask[30, 40] = mask[31, 41] = True
    luma = np.where(mask, 200, 50).astype(np.uint8)
    parts = Components.of(mask, Luma(luma))
    boxes = [parts.top, parts.bottom, parts.left, parts.right]
    assert np.stack(boxes, axis=1).tolist() == [
        [5, 25, 10, 30],
        [14, 16, 18, 21],
        [30, 32, 40, 42],
    ]
    assert parts.area.tolist() == [20 * 20 - 14 * 14, 6, 2]
    assert parts.run_count.tolist() == [6 + 2 * 14, 2, 2]
    assert (parts.total == 200 * parts.area).all()
    assert (parts.square_total == 200**2 * parts.area).all()
    empty = Components.of(np.zeros_like(mask), Luma(luma))
    assert empty.area.shape == (0,)
