import itertools
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from langchain_image_variation.engines.local import pyramid, quilt, warp
from langchain_image_variation.engines.local.change import Yardstick
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.synthesis import Synthesis
from tests.engines.scene import scene, stones

Bytes = NDArray[np.uint8]
T = TypeVar("T")

PHOTO = Path(__file__).parent.parent.parent / "examples" / "astronaut.png"
STRENGTHS = (0.15, 0.3, 0.5, 0.7, 0.85, 1.0)


@cache
def _variations(strength: float) -> list[Bytes]:
    """Three variations of the scene, seeds 0 to 2."""
    synthesis = Synthesis(scene(), strength)
    return [synthesis.draw(seed) for seed in range(3)]


def test_the_amplitude_reaches_the_target() -> None:
    """The measured change is the target, unless the reach is too short."""
    source = scene()
    yardstick = Yardstick(source)
    speed = warp.velocity(Draws(1))
    amplitude = yardstick.amplitude(speed, 0.5, 0.3)
    drawn = quilt.Quilt(source).draw(warp.resample(warp.flow(speed, amplitude), 256))
    assert _change(drawn, source) == pytest.approx(0.5, abs=0.08)
    assert yardstick.amplitude(speed, 9.0, 0.3) == 0.3


@pytest.mark.slow
def test_change_rises_with_strength_and_nothing_breaks() -> None:
    """The median change rises with strength, and no image is a copy, blurred or torn.

    Between 0.3 and 0.85, it can stay the same, because a portrait allows only so tight a crop.
    """
    source = _photo()
    medians = []
    for strength in STRENGTHS:
        synthesis = Synthesis(source, strength, mirror=False)
        variations = [synthesis.draw(seed) for seed in range(4)]
        changes = [_coarse_change(variation, source) for variation in variations]
        medians.append(np.median(changes))
        assert min(changes) > 0.2
        for variation in variations:
            assert _roughness(variation) / _roughness(source) > 0.8
            assert _lost_colors(source, variation) < 0.3
    assert medians[0] < medians[1]
    assert all(other > one - 0.05 for one, other in itertools.pairwise(medians))
    assert medians[-1] == max(medians)
    copies = Synthesis(source, 0.0)
    assert max(_coarse_change(copies.draw(seed), source) for seed in range(4)) < 0.3


@pytest.mark.slow
def test_only_even_images_are_rearranged() -> None:
    """Above 0.6, patches of grass are rearranged, and those of a portrait or a drawing never."""
    with Image.open(PHOTO.with_name("tea-garden.jpg")) as photo:
        box = (100, 0, 500, 400)
        grass = np.asarray(photo.convert("RGB").resize((256, 256), box=box))
    for source, strength, is_rearranged in (
        (grass, 0.5, False),
        (grass, 0.8, True),
        (_photo(), 0.8, False),
        (stones(), 1.0, True),
        (_photo(), 1.0, False),
        (_pattern(), 1.0, False),
    ):
        plain, synthesis = (Synthesis(source, strength, arrange=on) for on in (False, True))
        assert (plain.draw(2) != synthesis.draw(2)).any() == is_rearranged
        assert synthesis.may_rearrange == is_rearranged
        assert (synthesis.rearrange(2) is not None) == is_rearranged
        assert not plain.may_rearrange
        assert plain.rearrange(2) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "dots", "lattice", "letters", "stripes"])
def test_fine_detail_stays_as_fine(kind: str) -> None:
    """Detail that is one pixel wide is neither blurred away nor moved out of the image."""
    source = _fine(kind)
    for strength in (0.15, 0.5):
        synthesis = Synthesis(source, strength)
        for seed in range(3):
            variation = synthesis.draw(seed)
            assert _change(variation, source) > 0.15
            assert _roughness(variation) / _roughness(source) > 0.55
            assert variation.std() / source.std() > 0.65
            assert abs(variation.mean() / source.mean() - 1) < 0.1


def _fine(kind: str) -> Bytes:
    """Gray images of detail one pixel wide, (256, 256, 1)."""
    if kind == "noise":
        return np.random.default_rng(0).integers(0, 256, (256, 256, 1)).astype(np.uint8)
    image = np.full((256, 256, 1), 255, dtype=np.uint8)
    if kind == "dots":
        image[np.random.default_rng(0).random(image.shape) > 0.98] = 0
    elif kind == "lattice":
        image[::16] = image[:, ::16] = 0
    elif kind == "stripes":
        image[::2] = 0
    else:
        page = Image.new("L", (256, 256), 255)
        pen = ImageDraw.Draw(page)
        for line in range(5, 250, 9):
            pen.text((5, line), "The quick brown fox jumps over a lazy dog 123", fill=0)
        image = np.asarray(page)[..., None]
    return image


@pytest.mark.slow
def test_every_level_is_reported() -> None:
    """While an image is made, the finished share is reported after each level and never falls."""
    shares: list[float] = []
    Synthesis(stones(), 1.0).draw(0, shares.append)
    coarse = [side for side in pyramid.sides(16) if side <= 44]
    assert len(shares) >= 4 * len(coarse) + len(pyramid.sides(16)) - len(coarse)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.slow
def test_jobs_can_run_in_any_order() -> None:
    """The image does not depend on the order of its jobs."""

    def backwards(jobs: Sequence[Callable[[], T]], /) -> list[T]:
        return [job() for job in reversed(jobs)][::-1]

    for source, strength in ((scene(), 0.3), (stones(), 1.0)):
        one = Synthesis(source, strength).draw(2)
        other = Synthesis(source, strength, run=backwards).draw(2, run=backwards)
        assert (one == other).all()


@pytest.mark.slow
def test_without_completeness_more_is_lost() -> None:
    """Completeness keeps the share of each color closer to the source."""
    source = stones()
    loss, careless_loss = (
        np.mean([_lost_colors(source, synthesis.draw(seed)) for seed in range(2)])
        for synthesis in (
            Synthesis(source, 1.0, framing=False, complete=complete) for complete in (True, False)
        )
    )
    assert loss < careless_loss


def _pattern() -> Bytes:
    """Draw a pattern of dots in flat colors."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    for y in range(8, 256, 32):
        for x in range(8, 256, 32):
            pen.ellipse(
                (x, y, x + 16, y + 16), (200, 60, 60) if (x + y) // 32 % 2 else (40, 60, 120)
            )
    return np.asarray(image)


@cache
def _photo() -> Bytes:
    with Image.open(PHOTO) as photo:
        return np.asarray(photo.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))


def _coarse_change(variation: Bytes, source: Bytes) -> float:
    """Return the change of an image of 32 pixels. Moved detail does not count."""
    small, small_source = (pyramid.resize(one, 32).astype(float) for one in (variation, source))
    return float(np.sqrt(np.mean((small - small_source) ** 2)) / small_source.std())


def _roughness(image: Bytes) -> float:
    luma = pyramid.gray(image).astype(float)
    return float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def _lost_colors(source: Bytes, variation: Bytes) -> float:
    """Half the sum of differences of two coarse color histograms: 0 same, 1 disjoint."""
    bins = [
        np.bincount((image // 64).astype(int).reshape(-1, 3) @ [16, 4, 1], minlength=64)
        for image in (source, variation)
    ]
    return float(np.abs(bins[0] - bins[1]).sum()) / (2 * 256 * 256)


def _change(variation: Bytes, source: Bytes) -> float:
    difference = pyramid.gray(variation).astype(float) - pyramid.gray(source)
    return float(np.sqrt(np.mean(difference**2)) / pyramid.gray(source).std())
