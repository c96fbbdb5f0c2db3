import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.engines.local.light import relight
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png


def test_light_changes_tone_and_color_only() -> None:
    """Equal pixels stay equal, the change is small, and strength 0 changes nothing."""
    before = np.asarray(_photo()).reshape(-1, 3)
    for seed in range(4):
        after = np.asarray(relight(_photo(), seed, 0.35)).reshape(-1, 3)
        assert 0 < np.abs(before.astype(int) - after).mean() < 12
        colors, index = np.unique(before, axis=0, return_inverse=True)
        new_colors = np.zeros_like(colors)
        new_colors[index.reshape(-1)] = after
        assert (new_colors[index.reshape(-1)] == after).all()
        assert (np.asarray(relight(_photo(), seed, 0.0)).reshape(-1, 3) == before).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_light_keeps_mode_and_alpha(mode: str) -> None:
    """Alpha stays as it is, and gray gets a different tone but no color."""
    image = _photo().convert(mode)
    lit = relight(image, 3, 0.8)
    assert lit.mode == mode
    assert lit.tobytes() != image.tobytes()
    if "A" in mode:
        assert lit.getchannel("A").tobytes() == image.getchannel("A").tobytes()


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
        assert relight(opened, 1, 0.35).tobytes() == Image.open(io.BytesIO(lit)).tobytes()


def _photo() -> Image.Image:
    """Smooth colors with room on all sides."""
    y, x = np.mgrid[:64, :64] / 64
    colors = np.stack([90 + 80 * y, 120 + 60 * x, 150 - 70 * y * x], axis=2)
    return Image.fromarray(colors.astype(np.uint8))


@pytest.mark.parametrize("strength", [0.15, 0.5, 1.0])
def test_light_clips_no_colors(strength: float) -> None:
    """However rich colors are, different ones stay different, and grays stay gray."""
    generator = np.random.default_rng(0)
    rich = generator.integers(0, 256, (4000, 3)) * generator.integers(0, 2, (4000, 3))
    grays = np.repeat(np.arange(0, 256, 4), 3).reshape(-1, 3)
    colors = np.concatenate([rich, grays]).astype(np.uint8)
    image = Image.fromarray(colors[None])
    for seed in range(8):
        lit = np.asarray(relight(image, seed, strength))[0].astype(int)
        assert np.ptp(lit[-len(grays) :], axis=1).max() <= 1
        assert _at_the_ends(lit) < _at_the_ends(colors) + 0.01
        assert len(np.unique(lit, axis=0)) > 0.9 * len(np.unique(colors, axis=0))


def test_light_makes_some_paler_and_some_richer() -> None:
    """A photo with stray pixels of pure color still gets richer with some seeds."""
    colors = np.asarray(_photo()).copy()
    colors[0, :8] = (255, 254, 0)
    colors[1] = (255, 255, 254)
    before = np.ptp(colors.astype(int), axis=2).mean()
    after = [
        np.ptp(np.asarray(relight(Image.fromarray(colors), seed, 0.8)).astype(int), axis=2).mean()
        for seed in range(20)
    ]
    assert min(after) < 0.95 * before
    assert max(after) > 1.02 * before


def _at_the_ends(colors: NDArray[Any]) -> float:
    """Return the share of values that are the smallest or largest possible."""
    return float(((colors == 0) | (colors == 255)).mean())
