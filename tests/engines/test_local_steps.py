import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from langchain_image_variation.engines.local import (
    exact,
    field,
    grain,
    patches,
    pyramid,
    quilt,
    warp,
)
from langchain_image_variation.engines.local.arrangement import Arranger, Sketch
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.framing import View, look_through
from langchain_image_variation.engines.local.patches import Contrast, Values
from langchain_image_variation.engines.local.product import product
from langchain_image_variation.engines.local.rearrangement import CLOSE
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.vote import vote
from tests.engines.scene import scene

Bytes = NDArray[np.uint8]


def _floats(*shape: int, seed: int = 0) -> pyramid.Floats:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _descriptors(rows: int, columns: int, seed: int = 0) -> pyramid.Floats:
    """Whole numbers, as descriptors are."""
    draws = np.random.default_rng(seed).integers(-40, 41, (rows, columns))
    return draws.astype(np.float32)


def _values(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int16)


def _zero_field(nodes: int = 256) -> pyramid.Floats:
    return np.zeros((2, nodes, nodes), dtype=np.float32)


@pytest.mark.mostly_slow("256-1", "512-3")
@pytest.mark.parametrize(
    ("side", "channels"), [*((256, channels) for channels in (1, 2, 3, 4)), (512, 3), (1024, 4)]
)
def test_no_displacement_gives_the_source(side: int, channels: int) -> None:
    """A field of zeros draws the source, bit for bit."""
    source = np.concatenate([scene(side), scene(side)[..., :1]], axis=2)[..., :channels]
    drawn = quilt.Quilt(source).draw(_zero_field())
    assert (drawn == source).all()


def test_a_view_of_a_larger_source_is_sharper() -> None:
    """A part of the source, drawn at 256 pixels, has more detail if the source has 320."""
    view = look_through(View(0.5, 0.5, 0.8), 256)
    large = pyramid.resize(scene(640), 320)
    images = [
        quilt.Quilt(source, 256).draw(view, snap=False)
        for source in (large, pyramid.resize(large, 256))
    ]
    assert images[0].shape == images[1].shape == (256, 256, 3)
    energies = [np.square(np.diff(image.astype(float), axis=0)).mean() for image in images]
    assert energies[0] > 1.1 * energies[1]


def test_a_whole_pixel_displacement_copies_pixels() -> None:
    """Moving everything by whole pixels changes no pixel."""
    source = scene()
    shift = _zero_field()
    shift[1] = 5 / 256
    drawn = quilt.Quilt(source).draw(shift)
    assert (drawn[:, :-5] == source[:, 5:]).all()


def test_only_seams_are_blended() -> None:
    """Where two pieces meet, one cell is a blend, and all other pixels come from one piece."""
    source = np.zeros((256, 256, 1), dtype=np.uint8)
    source[:, 192:] = 200
    field_ = _zero_field(64)
    field_[1, :, 32:] = 0.3
    assert quilt.seams(field_).sum() == 63
    row = quilt.Quilt(source).draw(field_)[128, :, 0]
    assert set(row[:120].tolist()) == {0}
    assert len(set(row[120:136].tolist()) - {0, 200}) >= 2


def test_grain_is_copied_by_whole_pixels() -> None:
    """Bent noise moves in pieces by whole pixels, a few at most from where it was."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    bent = warp.resample(warp.flow(warp.velocity(Draws(1)), 0.04), 256)
    copy = grain.Grain(noise).copy(bent)
    assert (np.abs(copy * 256 - np.rint(copy * 256)) < 1e-3).mean() > 0.95
    assert np.abs(copy - bent).max() < 3.1 / 256
    drawn = quilt.Quilt(noise).draw(copy).reshape(-1, 3)
    assert np.isin(drawn @ [1, 256, 65536], noise.reshape(-1, 3) @ [1, 256, 65536]).mean() > 0.9


def test_an_edge_is_not_copied_in_steps() -> None:
    """A plain edge stays bent, although it has as much energy as grain."""
    source = np.zeros((256, 256, 3), dtype=np.uint8)
    source[:, 128:] = 255
    bent = _zero_field()
    bent[1] = np.linspace(0, 0.04, 256, dtype=np.float32)[:, None]
    copy = grain.Grain(source).copy(bent)
    edge = np.abs(np.arange(256)[None, :] + bent[1] * 256 - 128) < 2
    assert edge.any(axis=1).all()
    assert np.abs(copy - bent)[:, edge].max() < 0.05 / 256


def test_a_contour_in_grain_is_not_copied_in_steps() -> None:
    """A bright bar in grain stays bent, and grain far from it is copied."""
    source = np.random.default_rng(0).integers(60, 120, (256, 256, 1)).astype(np.uint8)
    source[:, 128:132] = 255
    bent = _zero_field()
    bent[1] = np.linspace(0, 0.04, 256, dtype=np.float32)[:, None]
    copy = grain.Grain(source).copy(bent)
    bar = np.abs(np.arange(256)[None, :] + bent[1] * 256 - 130) < 4
    assert np.abs(copy - bent)[:, bar].max() < 0.6 / 256
    assert (copy[1, :, :80] * 256 % 1 == 0).mean() > 0.9


def test_thin_lines_in_grain_are_not_copied_in_steps() -> None:
    """Slanted gray bars three pixels wide do not move across by half a pixel."""
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (256, 256)).astype(np.uint8))
    coarse = np.asarray(noise.filter(ImageFilter.GaussianBlur(0.8))).astype(float)
    ground = 100 + 12 * (coarse - coarse.mean()) / coarse.std()
    image = Image.fromarray(ground.astype(np.uint8)).resize((1024, 1024))
    bars = Image.new("L", (1024, 1024))
    pen = ImageDraw.Draw(bars)
    slant = 90 / 1024
    for place in range(100, 1000, 120):
        pen.line((place, 0, place - 90, 1023), fill=255, width=12)
    image.paste(180, (0, 0), bars)
    source = np.asarray(image.resize((256, 256)))[..., None]
    bent = warp.resample(warp.flow(warp.velocity(Draws(1)), 0.02), 256)
    down, across = grain.Grain(source).copy(bent) - bent
    y, x = np.clip(np.mgrid[:256, :256] + np.rint(bent * 256).astype(int), 0, 255)
    bar = np.asarray(bars.resize((256, 256)))[y, x] > 128
    distance = np.abs(across + slant * down) * 256
    assert (distance[bar] > 0.5).mean() < 0.01
    assert (distance[~bar] > 0.1).mean() > 0.5


@pytest.mark.parametrize("kind", ["lattice", "letters"])
def test_lines_on_flat_ground_are_not_grain(kind: str) -> None:
    """Crossing lines and letters have energy everywhere, but are bent and not copied."""
    image = Image.new("L", (256, 256), 255)
    pen = ImageDraw.Draw(image)
    for place in range(5, 250, 12):
        if kind == "letters":
            pen.text((5, place), "The quick brown fox jumps over a lazy dog 123", fill=0)
        else:
            pen.line((place, 0, place, 255), fill=0)
            pen.line((0, place, 255, place), fill=0)
    source = np.asarray(image)[..., None]
    bent = warp.resample(warp.flow(warp.velocity(Draws(1)), 0.04), 256)
    drawn = quilt.Quilt(source).draw(grain.Grain(source).copy(bent)).astype(int)
    assert (np.abs(drawn - quilt.Quilt(source).draw(bent)) > 60).mean() < 0.001


@pytest.mark.parametrize("amplitude", [0.01, 0.1, 0.3])
def test_a_warp_has_no_folds_and_stays_inside(amplitude: float) -> None:
    """At any distance, a flow keeps the order of points and maps the square onto itself."""
    for seed in range(5):
        flow = warp.flow(warp.velocity(Draws(seed)), amplitude)
        axis = np.linspace(0, 1, flow.shape[1], dtype=np.float32)
        y, x = axis[:, None] + flow[0], axis[None, :] + flow[1]
        assert min(y.min(), x.min()) > -1e-4
        assert max(y.max(), x.max()) < 1 + 1e-4
        down, across = np.gradient(y), np.gradient(x)
        assert (down[0] * across[1] - down[1] * across[0]).min() > 0


def test_a_velocity_has_unit_speed() -> None:
    """The root mean square length of a velocity is 1, and its vertical part is smaller."""
    speeds = [warp.velocity(Draws(seed)) for seed in range(40)]
    for speed in speeds:
        assert np.sqrt(np.mean(np.sum(speed**2, axis=0))) == pytest.approx(1, abs=1e-4)
    up, sideways = np.mean([np.mean(speed**2, axis=(1, 2)) for speed in speeds], axis=0)
    assert up < 0.5 * sideways


def test_the_schedule_rises_without_jumps() -> None:
    """With strength, every change grows in small steps."""
    steps = [schedule(strength) for strength in np.linspace(0, 1, 101)]
    for one, other in itertools.pairwise(steps):
        for name, most in (("crop", 0.01), ("motion", 0.03), ("light", 0.03), ("sway", 0.001)):
            assert 0 <= getattr(other, name) - getattr(one, name) < most
        assert 0 <= other.reach - one.reach < 0.01
        assert 0 <= other.share - one.share < 0.03
        assert one.mirrors <= other.mirrors
        assert one.arranges <= other.arranges
    assert steps[0].crop < steps[30].crop < steps[50].crop < steps[100].crop


def test_arrangements_change_more_with_strength() -> None:
    """The changes wanted at 0.7, 0.85 and 1 differ by more than a sketch may miss."""
    shares = [schedule(strength).share for strength in (0.7, 0.85, 1.0)]
    for one, other in itertools.pairwise(shares):
        assert other / one > 1 + CLOSE


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_descriptors_keep_distances(channels: int) -> None:
    """Distances between descriptors are close to those between patches and rarely larger."""
    image = pyramid.resize(scene(), 64)
    image = np.concatenate([image, image[..., :1]], axis=2)[..., :channels]
    directions = patches.strongest_directions([image])
    lengths = directions.T @ directions / 4096**2
    assert np.allclose(lengths, np.eye(directions.shape[1]), atol=2e-3)
    values = Contrast.of(image).values(image)
    short = patches.describe(values, directions)
    windows = np.lib.stride_tricks.sliding_window_view(values.astype(float), (7, 7), axis=(0, 1))
    whole = windows.reshape(len(short), -1)
    one, other = np.random.default_rng(0).integers(0, len(short), (2, 500))
    near = ((short[one] - short[other]) ** 2).sum(axis=1)
    true = ((whole[one] - whole[other]) ** 2).sum(axis=1)
    # A coordinate is off by half a gray level at most.
    assert (np.sqrt(near) <= np.sqrt(true) * 1.001 + np.sqrt(24)).all()
    assert near.sum() > 0.8 * true.sum()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_descriptors_are_exact_in_float32(channels: int) -> None:
    """No partial sum reaches 2^24, so that every BLAS computes the same descriptors."""
    directions = patches._cosines(channels)
    assert (directions == np.rint(directions)).all()
    most = 128 * np.abs(directions).sum(axis=0).max()
    assert most < 2**24
    norm = np.linalg.norm(directions / 4096, 2)
    assert 4 * (128 * np.sqrt(49 * channels) * norm + np.sqrt(24) / 2) ** 2 < 2**24
    # The signs of a direction make the patches with the largest sums.
    for column in np.eye(directions.shape[1], dtype=bool):
        signs = np.where(directions[:, column].reshape(channels, 7, 7) < 0, -128, 127)
        values = np.moveaxis(signs, 0, 2).astype(np.int16)
        exact_ = values.transpose(2, 0, 1).reshape(1, -1).astype(np.int64) @ directions.astype(int)
        descriptors = patches.describe(values, directions)
        assert (descriptors == np.rint(exact_ / 4096)).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_cosines_round_unambiguously(channels: int) -> None:
    """No entry is so close to half a step that the last bits of a cosine decide its rounding."""
    steps = 4096 * np.abs(patches._waves(channels))
    assert np.abs(steps % 1 - 0.5).min() > 1e-9


@pytest.mark.parametrize(
    ("low", "high", "gain"),
    [
        (0, 255, 1),
        (0, 254, 1),
        (3, 130, 2),
        (7, 8, 128),
        (90, 90, 128),
        (0, 0, 128),
        (255, 255, 128),
    ],
)
def test_contrast_fills_the_range(low: int, high: int, gain: int) -> None:
    """A power of two spreads values over -128 to 127, and they can be restored."""
    image = np.linspace(low, high, 64).reshape(8, 8, 1).astype(np.uint8)
    contrast = Contrast.of(image)
    assert contrast.gain == gain
    values = contrast.values(image)
    assert -128 <= values.min() <= values.max() <= 127
    assert (contrast.image(values) == image).all()
    beyond = np.array([[[0], [255]]], dtype=np.uint8)
    expected = np.clip((beyond.astype(int) - contrast.middle) * contrast.gain, -128, 127)
    assert (contrast.values(beyond) == expected).all()


def test_some_descriptors_are_those_of_all() -> None:
    """Describing some patches gives the rows of describing all."""
    values = _values(20, 20, 3)
    directions = patches.strongest_directions([(values + 128).astype(np.uint8)])
    chosen = np.array([0, 5, 100, 195])
    some = patches.describe_some(values, directions, chosen)
    assert (some == patches.describe(values, directions)[chosen]).all()


@pytest.mark.parametrize("shape", [(1, 3, 5), (70, 147, 24), (1000, 24, 900), (3, 5, 100_000)])
def test_a_product_in_blocks_is_the_product(shape: tuple[int, int, int]) -> None:
    """Cutting a matrix product into small ones does not change it."""
    left, right = _floats(*shape[:2]), _floats(*shape[1:], seed=1)
    assert np.allclose(product(left, right), left @ right, rtol=1e-4)


def test_nearest_without_completeness_is_the_nearest() -> None:
    """With infinite alpha, each query gets the key at the least distance."""
    queries, keys = _descriptors(60, 8), _descriptors(90, 8, seed=1)
    distances = ((queries[:, None] - keys[None]) ** 2).sum(axis=2)
    assert (exact.find_nearest(queries, keys, 8, alpha=np.inf) == distances.argmin(axis=1)).all()


def test_nearest_follows_equation_1() -> None:
    """With completeness, the score is the distance over alpha plus the key's least distance."""
    queries, keys = _descriptors(60, 8), _descriptors(90, 8, seed=1)
    distances = ((queries[:, None] - keys[None]) ** 2).sum(axis=2)
    score = distances / (16 * 8 + distances.min(axis=0))
    assert (exact.find_nearest(queries, keys, 8, alpha=16) == score.argmin(axis=1)).all()


def test_balanced_uses_more_keys_than_nearest() -> None:
    """Queries that all resemble one key get many different keys."""
    queries = np.rint(_descriptors(200, 4) / 10)
    keys = _descriptors(200, 4, seed=1)
    plain = exact.find_nearest(queries, keys, 1, alpha=np.inf)
    assert len(np.unique(exact.find_balanced(queries, keys, 1))) > 2 * len(np.unique(plain))


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_rounded_like_exact_sums(seed: int) -> None:
    """In any order of terms, a sum close to a rounding boundary is rounded like the exact sum."""
    generator = np.random.default_rng(seed)
    weights = (generator.random((40, 300)) ** 20).astype(np.float32).astype(float)
    factors = exact._to_17_bits(generator.random(300) ** 5 + 1e-9)

    def check() -> None:
        sums = [math.fsum((row * factors).tolist()) for row in weights]
        for _ in range(6):
            order = generator.permutation(300)
            result = exact._sums(weights[:, order], factors[order])
            assert (result == exact._to_17_bits(np.array(sums))).all()

    check()
    # A last term puts each sum onto a boundary, or very close to one.
    sums = weights[:, :-1] @ factors[:-1]
    step = 2.0 ** (np.floor(np.log2(sums)) - 16)
    target = (np.ceil(sums / step) + 1.5) * step + generator.integers(-1, 2, 40) * step * 2.0**-30
    factors[-1] = 2.0**-40
    weights[:, -1] = (target - sums) / factors[-1]
    check()


def test_equal_patches_get_legal_matches() -> None:
    """Flat images, where all distances are zero, get some legal match."""
    flat = np.zeros((50, 8), dtype=np.float32)
    for matches in (exact.find_nearest(flat, flat, 49), exact.find_balanced(flat, flat, 49)):
        assert ((matches >= 0) & (matches < 50)).all()


@pytest.mark.parametrize("side", [9, 16, 40])
def test_patches_vote_for_their_image(side: int) -> None:
    """If every patch matches itself, voting returns the image."""
    values = _values(side, side, 3)
    identity = np.arange((side - 6) ** 2).reshape(side - 6, side - 6)
    assert (vote(values, identity) == values).all()


def test_corners_and_fields_are_each_others_inverse() -> None:
    """Patch positions that become displacements and positions again do not change."""
    corners = np.random.default_rng(0).integers(0, 26**2, (26, 26))
    assert (field.corners(field.from_corners(corners)) == corners).all()


def test_upsampling_keeps_pieces_apart() -> None:
    """Between two pieces, every displacement is one of theirs."""
    coarse = _zero_field(16)
    coarse[0, :, 8:] = 0.4
    fine = field.upsample(coarse, 64)
    assert {round(float(value), 4) for value in np.unique(fine[0])} == {0.0, 0.4}


def test_composition_follows_both_fields() -> None:
    """Either field alone is the composition with zeros, and pieces stay apart."""
    view = look_through(View(0.45, 0.5, 0.8, 0.02, (0.05, 0.0)), 64)
    pieces = _zero_field(64)
    pieces[1, :, 32:] = 0.25
    assert np.abs(field.compose(view, _zero_field(64)) - view).max() < 1e-6
    assert np.abs(field.compose(_zero_field(64), pieces) - pieces).max() < 1e-6
    moved = np.unique(np.round(field.compose(view, pieces)[1] - view[1], 4))
    assert moved.tolist() == [0.0, 0.25]


def test_smoothing_restores_fractions_in_a_piece() -> None:
    """A slope rounded to whole pixels becomes a slope again, and a seam stays."""
    slope = np.linspace(0, 6, 64, dtype=np.float32) / 64
    steps = _zero_field(64)
    steps[1] = np.rint(slope * 64) / 64
    steps[1, :, 40:] += 0.5
    true = slope + np.where(np.arange(64) >= 40, 0.5, 0)
    error_before = np.abs(steps[1] - true).mean()
    error_after = np.abs(field.smooth(field.smooth(steps))[1] - true).mean()
    assert error_after < 0.6 * error_before


def test_propagation_repairs_a_field() -> None:
    """Nodes with a wrong displacement take that of their neighbors."""
    image = pyramid.resize(scene(), 64)
    directions = patches.strongest_directions([image])
    keys = patches.describe(Contrast.of(image).values(image), directions)
    damaged_field = _zero_field(64)
    damaged_field[:, 20:24, 30:34] = 0.2
    repaired_field = field.propagate(damaged_field, keys, keys, Draws(0))
    assert np.abs(repaired_field).max() < 0.02
    subset = np.arange(5)
    partial_field = field.propagate(damaged_field, keys[subset], keys, Draws(0), subset)
    assert (partial_field == damaged_field).all()


def test_propagation_stays_inside() -> None:
    """A displacement that is passed on is shortened at the border, where it would cause streaks.

    All patches are equally far from the target, so the last round, which accepts slightly worse
    displacements, accepts each one that it tries.
    """
    keys = np.zeros((58 * 58, 24), dtype=np.float32)
    queries = keys + 1
    displacement = _zero_field(64)
    displacement[1, :, 8:40] = 0.4
    for seed in range(4):
        field_ = field.propagate(displacement, queries, keys, Draws(seed))
        corner = patches.PATCH // 2
        inner = field_[:, corner:-corner, corner:-corner] * 64
        is_changed = (inner != displacement[:, corner:-corner, corner:-corner] * 64).any(axis=0)
        assert is_changed.any()
        y, x = np.mgrid[: inner.shape[1], : inner.shape[1]]
        for target in ((y + inner[0])[is_changed], (x + inner[1])[is_changed]):
            assert target.min() > -0.01
            assert target.max() < 64 - patches.PATCH + 0.01


def test_a_torn_sketch_has_more_faults() -> None:
    """Of two sketches with the same patches, the one whose pieces do not fit is worse."""
    source = scene()
    arranger = Arranger(source)
    whole = arranger.sketch(warp.flow(warp.velocity(Draws(0)), 0.0), 0.0)
    torn = whole.field.copy()
    torn[1, :, len(torn[1]) // 2 :] += 0.3
    assert arranger.faults(whole) < 0.2
    assert arranger.faults(Sketch(torn, whole.values)) > arranger.faults(whole) + 0.02


def test_levels_shrink_by_about_three_quarters() -> None:
    """The sides go from the start to 128 pixels, about 3/4 apart."""
    sides = pyramid.sides(16)
    assert (sides[0], sides[-1]) == (16, 128)
    assert all(0.68 < one / other < 0.8 for one, other in itertools.pairwise(sides))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [64, 300])
def test_resizing_keeps_a_flat_image(channels: int, side: int) -> None:
    """Every channel is resampled separately."""
    flat = np.broadcast_to(np.arange(1, channels + 1, dtype=np.uint8) * 50, (128, 128, channels))
    assert (pyramid.resize(flat, side) == flat[0, 0]).all()
