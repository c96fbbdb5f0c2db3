"""Matching patches anew, coarse to fine: the middle of the method.

GPNN's loop (arXiv 2103.15545, section 3): at each level the picture so far asks for patches, the
source answers, overlapping answers vote: queries of x_k, keys and values of the source's level k;
x_(k+1) begins as x_k enlarged. Exact and complete at the coarse levels; above them the field of
displacements is carried up and only improved locally, as in PatchMatch, and at the finest level
only where pieces meet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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
"""Side of the coarsest level: that of a patch is 44 % of it, so large parts stay whole."""

_BALANCED = 30
"""Up to this side all patches are shared out evenly."""

_EXACT = 44
"""Up to this side all patches are compared with all; the work grows with the fourth power."""

_ROUNDS = 3
"""Iterations at a level: GPNN's ten change little after the third."""

_VISIBLE = 6
"""Root mean square difference in grey levels above which patches at a seam are chosen again."""

_SEAMS = 14.0
"""How much seams weigh against lost and foreign patches; less, and more faces are cut."""


@dataclass(frozen=True)
class Sketch:
    """An arrangement of the coarse levels."""

    field: Floats
    """Displacements at the last coarse level, (2, side, side)."""

    values: Values
    """The picture there, in the contrast of that level."""


@dataclass(frozen=True)
class _Level:
    """The source at one level, with the descriptors of its patches."""

    values: Values
    """The source there, in its contrast."""
    contrast: Contrast
    keys: Floats
    soft_keys: Floats
    """Keys of the level below enlarged: as soft as the first picture of this level (GPNN, 3.2)."""
    quilt: Quilt

    @property
    def side(self) -> int:
        return len(self.values)


class Arranger:
    """Arranges the patches of one source anew. Holds what all its variations share.

    Args:
        source: uint8 (256, 256, channels).
        complete: Whether everything in the source is wanted; off only to measure what that brings.
    """

    def __init__(self, source: Bytes, *, complete: bool = True) -> None:
        pictures = [pyramid.resize(source, side) for side in pyramid.sides(_START)]
        self._complete = complete
        self._per_patch = PATCH * PATCH * source.shape[2]
        self._directions = strongest_directions(pictures)
        levels = []
        soft = pictures[0]
        for picture in pictures:
            contrast = Contrast.of(picture)
            values = contrast.values(picture)
            soft_values = contrast.values(pyramid.resize(soft, len(picture)))
            keys, soft_keys = (describe(one, self._directions) for one in (values, soft_values))
            levels.append(_Level(values, contrast, keys, soft_keys, Quilt(picture)))
            soft = picture
        self._coarse = [level for level in levels if level.side <= _EXACT]
        self._fine = levels[len(self._coarse) :]
        self._finest_contrast = Contrast.of(source)
        self._finest_keys = describe(self._finest_contrast.values(source), self._directions)

    def sketch(self, lattice: Floats, amplitude: float, step: Step = ignore_step) -> Sketch:
        """Arrange the coarse levels, from the first at which the guess moves things by a pixel.

        A coarser level could not tell the guess from the source, and would undo it.

        Args:
            lattice: The first guess, as `warp.flow` returns it.
            amplitude: How far it moves things, root mean square, in sides.
            step: Called after each level with the share of them that is done.
        """
        able = [level.side * amplitude >= 1 for level in self._coarse[:-1]]
        start = able.index(True) if any(able) else len(able)
        first = self._coarse[start]
        picture = first.quilt.draw(resample(lattice, first.side))
        levels = self._coarse[start:]
        for done, level in enumerate(levels, 1):
            values = level.contrast.values(pyramid.resize(picture, level.side))
            for turn in range(1 if level is first else _ROUNDS):
                found = self._match(values, level, level.keys if turn else level.soft_keys)
                values = vote(level.values, found)
            picture = level.contrast.picture(values)
            step(done / len(levels))
        return Sketch(smooth(from_corners(found)), values)

    def faults(self, sketch: Sketch) -> float:
        """Measure how broken a sketch is.

        What it shows that the source does not, plus what the source shows that it does not: the
        bidirectional similarity of Simakov et al. 2008; plus how much neighbouring pieces
        disagree on what is where they meet, M(s, t) = |A(s) - B(s)| + |A(t) - B(t)|, the seam cost
        of Kwatra et al. 2003 ("Graphcut textures", equation 1). All over the standard deviation of
        the source.
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
        """Carry a sketch up to 256 nodes a side.

        Args:
            sketch: What `sketch` returned.
            finest: The source at 256 pixels, ready to be sampled.
            draws: Where PatchMatch's random changes come from.
            step: Called after each level with the share of them that is done.
        """
        field, picture = sketch.field, self._coarse[-1].contrast.picture(sketch.values)
        for done, level in enumerate(self._fine, 1):
            field = upsample(field, level.side)
            values = level.contrast.values(pyramid.resize(picture, level.side))
            queries = describe(values, self._directions)
            field = smooth(propagate(field, queries, level.soft_keys, draws))
            picture = level.quilt.draw(field)
            step(done / (len(self._fine) + 1))
        field = self._mended(smooth(upsample(field, finest.side)), finest, draws)
        step(1.0)
        return field

    def _mended(self, field: Floats, finest: Quilt, draws: Draws) -> Floats:
        """Choose anew along the seams, where what was blended fits no patch of the source."""
        values = self._finest_contrast.values(finest.draw(field))
        nodes = np.flatnonzero(_near(seams(field)))
        queries = describe_some(values, self._directions, nodes)
        misfit = queries - self._finest_keys[corners(field).reshape(-1)[nodes]]
        visible = (_VISIBLE * self._finest_contrast.gain) ** 2 * self._per_patch
        # Exact in any order: see `patches`.
        torn = np.einsum("ij,ij->i", misfit, misfit) > visible
        field = propagate(field, queries[torn], self._finest_keys, draws, nodes[torn])
        return smooth(field)

    def _match(self, values: Values, level: _Level, keys: Floats) -> Indices:
        queries = describe(values, self._directions)
        if not self._complete:
            found = exact.nearest(queries, keys, self._per_patch, alpha=np.inf)
        elif level.side <= _BALANCED:
            found = exact.balanced(queries, keys, self._per_patch)
        else:
            found = exact.nearest(queries, keys, self._per_patch)
        return found.reshape(level.side - 6, level.side - 6)


def _near(torn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the nodes that a patch can be centred on, those with a seam within three cells."""
    reach = sliding_window_view(np.pad(torn, 3), (6, 6))
    return np.asarray(reach.any(axis=(2, 3)))[3:-3, 3:-3]


def _disagreement(field: Floats, values: Values) -> float:
    """The mean difference, over all pairs of nodes, between what both would put at both."""
    side = field.shape[1]
    own = np.arange(side)
    total = 0.0
    for dy, dx in ((1, 0), (0, 1)):
        near, far = np.s_[: side - dy, : side - dx], np.s_[dy:, dx:]
        for place in (near, far):
            shown = []
            for moved in (field[:, *near], field[:, *far]):
                y, x = np.rint(moved * np.float32(side)).astype(np.intp)
                y, x = y + own[place[0], None], x + own[place[1]]
                shown.append(values[np.clip(y, 0, side - 1), np.clip(x, 0, side - 1)])
            apart = np.abs(shown[0] - shown[1])
            total += int(apart.sum(dtype=np.int64)) / apart.size
    return total / 4
