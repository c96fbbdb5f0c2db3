from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from langchain_image_variation.engines.local.lettering import has_print
from langchain_image_variation.engines.local.salience import salience
from langchain_image_variation.engines.local.slender import find_slender
from langchain_image_variation.engines.local.straightness import straightness
from langchain_image_variation.engines.local.survey import Survey
from tests.engines.scene import scene, stones

Bytes = NDArray[np.uint8]
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PHOTOS = ("astronaut.png", "chelsea.png", "lake.jpg", "tea-garden.jpg")


def _photo(name: str) -> Bytes:
    with Image.open(EXAMPLES / name) as photo:
        edge = min(photo.size)
        left, top = (photo.width - edge) // 2, (photo.height - edge) // 2
        box = (left, top, left + edge, top + edge)
        return np.asarray(photo.convert("RGB").resize((256, 256), box=box))


def _page(*, is_dark: bool = False) -> Image.Image:
    page = Image.new("L", (256, 256), 30 if is_dark else 240)
    pen = ImageDraw.Draw(page)
    for line in range(10, 240, 14):
        pen.text((8, line), "The quick brown fox jumps over the", fill=230 if is_dark else 20)
    return page


@pytest.mark.parametrize("is_dark", [False, True])
def test_print_is_text(is_dark: bool) -> None:
    """Lines of print are text, dark on light and light on dark."""
    page = np.asarray(_page(is_dark=is_dark))
    assert has_print(page)
    assert not Survey.of(page[..., None]).may_mirror


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_without_print_have_no_text(name: str) -> None:
    """A face, snow on rock, fur and leaves are not text."""
    survey = Survey.of(_photo(name))
    assert survey.may_mirror
    assert not survey.is_graphic
    assert not survey.is_gray


def test_noise_is_not_text() -> None:
    """Noise, a lattice and an image of one color are not text."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    lattice = np.full((256, 256), 255, dtype=np.uint8)
    lattice[::16] = lattice[:, ::16] = 0
    for image in (noise, lattice, np.zeros_like(noise)):
        assert not has_print(image)


def test_an_object_is_more_salient_than_its_ground() -> None:
    """The most salient place of an image is on its object."""
    image = np.full((256, 256, 3), (90, 120, 90), dtype=np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape).astype(np.uint8)
    image[60:110, 150:200] = (220, 60, 40)
    values = salience(image)
    assert values.shape == (64, 64)
    inside = values[16:27, 39:49]
    assert inside.min() > 3 * np.median(values)
    assert values.max() <= 255


def test_a_head_is_salient_up_to_its_hair() -> None:
    """Above skin, there is room for hair, even if it has the color of the ground."""
    image = np.full((256, 256, 3), (60, 70, 60), dtype=np.uint8)
    image[100:180, 100:150] = (224, 172, 135)
    values = salience(image)
    assert values[20:25, 28:36].min() >= 150


def test_thin_things_are_found_on_plain_ground() -> None:
    """A mast is found. One that leaves the image, grass, noise and an edge of two areas are not."""
    plain = np.full((256, 256), 120, dtype=np.uint8)
    mast, cut, edge, grass = (plain.copy() for _ in range(4))
    mast[20:80, 100:102] = 132
    cut[:80, 100:102] = 132
    edge[:, 100:] = 160
    grass[:, ::6] = 200
    found = find_slender(mast)
    assert found[5:20, 25].min() == 255
    assert found.sum() == 255 * 15
    noise = np.random.default_rng(0).integers(0, 256, plain.shape, dtype=np.uint8)
    for image in (plain, cut, edge, grass, noise):
        assert not find_slender(image).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_image_can_be_surveyed(channels: int) -> None:
    """Images of one color, of any number of channels, have no object, and may be mirrored."""
    for value in (0, 128, 255):
        survey = Survey.of(np.full((256, 256, channels), value, dtype=np.uint8))
        assert survey.objects.shape == (64, 64)
        assert 0 <= survey.evenness <= 1


def test_textures_are_even_and_portraits_are_not() -> None:
    """Patches of a tea garden may be rearranged, and those of other photos may not."""
    evenness = {name: Survey.of(_photo(name)).evenness for name in PHOTOS}
    assert evenness.pop("tea-garden.jpg") > 0.9
    assert max(evenness.values()) < 0.8
    assert Survey.of(stones()).may_rearrange


def test_an_object_on_even_ground_is_not_even() -> None:
    """Detail in one place is an object, even if its colors are those of the ground."""
    image = np.full((256, 256, 3), 128, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (128, 96, 3))
    image[64:192, 80:176] = noise
    assert Survey.of(image).evenness < 0.6
    assert not Survey.of(image).may_rearrange
    image[:] = np.tile(noise, (2, 3, 1))[:, :256]
    assert Survey.of(image).evenness > 0.95


def test_straight_lines_are_not_rearranged() -> None:
    """A wall of bricks is as even as a texture, but its lines would break."""
    wall = Image.fromarray(np.random.default_rng(0).integers(90, 130, (256, 256)).astype(np.uint8))
    pen = ImageDraw.Draw(wall)
    for row in range(0, 256, 16):
        pen.line((0, row, 255, row), fill=220, width=3)
        for place in range(row % 32, 256, 32):
            pen.line((place, row, place, row + 16), fill=220, width=3)
    survey = Survey.of(np.asarray(wall)[..., None])
    assert survey.evenness > 0.95
    assert not survey.may_rearrange
    assert not survey.may_bend


def test_straight_lines_are_found() -> None:
    """A lattice, upright or slightly turned, is straight. Discs and noise are not."""
    lattice = Image.new("L", (256, 256), 255)
    pen = ImageDraw.Draw(lattice)
    for place in range(0, 256, 32):
        pen.line((place, 0, place, 255), fill=0, width=4)
        pen.line((0, place, 255, place), fill=0, width=4)
    turned = lattice.rotate(7, Image.Resampling.BICUBIC, fillcolor=255)
    for image in (lattice, turned):
        assert straightness(np.asarray(image)) > 0.15
    discs = Image.new("L", (256, 256), 255)
    pen = ImageDraw.Draw(discs)
    for y in range(30, 256, 60):
        for x in range(30, 256, 60):
            pen.ellipse((x - 20, y - 20, x + 20, y + 20), fill=0)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    for values in (np.asarray(discs), noise):
        assert straightness(values) < 0.05


def test_gray_photos_are_gray() -> None:
    """A gray photo stored as RGB is gray, even with the color noise of JPEG."""
    gray = scene()[..., :1].repeat(3, axis=2)
    noise = np.random.default_rng(0).integers(0, 4, gray.shape).astype(np.uint8)
    assert Survey.of(gray).is_gray
    assert Survey.of(np.minimum(gray, 250) + noise).is_gray
    assert not Survey.of(scene()).is_gray
