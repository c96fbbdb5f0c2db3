import dataclasses
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from langchain_image_variation.engines.local.framing import View, choose_view, look_through
from langchain_image_variation.engines.local.quilt import Quilt
from langchain_image_variation.engines.local.series import Shot
from langchain_image_variation.engines.local.survey import Survey
from tests.engines.scene import scene

Bytes = NDArray[np.uint8]
SEEDS = range(12)


def _still_life(y: int, x: int, radius: int = 40) -> Bytes:
    """A disc before soft ground of several colors."""
    rows, columns = np.mgrid[:256, :256]
    image = np.stack([110 + rows // 8, 130 + columns // 8, 120 - rows // 8], axis=2)
    image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = (230, 60, 40)
    return image.astype(np.uint8)


def _is_disc(image: Bytes) -> NDArray[np.bool_]:
    values = image.astype(int)
    return np.asarray(values[..., 0] - values[..., 2] > 100)


@pytest.mark.parametrize(("y", "x"), [(128, 128), (60, 128), (128, 60), (190, 190), (60, 200)])
def test_what_is_salient_stays_inside(y: int, x: int) -> None:
    """No view of a seed cuts the object, wherever it is."""
    source = _still_life(y, x)
    survey, quilt = Survey.of(source), Quilt(source)
    for seed in SEEDS:
        view = choose_view(survey, seed, 0.2, 1.0)
        disc = _is_disc(quilt.draw(look_through(view, 256), snap=False))
        border = np.concatenate([disc[0], disc[-1], disc[:, 0], disc[:, -1]])
        assert not border.any()
        assert disc.sum() > 0.9 * _is_disc(source).sum()


@pytest.mark.parametrize(("tip", "height"), [(14, 50), (18, 70), (24, 40)])
def test_masts_are_not_cut(tip: int, height: int) -> None:
    """A pale mast that is two pixels wide stays whole, though it hardly differs from the sky."""
    source = _still_life(128, 128, 30)
    for column in (70, 150, 190):
        source[tip : tip + height, column : column + 2] += np.uint8(20)
    mast = source[..., 1].astype(int) - _still_life(128, 128, 30)[..., 1] > 10
    marked = np.dstack([source, np.where(mast, 255, 0).astype(np.uint8)])
    survey, quilt = Survey.of(source), Quilt(marked)
    for seed in SEEDS:
        shown = quilt.draw(look_through(choose_view(survey, seed, 0.2, 1.0), 256), snap=False)
        is_mast = shown[..., 3] > 128
        border = np.concatenate([is_mast[0], is_mast[-1], is_mast[:, 0], is_mast[:, -1]])
        assert not border.any()


def test_a_large_view_hardly_moves() -> None:
    """A view that must show nearly all of the source turns and tilts less than a closer one."""
    objects = np.zeros((64, 64), dtype=np.int64)
    objects[2:62, 2:62] = 255
    survey = dataclasses.replace(Survey.of(scene()), objects=objects)
    for seed in SEEDS:
        view = choose_view(survey, seed, 0.2, 1.0)
        assert view.side > 0.95
        assert max(abs(view.turn), *(abs(tilt) for tilt in view.tilt)) < 0.05


def test_views_of_consecutive_seeds_differ() -> None:
    """Any four consecutive seeds prefer four different parts of the source."""
    for first in range(10):
        assert len({Shot.of(seed).side for seed in range(first, first + 4)}) == 4
        moods = [Shot.of(seed).mood for seed in range(first, first + 4)]
        assert len(set(moods)) == 4
    survey = Survey.of(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    views = [choose_view(survey, seed, 0.2, 1.0) for seed in range(4)]
    for one, other in itertools.combinations(views, 2):
        assert abs(one.y - other.y) + abs(one.x - other.x) > 0.04


def test_shots_show_other_sides() -> None:
    """Four consecutive shots differ in side, mirrored or not. Multiples of 4 are not mirrored."""
    for first in range(8):
        shots = [Shot.of(seed) for seed in range(first, first + 4)]
        assert len({shot.side for shot in shots}) == 4
        mirrored_sides = {shot.side for shot in shots if shot.is_mirrored}
        assert len(mirrored_sides) == sum(shot.is_mirrored for shot in shots) == 3
        assert Shot.of(first).is_mirrored is (first % 4 != 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_views_stay_inside_the_source(seed: int) -> None:
    """No pixel of a view comes from outside the source, and most of the source is shown."""
    view = choose_view(Survey.of(scene()), seed, 0.2, 1.0)
    place = (np.arange(256) + 0.5) / 256
    y, x = look_through(view, 256) + np.stack(np.meshgrid(place, place, indexing="ij"))
    assert min(y.min(), x.min()) > -1e-3
    assert max(y.max(), x.max()) < 1 + 1e-3
    assert min(np.ptp(y, axis=0).min(), np.ptp(x, axis=1).min()) > 0.7


def test_straight_lines_stay_straight() -> None:
    """Points of a line are on one line in a view that turns and tilts."""
    view = View(0.5, 0.5, 0.8, 0.03, (0.07, -0.06))
    place = (np.arange(256) + 0.5) / 256
    y, x = look_through(view, 256) + np.stack(np.meshgrid(place, place, indexing="ij"))
    for line in (np.s_[100], np.s_[:, 30], (np.arange(256), np.arange(256))):
        points = np.stack([y[line], x[line]], axis=1).astype(float)
        points -= points.mean(axis=0)
        assert np.linalg.svd(points, compute_uv=False)[1] < 1e-4


def test_a_turned_stretched_image_is_turned() -> None:
    """In an image that was stretched to a square, a square stays a square when it is turned."""
    view, aspect = View(0.5, 0.5, 0.8, 0.1), 0.5
    moved = look_through(view, 256, aspect)
    y, x = np.gradient(moved[0]), np.gradient(moved[1])
    down = np.array([1 / 256 + y[0][0, 0], x[0][0, 0]]) * [aspect, 1]
    across = np.array([y[1][0, 0], 1 / 256 + x[1][0, 0]]) * [aspect, 1]
    assert abs(down @ across) / np.linalg.norm(down) / np.linalg.norm(across) < 1e-3


def test_a_weak_view_is_nearly_the_source() -> None:
    """At the least strength, the view moves nothing by more than two hundredths of the side."""
    for seed in SEEDS:
        view = choose_view(Survey.of(scene()), seed, 0.02, 0.1)
        assert np.abs(look_through(view, 256)).max() < 0.025


def _logo() -> Bytes:
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, 236, 236), (20, 60, 160))
    pen.ellipse((70, 70, 186, 186), (250, 200, 0))
    return np.asarray(image)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_logo_is_shown_whole_and_upright(seed: int) -> None:
    """A logo moves and changes in size, but is neither cut nor turned nor bent."""
    source = _logo()
    survey = Survey.of(source)
    assert survey.is_graphic
    assert survey.is_boundless
    view = choose_view(survey, seed, 0.2, 1.0)
    assert (view.turn, view.tilt) == (0.0, (0.0, 0.0))
    shown = Quilt(source).draw(look_through(view, 256), snap=False)
    edge = np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
    assert (edge > 250).all()
    blue = shown[..., 0].astype(int) + 60 < shown[..., 2]
    rows, columns = np.flatnonzero(blue.any(axis=1)), np.flatnonzero(blue.any(axis=0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert 170 < np.ptp(rows) < 256
    assert blue[rows[3]].sum() == pytest.approx(np.ptp(columns), abs=3)
