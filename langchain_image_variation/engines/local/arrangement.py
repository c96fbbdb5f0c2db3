"""Rearranging patches, coarse to fine: the core of the method.

This is the loop of GPNN (arXiv 2103.15545, section 3). At each level, the patches of the image so
far are queries, and the patches of the source's level k are keys and values. Overlapping matches
vote, and x_(k+1) begins as x_k enlarged. The match is exact and complete at the coarse levels.
Above them, the field of displacements is upsampled and improved locally, as in PatchMatch. At the
finest level it is improved only where pieces meet.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from langchain_image_variation.engines.local import exact, pyramid
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.field import (
    corners,
    from_corners,
    propagate,
    smooth,
    upsample,
)
from langchain_image_variation.engines.local.patches import (
    PATCH,
    Contrast,
    ShortKeys,
    Values,
    describe,
    describe_some,
    strongest_directions,
)
from langchain_image_variation.engines.local.progress import Step, ignore_step
from langchain_image_variation.engines.local.pyramid import Bytes, Floats, Indices
from langchain_image_variation.engines.local.quilt import Quilt, seams
from langchain_image_variation.engines.local.vote import vote
from langchain_image_variation.engines.local.warp import resample

__all__ = ["Arranger", "Sketch"]

_START = 16
"""Side of the coarsest level. The side of a patch is 44 % of it, so large parts stay whole."""

_BALANCED_SIDE = 30
"""Up to this side, every patch of the source is used about equally often."""

_EXACT_SIDE = 44
"""Up to this side, every patch is compared with every other. The work grows with side ** 4."""

_ROUNDS = 3
"""Iterations per level. The ten of GPNN change little after the third."""

_VISIBLE = 6
"""Patches at a seam are matched again above this root mean square difference in gray levels."""

_SEAMS = 14.0
"""How much seams weigh against lost and foreign patches. With less, more faces are cut."""


@dataclass(frozen=True)
class Sketch:
    """An arrangement of the coarse levels."""

    field: Floats
    """The displacements at the last coarse level, (2, side, side)."""

    values: Values
    """The image there, in the contrast of that level."""


@dataclass(frozen=True)
class _Level:
    """The source at one level, with the descriptors of its patches."""

    values: Values
    """The source there, in its contrast."""
    contrast: Contrast
    keys: Floats
    soft_keys: Floats
    """Keys of the enlarged level below. They are as soft as the first image of this level (GPNN,
    section 3.2)."""
    quilt: Quilt

    @property
    def side(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class _FineLevel:
    """The source at one level above the coarse ones, where matches are only improved."""

    contrast: Contrast
    soft_keys: ShortKeys
    quilt: Quilt

    @property
    def side(self) -> int:
        return self.quilt.side


class Arranger:
    """Rearranges the patches of one source. It holds what all variations share.

    Args:
        source: uint8 (256, 256, channels).
        complete: Whether each variation should show everything in the source. False is used only to
            measure what completeness costs.
    """

    def __init__(self, source: Bytes, *, complete: bool = True) -> None:
        images = [pyramid.resize(source, side) for side in pyramid.sides(_START)]
        self._complete = complete
        self._per_patch = PATCH * PATCH * source.shape[2]
        self._directions = strongest_directions(images)
        self._coarse: list[_Level] = []
        self._fine: list[_FineLevel] = []
        soft = images[0]
        for image in images:
            contrast = Contrast.of(image)
            soft_values = contrast.values(pyramid.resize(soft, len(image)))
            soft_keys = describe(soft_values, self._directions)
            if len(image) <= _EXACT_SIDE:
                values = contrast.values(image)
                keys = describe(values, self._directions)
                self._coarse.append(_Level(values, contrast, keys, soft_keys, Quilt(image)))
            else:
                self._fine.append(_FineLevel(contrast, soft_keys.astype(np.int16), Quilt(image)))
            soft = image
        self._finest_contrast = Contrast.of(source)
        finest_keys = describe(self._finest_contrast.values(source), self._directions)
        self._finest_keys = finest_keys.astype(np.int16)

    def sketch(self, lattice: Floats, amplitude: float, step: Step = ignore_step) -> Sketch:
        """Arrange the coarse levels, beginning where the guess moves things by at least a pixel.

        A coarser level could not tell the guess from the source, and would undo it.

        Args:
            lattice: The first guess, as `warp.flow` returns it.
            amplitude: How far it moves things, as root mean square, in sides.
            step: Called after each level with the share of levels that is done.
        """
        reaches_pixel = [level.side * amplitude >= 1 for level in self._coarse[:-1]]
        start = reaches_pixel.index(True) if any(reaches_pixel) else len(reaches_pixel)
        first = self._coarse[start]
        image = first.quilt.draw(resample(lattice, first.side))
        levels = self._coarse[start:]
        for count, level in enumerate(levels, 1):
            values = level.contrast.values(pyramid.resize(image, level.side))
            for iteration in range(1 if level is first else _ROUNDS):
                matches = self._match(values, level, level.keys if iteration else level.soft_keys)
                values = vote(level.values, matches)
            image = level.contrast.image(values)
            step(count / len(levels))
        return Sketch(smooth(from_corners(matches)), values)

    def faults(self, sketch: Sketch) -> float:
        """Measure how faulty a sketch is.

        The result is a sum, divided by the standard deviation of the source: what the sketch shows
        and the source does not, and the reverse (the bidirectional similarity of Simakov et al.
        2008), plus how much neighboring pieces disagree where they meet, M(s, t) = |A(s) - B(s)| +
        |A(t) - B(t)| (the seam cost of Kwatra et al. 2003, "Graphcut textures", equation 1).
        """
        level = self._coarse[-1]
        spread = pyramid.deviation(level.values)
        if spread == 0:
            return 0.0
        queries = describe(sketch.values, self._directions)
        misfits = exact.misfits(queries, level.keys, self._per_patch)
        return (sum(misfits) + _SEAMS * _disagreement(sketch.field, level.values)) / spread

    def refine(
        self,
        sketch: Sketch,
        finest: Quilt,
        draws: Draws,
        step: Step = ignore_step,
    ) -> Floats:
        """Refine a sketch to a field of 256 nodes a side.

        Args:
            sketch: What `sketch` returned.
            finest: The source at 256 pixels.
            draws: Where PatchMatch's random changes come from.
            step: Called after each level with the share of levels that is done.
        """
        field, image = sketch.field, self._coarse[-1].contrast.image(sketch.values)
        for count, level in enumerate(self._fine, 1):
            field = upsample(field, level.side)
            values = level.contrast.values(pyramid.resize(image, level.side))
            queries = describe(values, self._directions)
            field = smooth(propagate(field, queries, level.soft_keys, draws))
            image = level.quilt.draw(field)
            step(count / (len(self._fine) + 1))
        field = self._mend_seams(smooth(upsample(field, finest.side)), finest, draws)
        step(1.0)
        return field

    def _mend_seams(self, field: Floats, finest: Quilt, draws: Draws) -> Floats:
        """Match again along the seams, where the blend fits no patch of the source."""
        values = self._finest_contrast.values(finest.draw(field))
        nodes = np.flatnonzero(_nodes_near_seams(seams(field)))
        queries = describe_some(values, self._directions, nodes)
        misfit = queries - self._finest_keys[corners(field).reshape(-1)[nodes]]
        threshold = (_VISIBLE * self._finest_contrast.gain) ** 2 * self._per_patch
        # Exact in any order: see `patches`.
        visible_misfit = np.einsum("ij,ij->i", misfit, misfit) > threshold
        field = propagate(
            field, queries[visible_misfit], self._finest_keys, draws, nodes[visible_misfit]
        )
        return smooth(field)

    def _match(self, values: Values, level: _Level, keys: Floats) -> Indices:
        queries = describe(values, self._directions)
        if not self._complete:
            matches = exact.find_nearest(queries, keys, self._per_patch, alpha=np.inf)
        elif level.side <= _BALANCED_SIDE:
            matches = exact.find_balanced(queries, keys, self._per_patch)
        else:
            matches = exact.find_nearest(queries, keys, self._per_patch)
        return matches.reshape(level.side - 6, level.side - 6)


def _nodes_near_seams(has_seam: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the nodes that a patch can be centered on and that have a seam within three cells."""
    padded = np.pad(has_seam, 3)
    rows = reduce(np.logical_or, (padded[start : len(padded) - 5 + start] for start in range(6)))
    near = reduce(np.logical_or, (rows[:, k : rows.shape[1] - 5 + k] for k in range(6)))
    return np.asarray(near[3:-3, 3:-3])


def _disagreement(field: Floats, values: Values) -> float:
    """Return the mean difference, over all neighboring nodes, of what each would put at both."""
    side = field.shape[1]
    positions = np.arange(side)
    total = 0.0
    for dy, dx in ((1, 0), (0, 1)):
        near, far = np.s_[: side - dy, : side - dx], np.s_[dy:, dx:]
        for place in (near, far):
            values_shown = []
            for displacement in (field[:, *near], field[:, *far]):
                y, x = np.rint(displacement * np.float32(side)).astype(np.intp)
                y, x = y + positions[place[0], None], x + positions[place[1]]
                values_shown.append(values[np.clip(y, 0, side - 1), np.clip(x, 0, side - 1)])
            difference = np.abs(values_shown[0] - values_shown[1])
            total += int(difference.sum(dtype=np.int64)) / difference.size
    return total / 4
