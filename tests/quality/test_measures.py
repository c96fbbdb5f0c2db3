"""Tests of the measures behind the quality benchmark, on pictures whose answers are known."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from quality.bends import bends
from quality.crop import crop as measure_crop
from quality.difference import difference
from quality.pieces import pieces
from quality.registration import register
from quality.text import text
from tests.quality.pictures import bent, crop, discs, lines, page, scene

pytestmark = pytest.mark.slow


def test_a_line_bent_by_a_sine_is_measured() -> None:
    """A line bent by a sine of 3 pixels is 3 / sqrt(2) pixels from straight."""
    found = bends(register(lines(), bent(lines(), 3, 70)))
    long = [one.bend for one in found if one.size > 150 and one.found_share > 0.9]
    assert len(long) >= 4
    assert np.median(long) == pytest.approx(3 / math.sqrt(2), abs=0.35)


def test_a_frame_does_not_bend_lines() -> None:
    """Cropping, mirroring and another light leave lines straight to a tenth of a pixel."""
    variation = (crop(lines(), 20, 15, 215, mirror=True) * 0.8).astype(np.uint8)
    found = bends(register(lines(), variation))
    long = [one for one in found if one.size > 150]
    assert len(long) >= 4
    assert max(one.bend for one in long if one.found_share > 0.9) < 0.15
    assert max(one.turn for one in long if one.found_share > 0.9) < 0.2


def test_an_egg_is_no_ellipse() -> None:
    """A disc bent into another shape has a bend, a disc that moved closer has none."""
    source = discs((128, 128))
    assert max(one.bend for one in bends(register(source, crop(source, 20, 24, 210)))) < 0.25
    egg = bends(register(source, bent(source, 7, 90)))
    assert max(one.bend for one in egg if one.size > 150) > 1


@pytest.mark.parametrize("mirror", [False, True])
def test_the_frame_is_found(mirror: bool) -> None:
    """A known crop is found to a pixel, mirrored or not, in another light."""
    variation = (255 * (crop(scene(), 30, 18, 200, mirror=mirror) / 255) ** 1.5).astype(np.uint8)
    found = register(scene(), variation)
    expected = np.array([[30.0, 18], [230, 18], [230, 218], [30, 218]])
    corners = np.array([[-0.5, -0.5], [255.5, -0.5], [255.5, 255.5], [-0.5, 255.5]])
    if mirror:
        corners[:, 0] = 255 - corners[:, 0]
    assert found.mirrored == mirror
    assert np.abs(found.in_source(corners) + 0.5 - expected).max() < 1.5


def test_a_copy_differs_in_nothing() -> None:
    """A copy has no change, no fault, and no new edge."""
    registration = register(scene(), scene())
    change, found, edge = difference(registration), pieces(registration), measure_crop(registration)
    assert change.side == 0
    assert max(change.framing, change.light, change.arrangement) < 0.005
    assert max(dataclasses.astuple(dataclasses.replace(found, unique_share=0))) < 0.01
    assert max(edge.cut_length, edge.lost_share) < 0.01


def test_each_change_is_its_own_number() -> None:
    """A mirrored picture changes side, a smaller frame framing, and a darker one light."""
    mirrored = difference(register(scene(), scene()[:, ::-1].copy()))
    assert mirrored.side == 1
    assert max(mirrored.framing, mirrored.light) < 0.01
    framed = difference(register(scene(), crop(scene(), 28, 28, 200)))
    # Points move toward the middle by a share of their distance from it.
    assert framed.framing == pytest.approx((1 - 200 / 256) / math.sqrt(6), abs=0.01)
    assert framed.light < 0.02
    darker = difference(register(scene(), (scene() * 0.6).astype(np.uint8)))
    assert darker.light > 0.2
    assert darker.framing < 0.01


def test_a_second_disc_is_doubled() -> None:
    """A disc that is there twice is found, and two discs of the source are not."""
    one, two = discs((90, 120)), discs((90, 120), (185, 130))
    assert pieces(register(one, two)).doubled_share > 0.4
    assert pieces(register(two, two)).doubled_share < 0.05


def test_a_cut_disc_is_missing_a_part() -> None:
    """A disc of which one half is gone lacks what was there."""
    source = discs((128, 128))
    cut = source.copy()
    cut[90:170, 128:170] = source[0:80, 128:170]
    assert pieces(register(source, cut)).missing_share > 0.15
    assert pieces(register(source, source)).missing_share < 0.01


def test_a_disc_sheared_in_two_is_torn() -> None:
    """Halves that moved apart along a seam are torn, and a disc that moved as a whole is not."""
    source, torn = discs((128, 128)), discs((128, 128))
    torn = torn.copy()
    torn[128:170, 70:200] = source[128:170, 50:180]
    whole = pieces(register(source, np.roll(source, 20, axis=1))).torn_share
    assert pieces(register(source, torn)).torn_share > whole + 0.05


def test_only_what_is_not_repeated_is_unique() -> None:
    """A tile that fills an image again and again is not unique, and one large tile is."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    large = np.asarray(Image.fromarray(noise).resize((256, 256)))
    repeated = np.tile(large[:66, :66], (4, 4, 1))[:256, :256]
    assert pieces(register(repeated, repeated)).unique_share < 0.2
    assert pieces(register(large, large)).unique_share > 0.5


def test_an_edge_through_a_disc_cuts_it() -> None:
    """An edge through the disc cuts it, and one around it does not."""
    source = discs((128, 128))
    through = measure_crop(register(source, crop(source, 0, 10, 140)))
    around = measure_crop(register(source, crop(source, 40, 40, 180)))
    assert through.cut_length > 0.2
    assert around.cut_length < 0.02


def test_mirrored_text_is_found() -> None:
    """Mirrored words count, unmirrored ones do not, nor do mirrored bars."""
    assert text(register(page(), page()[:, ::-1].copy())).mirrored_share > 0.1
    assert text(register(page(), crop(page(), 10, 10, 230))).mirrored_share == 0
    assert text(register(lines(), lines()[:, ::-1].copy())).mirrored_share < 0.02


def test_garbled_text_is_found() -> None:
    """Letters that were cut apart and mixed up no longer match."""
    strips = [page()[:, k : k + 8] for k in range(0, 256, 8)]
    order = np.arange(len(strips)).reshape(-1, 4)[:, [2, 0, 3, 1]].ravel()
    mixed = np.concatenate([strips[k] for k in order], axis=1)
    kept = text(register(page(), page())).garbled_share
    assert text(register(page(), mixed)).garbled_share > kept + 0.02


def test_tiny_pictures_are_measured_too() -> None:
    """A picture of one color has nothing to match, and no measure fails on it."""
    flat = np.asarray(Image.new("RGB", (256, 256), (90, 120, 150)))
    registration = register(flat, flat)
    assert pieces(registration).torn_share == 0
    assert measure_crop(registration).cut_length == 0
    assert bends(registration) == []
