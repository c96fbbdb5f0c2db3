"""Finds where each point of a variation comes from in its source.

First, the frame: whether the variation is mirrored, and the homography (a change of framing, turn
and perspective) that best maps it onto the source. It starts from the crops of highest normalized
cross-correlation at 64 pixels, and from no change at all. Matched windows refine each, with weights
that ignore outliers, and the one that explains most is kept.

Then, what the frame does not explain: a field of small displacements, by matching windows from
coarse to fine. All comparisons use normalized cross-correlation of windows, so a change of light
does not matter.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quality.photos import SIDE, Bytes

__all__ = ["Floats", "Registration", "box_mean", "luma", "register", "sample"]

Floats = NDArray[np.float32]

COARSE = 64
SCALES = tuple(0.5 * 1.07**step for step in range(12))
"""The sides of the crops to try, in sides of the source: 0.5 to 1.05."""
TURNS = (-5.0, 0.0, 5.0)
"""The rotations to try, in degrees."""

_CANDIDATES, _NEAR = 4, 14
"""How many crops to refine, and how far apart their corners are at least, in pixels."""

WINDOW = 4
"""Matched windows reach this many pixels to each side."""

_LEVELS = ((64, 6), (128, 3), (256, 2))
"""Sides in pixels, and how far to search at each, in pixels of that level."""

_DOUBTFUL = 1e-3
"""A variance below this, of luma from 0 to 1, is too flat to be matched."""

_STEP_COST = 0.004
"""What a pixel of displacement costs, in correlation."""

_TINY = 1e-7
"""Added to variances, far below those of one level of 255. It prevents a division by zero."""


@dataclass(frozen=True)
class Registration:
    """How a variation relates to its source.

    All positions are in pixels of 256 x 256 images, x first.
    """

    mirrored: bool
    homography: NDArray[np.float64]
    """3 x 3: maps positions in the variation to positions in the source."""
    source: Bytes
    variation: Bytes
    aligned: Floats
    """The luma of the source, seen through the frame of the variation."""
    inside: NDArray[np.bool_]
    """Where `aligned` is inside the source."""
    forward: Floats
    """(256, 256, 2): a point of `aligned` plus this is where the variation shows it."""
    forward_match: Floats
    """(256, 256): the correlation of the windows there. 1 is equal."""
    backward: Floats
    """(256, 256, 2): a point of the variation plus this is where it is in `aligned`."""
    backward_match: Floats

    def in_source(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (n, 2) of the variation's frame to the source."""
        return _apply(self.homography, points)


def register(source: Bytes, variation: Bytes) -> Registration:
    """Register a variation with its source, both uint8 (256, 256, 3)."""
    first, second = luma(source), luma(variation)
    frames = []
    for homography, mirrored in _coarse_frames(first, second):
        for side in (64, 64, 128):
            homography = _refine_frame(first, second, homography, side)
        frames.append((_explained(first, second, homography), homography, mirrored))
    _, homography, mirrored = max(frames, key=lambda frame: frame[0])
    for side in (128, 256, 256):
        homography = _refine_frame(first, second, homography, side)
    aligned, inside = _align(first, homography)
    forward, forward_match = _field(aligned, second)
    backward, backward_match = _field(second, aligned)
    return Registration(
        mirrored, homography, source, variation, aligned, inside,
        forward, forward_match, backward, backward_match,
    )  # fmt: skip


def luma(image: Bytes) -> Floats:
    """Return luma, 0 to 1."""
    weights = np.array([0.299, 0.587, 0.114], np.float32) / np.float32(255)
    return np.asarray(image.astype(np.float32) @ weights, dtype=np.float32)


def box_mean(image: Floats, reach: int) -> Floats:
    """Return the mean over windows, given how far they reach to each side, in pixels."""
    return _mean_inside(np.pad(image, reach, mode="edge"), reach)


def sample(image: Floats, x: Floats, y: Floats) -> Floats:
    """Read an image at fractional positions, linearly. Beyond the border, repeat it."""
    height, width = image.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right, down = x - left, y - top
    if image.ndim == 3:
        right, down = right[..., None], down[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)


def _resize(image: Floats, side: int) -> Floats:
    if image.shape == (side, side):
        return image
    picture = Image.fromarray(image.astype(np.float32))
    kernel = Image.Resampling.BOX if side < len(image) else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((side, side), kernel))


def _mean_inside(image: Floats, reach: int) -> Floats:
    """Return the mean over the windows that lie inside an image."""
    size = 2 * reach + 1
    sums = np.pad(image.astype(np.float64), ((1, 0), (1, 0)))
    sums = np.cumsum(np.cumsum(sums, axis=0), axis=1)
    total = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.asarray(total / size**2, dtype=np.float32)


def _statistics(image: Floats, reach: int) -> tuple[Floats, Floats]:
    """Return the means and variances of the windows that lie inside an image."""
    mean = _mean_inside(image, reach)
    return mean, np.maximum(_mean_inside(image * image, reach) - mean * mean, 0)


def _contrast(image: Floats) -> Floats:
    """Return the variance of the window around each pixel."""
    return _statistics(np.pad(image, WINDOW, mode="edge"), WINDOW)[1]


def _coarse_frames(source: Floats, variation: Floats) -> list[tuple[NDArray[np.float64], bool]]:
    """Return no change, and the best crops, as homographies, and whether each is mirrored."""
    image = _resize(source, COARSE)
    image = image - box_mean(image, COARSE // 4)
    size = 2 * COARSE
    spectrum = np.fft.rfft2(image, (size, size))
    energy = np.fft.rfft2(image * image, (size, size))
    is_inside = np.fft.rfft2(np.ones_like(image), (size, size))
    scored: list[tuple[float, bool, float, float, int, int]] = []
    for mirrored in (False, True):
        picture = Image.fromarray(variation[:, ::-1] if mirrored else variation)
        for turn in TURNS:
            turned = picture.rotate(turn, Image.Resampling.BILINEAR) if turn else picture
            for scale in SCALES:
                side = round(scale * COARSE)
                part = np.asarray(turned.resize((side, side), Image.Resampling.BOX))
                part = part - box_mean(part, COARSE // 4)
                weight = np.ones_like(part)
                if turn:
                    edge = math.ceil(side * abs(math.sin(math.radians(turn))) / 2) + 1
                    weight[:edge] = weight[-edge:] = weight[:, :edge] = weight[:, -edge:] = 0
                part = part * weight
                by_part, by_weight = (
                    np.conj(np.fft.rfft2(one, (size, size))) for one in (part, weight)
                )
                products = np.fft.irfft2(spectrum * by_part, (size, size))
                energies = np.fft.irfft2(energy * by_weight, (size, size))
                covered = np.fft.irfft2(is_inside * by_weight, (size, size)) / weight.sum()
                scores = products / np.sqrt(np.maximum(energies, 1e-3) * (part * part).sum() + 1e-6)
                # Almost all of the variation must lie inside the source.
                scores = np.where(covered > 0.9, scores, -2)
                for index in np.argpartition(-scores, 8, axis=None)[:8]:
                    top, left = divmod(int(index), size)
                    top, left = ((v + COARSE) % size - COARSE for v in (top, left))
                    scored.append((float(scores.flat[index]), mirrored, scale, turn, top, left))
    result = [(np.eye(3), False)]
    chosen: list[NDArray[np.float64]] = [np.eye(3)]
    corners = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], dtype=float)
    for _, mirrored, scale, turn, top, left in sorted(scored, reverse=True):
        homography = _crop(mirrored, scale, turn, top, left)
        places = _apply(homography, corners)
        near = (np.abs(_apply(other, corners) - places).max() < _NEAR for other in chosen)
        if not any(near):
            chosen.append(homography)
            result.append((homography, mirrored))
        if len(result) > _CANDIDATES:
            break
    return result


def _crop(mirrored: bool, scale: float, turn: float, top: int, left: int) -> NDArray[np.float64]:
    """Return the homography of a crop: a point is mirrored, turned, scaled and moved."""
    side = round(scale * COARSE)
    angle = math.radians(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = np.array([[cos, sin], [-sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    center = np.array([left, top]) * SIDE / COARSE + (side * SIDE / COARSE - 1) / 2
    middle = (SIDE - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = side / COARSE * turned
    matrix[:2, 2] = center - matrix[:2, :2] @ np.array([middle, middle])
    return matrix


def _explained(source: Floats, variation: Floats, homography: NDArray[np.float64]) -> float:
    """Return how well a frame explains a variation: the mean match of windows with contrast."""
    side = 128
    aligned, inside = _align(source, homography)
    query = _resize(variation, side)
    _, match = _search(query, _resize(aligned, side), 2)
    variance = _contrast(query)
    outside = _resize(inside.astype(np.float32), side) < 0.5
    match = np.where(outside, 0, match)
    has_contrast = variance > _DOUBTFUL / 4
    return float(match[has_contrast].mean()) if has_contrast.any() else 0.0


def _apply(homography: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, w = homography @ np.vstack([points.T, np.ones(len(points))])
    return np.stack([x / w, y / w], axis=1)


def _grid(side: int = SIDE) -> NDArray[np.float64]:
    y, x = np.mgrid[:side, :side]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def _align(source: Floats, homography: NDArray[np.float64]) -> tuple[Floats, NDArray[np.bool_]]:
    x, y = _apply(homography, _grid()).T.reshape(2, SIDE, SIDE)
    inside = (x >= -0.5) & (y >= -0.5) & (x <= SIDE - 0.5) & (y <= SIDE - 0.5)
    # Blur by the zoom, so that both are about equally sharp, is left to the coarse levels.
    return sample(source, x.astype(np.float32), y.astype(np.float32)), inside


def _refine_frame(
    source: Floats, variation: Floats, homography: NDArray[np.float64], side: int
) -> NDArray[np.float64]:
    """Match windows through the frame, and fit the frame to the matches again."""
    aligned, inside = _align(source, homography)
    step = SIDE // side
    reach = {64: 5, 128: 3, 256: 2}[side]
    shift, match = _search(_resize(variation, side), _resize(aligned, side), reach)
    is_inside = _resize(inside.astype(np.float32), side) > 0.99
    variance = _contrast(_resize(variation, side))
    good = is_inside & (match > 0.6) & (variance > _DOUBTFUL)
    good[:2], good[-2:], good[:, :2], good[:, -2:] = False, False, False, False
    if good.sum() < 0.01 * good.size:
        return homography
    y, x = np.nonzero(good)
    points = (np.stack([x, y], axis=1) + 0.5) * step - 0.5
    targets: NDArray[np.float64] = points + shift[good].astype(np.float64) * step
    weights = match[good].astype(np.float64)
    change = _fit(points.astype(np.float64), targets, weights, step)
    result = homography @ change
    return np.asarray(result / result[2, 2])


def _fit(
    points: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    tolerance: float,
) -> NDArray[np.float64]:
    """Fit a homography near the identity, with Cauchy weights against outliers."""
    scale = SIDE / 2
    p, t = points / scale - 1, targets / scale - 1
    x, y, u, v = p[:, 0], p[:, 1], t[:, 0], t[:, 1]
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=1),
        ]
    )
    values = np.concatenate([u, v])
    # A small pull toward the identity: flat pictures leave perspective undetermined.
    prior = np.array([1, 0, 0, 0, 1, 0, 0, 0], dtype=float)
    pull = np.diag([1, 1, 1, 1, 1, 1, 30, 30]) * 1e-3 * weights.sum()
    current = weights
    for _ in range(12):
        both = np.concatenate([current, current])
        left = rows.T @ (both[:, None] * rows) + pull
        solution = np.linalg.solve(left, rows.T @ (both * values) + pull @ prior)
        matrix = np.append(solution, 1).reshape(3, 3)
        errors = np.linalg.norm(_apply(matrix, p) - t, axis=1) * scale
        spread = max(tolerance, 1.5 * float(np.median(errors)))
        current = weights / (1 + (errors / spread) ** 2)
    lift = np.array([[1 / scale, 0, -1], [0, 1 / scale, -1], [0, 0, 1]])
    result = np.linalg.inv(lift) @ matrix @ lift
    return np.asarray(result / result[2, 2])


def _search(query: Floats, key: Floats, reach: int) -> tuple[Floats, Floats]:
    """Return the displacement of the best window of `key` for each of `query`, and its match."""
    query = np.pad(query, WINDOW, mode="edge")
    mean, variance = _statistics(query, WINDOW)
    key = np.pad(key, WINDOW + reach, mode="edge")
    key_mean, key_variance = _statistics(key, WINDOW)
    best = np.full(mean.shape, -2, dtype=np.float32)
    shift = np.zeros((*mean.shape, 2), dtype=np.float32)
    moves = [(dy, dx) for dy in range(2 * reach + 1) for dx in range(2 * reach + 1)]
    # Shorter moves win ties.
    for dy, dx in sorted(moves, key=lambda move: math.dist(move, (reach, reach))):
        moved = key[dy : dy + query.shape[0], dx : dx + query.shape[1]]
        place = slice(dy, dy + mean.shape[0]), slice(dx, dx + mean.shape[1])
        covariance = _mean_inside(query * moved, WINDOW) - mean * key_mean[place]
        match = covariance / np.sqrt((variance + _TINY) * (key_variance[place] + _TINY))
        score = match - _STEP_COST * math.dist((dy, dx), (reach, reach))
        better = score > best
        best[better] = score[better]
        shift[better] = (dx - reach, dy - reach)
    # Flat windows have nothing to compare. The noise in them matches by chance, and says little.
    return shift, best * np.sqrt(variance / (variance + _DOUBTFUL / 4))


def _field(query: Floats, key: Floats) -> tuple[Floats, Floats]:
    """Match windows from coarse to fine. Return the displacements and the matches."""
    field = np.zeros((_LEVELS[0][0], _LEVELS[0][0], 2), dtype=np.float32)
    match = np.zeros(field.shape[:2], dtype=np.float32)
    for side, reach in _LEVELS:
        if side != len(field):
            field = np.stack([2 * _resize(field[..., k], side) for k in (0, 1)], axis=2)
        near, far = _resize(query, side), _resize(key, side)
        y, x = np.mgrid[:side, :side].astype(np.float32)
        moved = sample(far, x + field[..., 0], y + field[..., 1])
        shift, match = _search(near, moved, reach)
        # Displacements add up along the way: the step is read where the field has led.
        variance = _contrast(near)
        trust = np.clip(match, 0.02, 1) ** 2 * np.clip(variance / _DOUBTFUL, 0.01, 1)
        field = _smooth(field + shift, trust, 2)
    return field, match


def _smooth(field: Floats, trust: Floats, reach: int) -> Floats:
    """Average displacements over small windows, by trust, so that flat areas follow edges."""
    total = box_mean(trust, reach)
    return np.stack([box_mean(field[..., k] * trust, reach) / total for k in (0, 1)], axis=2)
