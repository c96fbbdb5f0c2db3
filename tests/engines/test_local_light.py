import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.local import LocalEngine, oklab
from langchain_image_variation.engines.local.light import MOODS, relight
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.series import MOOD_COUNT, Shot
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

MOOD_INDEXES = range(len(MOODS))


def _photo() -> Image.Image:
    """Smooth colors with room on all sides."""
    y, x = np.mgrid[:64, :64] / 64
    colors = np.stack([90 + 80 * y, 120 + 60 * x, 150 - 70 * y * x], axis=2)
    return Image.fromarray(colors.astype(np.uint8))


def _pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def test_oklab_is_its_own_inverse() -> None:
    """Colors that become OKLab values and colors again do not change."""
    axis = np.linspace(0, 1, 16)
    rgb = [plane.reshape(-1) for plane in np.meshgrid(axis, axis, axis)]
    lab = oklab.from_srgb(*rgb)
    assert oklab.is_displayable(*lab).all()
    assert np.abs(np.array(oklab.to_srgb(*lab)) - np.array(rgb)).max() < 1e-5


@pytest.mark.parametrize(
    ("color", "lab"),
    # Ottosson 2020, "A perceptual color space for image processing".
    [
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((1, 0, 0), (0.628, 0.225, 0.126)),
        ((0, 0, 1), (0.452, -0.032, -0.312)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_oklab_values_are_those_of_the_article(
    color: tuple[float, ...], lab: tuple[float, ...]
) -> None:
    """White, red, blue and black have the published values."""
    result = oklab.from_srgb(*(np.array([channel], dtype=float) for channel in color))
    assert np.allclose(np.array(result)[:, 0], lab, atol=2e-3)


@pytest.mark.parametrize("mood", MOOD_INDEXES)
def test_light_is_visible_and_moves_nothing(mood: int) -> None:
    """In every mood, the image clearly changes, its shapes stay, and amount 0 is a copy."""
    photo = _photo()
    lit = _pixels(relight(photo, 3, mood, 1.0))
    change = np.abs(lit - _pixels(photo)).mean()
    assert 5 < change < 60
    correlation = np.corrcoef(lit[..., 1].reshape(-1), _pixels(photo)[..., 1].reshape(-1))
    assert correlation[0, 1] > 0.6
    assert np.abs(_pixels(relight(photo, 3, mood, 0.0)) - _pixels(photo)).max() <= 1


def test_moods_differ_from_each_other() -> None:
    """No two moods make similar images."""
    images = [_pixels(relight(_photo(), 0, mood, 1.0)) for mood in MOOD_INDEXES]
    for one in MOOD_INDEXES:
        for other in range(one):
            assert np.abs(images[one] - images[other]).mean() > 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_light_keeps_mode_and_alpha(mode: str) -> None:
    """Alpha stays as it is, and gray gets a different tone but no color."""
    image = _photo().convert(mode)
    lit = relight(image, 3, 1, 0.8)
    assert lit.mode == mode
    assert lit.tobytes() != image.tobytes()
    if "A" in mode:
        assert lit.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("mood", MOOD_INDEXES)
def test_a_gray_image_gets_no_color(mood: int) -> None:
    """An image without color, stored as RGB, has equal channels in every light."""
    gray = _photo().convert("L")
    lit = _pixels(relight(gray.convert("RGB"), 1, mood, 1.0, is_gray=True))
    assert (lit == lit[..., :1]).all()
    assert (lit[..., 0] == _pixels(relight(gray, 1, mood, 1.0, is_gray=True))).all()


@pytest.mark.parametrize("mood", MOOD_INDEXES)
def test_a_graphic_keeps_its_grays(mood: int) -> None:
    """In a logo, black and white stay, grays get no color, and one color stays one color."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste((200, 30, 60), (0, 16, 64, 32))
    image.paste((128, 128, 128), (0, 32, 64, 48))
    image.paste((0, 0, 0), (0, 48, 64, 64))
    lit = _pixels(relight(image, 2, mood, 1.0, is_graphic=True))
    assert (lit[:16] == 255).all()
    assert (lit[48:] == 0).all()
    assert np.ptp(lit[32:48].reshape(-1, 3), axis=0).max() == 0
    assert np.ptp(lit[40, 0]) <= 1
    assert len(np.unique(lit[16:32].reshape(-1, 3), axis=0)) == 1


def test_light_can_be_turned_off() -> None:
    """Without `light`, the shapes are the same and have the colors of the source."""
    request = CreateImageVariationRequest(
        image=SquarePNG(square_png(128)), size="256x256", response_format="b64_json"
    )
    plain, lit = (
        LocalEngine(seed=1, strength=0.35, light=light).create_variation(request).data[0].read()
        for light in (False, True)
    )
    with Image.open(io.BytesIO(plain)) as opened:
        expected = relight(opened, 1, Shot.of(1).mood, schedule(0.35).light)
        assert expected.tobytes() == Image.open(io.BytesIO(lit)).tobytes()


@pytest.mark.parametrize("mood", MOOD_INDEXES)
@pytest.mark.parametrize("amount", [0.15, 1.0, 1.3])
def test_light_clips_no_colors(mood: int, amount: float) -> None:
    """However rich colors are, different ones stay different."""
    generator = np.random.default_rng(0)
    rich = generator.integers(0, 256, (4000, 3)) * generator.integers(0, 2, (4000, 3))
    colors = rich.astype(np.uint8)
    image = Image.fromarray(colors[None])
    lit = _pixels(relight(image, mood, mood, amount))[0]
    assert _at_the_ends(lit) < _at_the_ends(colors) + 0.01
    assert len(np.unique(lit, axis=0)) > 0.85 * len(np.unique(colors, axis=0))


@pytest.mark.parametrize("mood", MOOD_INDEXES)
def test_tones_keep_their_order(mood: int) -> None:
    """In a gray image, what was lighter stays lighter or as light, and the range is kept."""
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 1)))
    lit = _pixels(relight(ramp, 5, mood, 1.0, is_gray=True))
    assert (np.diff(lit, axis=1) >= 0).all()
    assert (np.ptp(lit, axis=1) > 200).all()


@pytest.mark.parametrize("mood", MOOD_INDEXES)
def test_skin_stays_skin(mood: int) -> None:
    """In every light, skin of any shade stays between red and yellow, and is not gray."""
    shades = [(241, 194, 166), (224, 172, 135), (198, 134, 96), (141, 85, 56), (90, 56, 40)]
    image = Image.fromarray(np.array([shades], dtype=np.uint8).repeat(8, axis=0))
    for row in _pixels(relight(image, mood, mood, 1.0)):
        for red, green, blue in row:
            assert red > green > blue - 6
            assert red - blue > 15


def _at_the_ends(colors: NDArray[np.integer]) -> float:
    """Return the share of values that are the smallest or largest possible."""
    return float(((colors == 0) | (colors == 255)).mean())


def test_the_moods_are_those_of_a_series() -> None:
    """A shot names one of the moods."""
    assert len(MOODS) == MOOD_COUNT
    assert {Shot.of(seed).mood for seed in range(10)} == set(MOOD_INDEXES)
