"""The view of a variation: a part of the source, seen from a slightly different place.

A camera that moves and turns sees a plane through a homography, x -> (A x + b) / (1 + p x). So
straight lines stay straight. The view is chosen where its border cuts little that is salient: what
leaves the view, and what its border crosses though the border of the source does not.
"""

from dataclasses import dataclass, replace

import numpy as np

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.oklab import Doubles
from langchain_image_variation.engines.local.pyramid import Floats, Indices
from langchain_image_variation.engines.local.salience import CELLS, Whole, widen
from langchain_image_variation.engines.local.series import Shot
from langchain_image_variation.engines.local.survey import Survey

__all__ = ["View", "choose_view", "look_through"]

_PLACES = np.arange(-4, 5) / 8
"""Places to try along each axis, from the middle, as shares of the room that the view has."""

_PREFERENCE = 0.4
"""How far from the middle the preferred view is, as a share of that room."""

_CROSSED, _LOST = 3.0, 0.5
"""How much a border that crosses objects weighs, and how much objects that are left out do."""

_SLENDER = 2
"""How much more a thin object weighs."""

_CUT = 4.0
"""How much all that weighs against the distance from the preferred view."""

_TOLERANCE, _GRAPHIC_TOLERANCE = 0.1, 0.03
"""How much a view may cut. Otherwise, a larger one is tried."""

_GROWTH = 0.9
"""The factor by which what is cropped shrinks until the view cuts little."""

_LARGEST, _GRAPHIC_LARGEST = 0.96, 0.99
"""The side at which the search for a larger view ends, as a share of the side of the source."""

_TURN, _TILT_DOWN, _TILT_ACROSS = 0.03, 0.12, 0.14
"""The largest turn in radians, and the largest differences in size between the middle of the view
and its lower or right border, as a share. All at the default strength."""

_LEAST_MOTION, _MOTION_DECAY = 0.1, 0.75
"""The motion below which a view does not turn and tilt at all, and the factor by which motion
shrinks until the view cuts little."""

_GROUND = 1.2
"""The largest view of what lies on plain ground, which is continued. In sides of the source."""

_WHOLE_CROP = 0.2
"""The crop from which the place of an object on plain ground changes as much as it may."""

_OBJECT = 127
"""What is more salient than this belongs to an object on plain ground."""

_STREAM = 2
"""Separates these draws from the others of the same seed."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of the source. Lengths are in sides of the source."""

    y: float
    x: float
    """Where its center lies."""
    side: float
    turn: float = 0.0
    """In radians, for small angles."""
    tilt: tuple[float, float] = (0.0, 0.0)
    """How much nearer the lower and the right border are than the center."""


def choose_view(survey: Survey, seed: int, crop: float, motion: float, aspect: float = 1.0) -> View:
    """Choose the view of one variation.

    Args:
        survey: What the source allows.
        seed: The same seed chooses the same view.
        crop: How much of a side the closest view may crop.
        motion: How much the camera turns and tilts, 1 at the default strength.
        aspect: Height over width of what the source shows. It may be stretched to a square.
    """
    shot = Shot.of(seed)
    is_graphic = survey.is_graphic
    draws = Draws(seed, _STREAM).uniforms(4)
    if survey.is_boundless:
        return _view_on_ground(survey.objects, shot, crop)
    side = 1 - crop * (shot.closeness + 0.1 * draws[0])
    tolerance = _GRAPHIC_TOLERANCE if is_graphic else _TOLERANCE
    largest = _GRAPHIC_LARGEST if is_graphic else _LARGEST
    border = _Border(survey)
    while True:
        cut, y, x = _best_place(border, shot, side)
        if cut <= tolerance or side >= largest:
            break
        side = 1 - (1 - side) * _GROWTH
    view = View(y, x, side)
    if is_graphic:
        return view
    tilt = shot.side[0] * (0.7 + 0.3 * draws[1]), shot.side[1] * (0.7 + 0.3 * draws[2])
    while motion > _LEAST_MOTION:
        moved = View(
            *(y, x, side, motion * _TURN * draws[3]),
            tilt=(motion * _TILT_DOWN * tilt[0], motion * _TILT_ACROSS * tilt[1]),
        )
        view = _fit_inside(moved, aspect)
        if border.cut(view, aspect) <= tolerance:
            return view
        # A view that tilts less shows more.
        motion *= _MOTION_DECAY
    return View(y, x, side)


def _fit_inside(view: View, aspect: float) -> View:
    """Move a view, and make it smaller, until its corners lie inside the source."""
    y, x, side = view.y, view.x, view.side
    corners = np.array([-1.0, -1.0, 1.0, 1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
    down, across = _project(view, *corners, aspect)
    while True:
        low_y, high_y = y + side / 2 * float(down.min()), y + side / 2 * float(down.max())
        low_x, high_x = x + side / 2 * float(across.min()), x + side / 2 * float(across.max())
        if max(high_y - low_y, high_x - low_x) <= 1:
            y += max(-low_y, 0.0) - max(high_y - 1, 0.0)
            x += max(-low_x, 0.0) - max(high_x - 1, 0.0)
            return replace(view, y=y, x=x, side=side)
        side *= 0.99


def _view_on_ground(objects: Whole, shot: Shot, crop: float) -> View:
    """Choose a view that shows all objects, nearer or farther, and on one side of the ground."""
    is_object = objects > _OBJECT
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(is_object.any(axis=axis))
        spans.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, CELLS))
    length = max(end - start for start, end in spans) / CELLS
    share = min(crop / _WHOLE_CROP, 1.0)
    nearest = length * (1 + 2 * crop * (1.2 - shot.closeness))
    side = 1 + share * (min(max(nearest, 1 - crop), _GROUND) - 1)
    room = max(side - length, 0.0)
    y, x = (
        0.5 + share * ((start + end) / (2 * CELLS) - _PREFERENCE * room * direction - 0.5)
        for (start, end), direction in zip(spans, shot.side, strict=True)
    )
    return View(y, x, side)


def look_through(view: View, nodes: int, aspect: float = 1.0) -> Floats:
    """Return where the pixels of a view come from, minus where they are.

    Args:
        view: What `choose_view` returned.
        nodes: Nodes along a side of the result.
        aspect: Height over width of what the source shows. It may be stretched to a square.

    Returns:
        float32 (2, nodes, nodes), in sides of the source.
    """
    place = (np.arange(nodes) + 0.5) / nodes
    y, x = _sources(view, 2 * place[:, None] - 1, 2 * place[None, :] - 1, aspect)
    return np.stack([y - place[:, None], x - place]).astype(np.float32)


def _sources(view: View, down: Doubles, across: Doubles, aspect: float) -> tuple[Doubles, Doubles]:
    """Return where points of a view, from -1 to 1, lie in the source, in its sides."""
    y, x = _project(view, down, across, aspect)
    return view.y + view.side / 2 * y, view.x + view.side / 2 * x


def _project(view: View, down: Doubles, across: Doubles, aspect: float) -> tuple[Doubles, Doubles]:
    """Turn and tilt points of the square from -1 to 1."""
    # Without libm: the half-angle formulas.
    half = view.turn / 2
    cosine, sine = (1 - half * half) / (1 + half * half), view.turn / (1 + half * half)
    depth = 1 + view.tilt[0] * down + view.tilt[1] * across
    y, x = down / depth, across / depth
    return cosine * y + sine / aspect * x, cosine * x - sine * aspect * y


class _Border:
    """Measures what views cut."""

    def __init__(self, survey: Survey) -> None:
        objects = survey.objects
        edges = objects[0], objects[-1], objects[:, 0], objects[:, -1]
        # A view should not touch an object either. One cut matters, however thin the object is.
        objects = widen(objects) + _SLENDER * widen(survey.slender)
        self._objects, self._edges = objects, np.stack(edges)
        self._total = max(int(objects.sum()), 1)
        self._sums = np.pad(objects.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        # What already touches the border of the source was cut before.
        top, bottom, left, right = (widen(edge[None, :])[0] for edge in edges)
        self._top, self._bottom = (_sums_along_rows(objects, edge) for edge in (top, bottom))
        self._left, self._right = (_sums_along_rows(objects.T, edge) for edge in (left, right))

    def cuts(self, y: Doubles, x: Doubles, side: float) -> Doubles:
        """Return how much views cut, 0 for nothing, for each center (y, x)."""
        (top, bottom), (left, right) = _cells(y, side), _cells(x, side)
        rows, columns = np.ix_(top, left), np.ix_(top, right)
        far_rows, far_columns = np.ix_(bottom, left), np.ix_(bottom, right)
        inside = (
            self._sums[far_columns] - self._sums[columns] - self._sums[far_rows] + self._sums[rows]
        )
        crossed = (
            (self._top[columns] - self._top[rows]) * (top > 0)[:, None]
            + (self._bottom[np.ix_(bottom - 1, right)] - self._bottom[np.ix_(bottom - 1, left)])
            * (bottom < CELLS)[:, None]
            + (self._left[np.ix_(left, bottom)] - self._left[np.ix_(left, top)]).T * (left > 0)
            + (self._right[np.ix_(right - 1, bottom)] - self._right[np.ix_(right - 1, top)]).T
            * (right < CELLS)
        )
        lost = (self._total - inside) / (self._total * max(1 - side * side, 0.05))
        return np.asarray(_CROSSED / (255 * CELLS) * crossed + _LOST * lost)

    def cut(self, view: View, aspect: float) -> float:
        """Return how much the border of a view that may turn and tilt cuts, 0 for nothing."""
        start, end, along = -np.ones(CELLS), np.ones(CELLS), (2 * np.arange(CELLS) + 1) / CELLS - 1
        # The top, the bottom, the left and the right side, as in `_edges`.
        down = np.stack([start, end, along, along])
        across = np.stack([along, along, start, end])
        y, x = _sources(view, down, across, aspect)
        rows, columns = (np.clip((CELLS * one).astype(np.intp), 0, CELLS - 1) for one in (y, x))
        values = self._objects[rows, columns]
        distances = np.concatenate([rows[:2], columns[2:]])
        places = np.concatenate([columns[:2], rows[2:]])
        excess = np.maximum(values - np.take_along_axis(self._edges, places, axis=1), 0)
        is_off = (distances > 0) & (distances < CELLS - 1)
        return _CROSSED * view.side * int(excess[is_off].sum()) / (255 * CELLS)


def _sums_along_rows(objects: Whole, edge: Whole) -> Whole:
    """Return sums along rows, from the left, of what is more salient than an edge."""
    return np.pad(np.maximum(objects - edge, 0).cumsum(axis=1), ((0, 0), (1, 0)))


def _cells(centers: Doubles, side: float) -> tuple[Indices, Indices]:
    """Return the first cells of views, and the ones after their last."""
    first = np.rint(CELLS * (centers - side / 2)).astype(np.intp)
    end = np.rint(CELLS * (centers + side / 2)).astype(np.intp)
    return np.clip(first, 0, CELLS - 1), np.clip(end, 1, CELLS)


def _best_place(border: _Border, shot: Shot, side: float) -> tuple[float, float, float]:
    """Return how much the best view of a side cuts, and its center."""
    centers = 0.5 + _PLACES * (1 - side)
    cuts = border.cuts(centers, centers, side)
    off_y, off_x = (_PLACES - _PREFERENCE * one for one in shot.side)
    costs = _CUT * cuts + (off_y * off_y)[:, None] + off_x * off_x
    down, across = divmod(int(costs.argmin()), len(_PLACES))
    return float(cuts[down, across]), float(centers[down]), float(centers[across])
