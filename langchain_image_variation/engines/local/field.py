"""The field of displacements: read from patches, upsampled coherently, propagated, smoothed.

PatchMatch (Barnes et al. 2009, "PatchMatch: a randomized correspondence algorithm for structural
image editing", section 3.2): propagation, f(x) = argmin D over f(x) and f(x + e) for neighbours e,
and random search, u_i = f(x) + w_i R_i (its equation 1) for uniform R_i in [-1, 1] and falling w_i.

A field is float32 (2, nodes, nodes): for the centre of each node where it comes from, minus where
it is, y and x, in sides of the picture. So it means the same at every level, sub-pixel included.
"""

from collections.abc import Iterator

import numpy as np

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.patches import PATCH
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["corners", "from_corners", "propagate", "smooth", "upsample"]

_HALF = PATCH // 2

_SAME = 2.5
"""Neighbours whose displacements differ by less than this many nodes belong to one piece."""

_COHERENCE = np.float32(1.1)
"""How much worse a neighbour's displacement may be and still be taken, for coherence."""

_BESIDE = ((1, 0), (-1, 0), (0, 1), (0, -1))

_HOPS = (4, 1)
"""Nodes to the neighbours that are tried: all nodes go at once, so one pass must reach far."""

_REACHES = (8, 3)
"""w_i, in nodes."""


def from_corners(found: Indices) -> Floats:
    """Return the field that patch positions describe.

    Args:
        found: Flat corner indices (side - 6, side - 6), as `vote` takes them.
    """
    span = found.shape[0]
    own = np.arange(span)
    moved = np.stack([found // span - own[:, None], found % span - own[None, :]])
    return _framed((moved / (span + 2 * _HALF)).astype(np.float32))


def corners(field: Floats) -> Indices:
    """Return the legal patch corner nearest to each inner node, flat, (side - 6, side - 6)."""
    side = field.shape[1]
    inner = field[:, _HALF : side - _HALF, _HALF : side - _HALF]
    own = np.arange(side - PATCH + 1, dtype=np.float32)
    return _corner(inner[0], inner[1], own[:, None], own[None, :], side)


def upsample(field: Floats, side: int) -> Floats:
    """Read a field at the nodes of a finer level, keeping the seams between its pieces sharp.

    A displacement is interpolated among those of the four nearest nodes that belong to the piece of
    the nearest one, so a piece of the source stays a piece: PatchMatch's upsampling at sub-pixel
    precision.

    Args:
        field: (2, nodes, nodes).
        side: Nodes along a side of the result.
    """
    nodes = field.shape[1]
    place = np.clip((np.arange(side) + 0.5) * (nodes / side) - 0.5, 0, nodes - 1)
    low = np.minimum(place.astype(np.intp), nodes - 2)
    part = (place - low).astype(np.float32)
    close = np.rint(place).astype(np.intp)
    own = field[:, close[:, None], close[None, :]]
    total, weight = np.zeros_like(own), np.zeros_like(own[0])
    for dy, wy in ((0, 1 - part), (1, part)):
        for dx, wx in ((0, 1 - part), (1, part)):
            other = field[:, (low + dy)[:, None], (low + dx)[None, :]]
            share = wy[:, None] * wx[None, :] * _together(other, own, nodes)
            total += other * share
            weight += share
    return np.asarray(total / weight)


def smooth(field: Floats) -> Floats:
    """Average each node with those of the 5x5 around it that belong to its piece.

    Patch positions are whole pixels; the mean over a piece brings back the fractions, without which
    straight edges come out in steps.
    """
    nodes = field.shape[1]
    padded = np.pad(field, ((0, 0), (2, 2), (2, 2)), mode="edge")
    total, weight = np.zeros_like(field), np.zeros_like(field[0])
    for dy in range(5):
        for dx in range(5):
            other = padded[:, dy : dy + nodes, dx : dx + nodes]
            near = _together(other, field, nodes)
            total += other * near
            weight += near
    return np.asarray(total / weight)


def propagate(
    field: Floats,
    queries: Floats,
    keys: Floats,
    draws: Draws,
    nodes: Indices | None = None,
) -> Floats:
    """Improve a field by one pass of PatchMatch over all its nodes at once.

    Each node tries the displacements of its neighbours, then small random changes of its own, then
    its neighbours' again, which now win even when slightly worse: coherence (Hertzmann et al. 2001,
    "Image analogies", section 3).

    Args:
        field: Displacements (2, side, side).
        queries: Descriptors of the picture at `nodes`, (n, d).
        keys: Descriptors of all patches of the source, ((side - 6) ** 2, d).
        draws: Where the random changes come from.
        nodes: Flat corner indices of the nodes to improve; None for all, row by row.
    """
    side = field.shape[1]
    span = side - PATCH + 1
    y, x = np.divmod(np.arange(span * span) if nodes is None else nodes, span)
    inner = field[:, _HALF : side - _HALF, _HALF : side - _HALF].copy()
    now = _corner(inner[0, y, x], inner[1, y, x], y, x, side)
    distance = _distances(queries, keys[now])
    for wanted, gain in _candidates(inner, y, x, draws):
        moved = _inside(wanted, y, x, side)
        there = _corner(moved[0], moved[1], y, x, side)
        new = np.flatnonzero(there != now)
        tried = _distances(queries[new], keys[there[new]])
        better = tried < distance[new] * gain
        new = new[better]
        distance[new] = tried[better]
        now[new] = there[new]
        inner[:, y[new], x[new]] = moved[:, new]
    return _framed(inner)


def _candidates(
    inner: Floats, y: Indices, x: Indices, draws: Draws
) -> Iterator[tuple[Floats, np.float32]]:
    """Yield displacements to try at (y, x), each with the factor by which it may be worse."""
    last = inner.shape[1] - 1
    side = last + PATCH

    def neighbour(dy: int, dx: int) -> Floats:
        return inner[:, np.clip(y + dy, 0, last), np.clip(x + dx, 0, last)]

    for hop in _HOPS:
        for dy, dx in _BESIDE:
            yield neighbour(hop * dy, hop * dx), np.float32(1)
    for reach in _REACHES:
        jitter = draws.integers(reach, 2, len(y))
        yield inner[:, y, x] + (jitter / side).astype(np.float32), np.float32(1)
    for dy, dx in _BESIDE:
        yield neighbour(dy, dx), _COHERENCE


def _corner(dy: Floats, dx: Floats, y: Floats | Indices, x: Floats | Indices, side: int) -> Indices:
    """The flat index of the legal corner nearest to (y, x) displaced by (dy, dx) sides."""
    last = side - PATCH
    row = np.clip(np.rint(dy * np.float32(side)) + y, 0, last)
    column = np.clip(np.rint(dx * np.float32(side)) + x, 0, last)
    return np.asarray(row * (last + 1) + column).astype(np.intp)


def _inside(moved: Floats, y: Indices, x: Indices, side: int) -> Floats:
    """Displacements of corners (y, x), shortened where they would lead past a legal corner.

    Unshortened they would be judged by a patch that they do not lead to, and be handed on along
    the border, where the picture would come out in streaks.
    """
    own = np.stack([y, x]).astype(np.float32)
    there = np.clip(moved * np.float32(side) + own, 0, side - PATCH)
    return np.asarray((there - own) / np.float32(side))


def _distances(queries: Floats, keys: Floats) -> Floats:
    difference = queries - keys
    # Exact in any order: see `patches`.
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def _together(other: Floats, own: Floats, nodes: int) -> Floats:
    """1 where two displacements belong to one piece, else 0."""
    limit = np.float32(_SAME / nodes)
    apart = np.abs(other - own)
    return np.asarray((apart[0] < limit) & (apart[1] < limit)).astype(np.float32)


def _framed(inner: Floats) -> Floats:
    """Repeat the outermost nodes over the margin on which no patch is centred."""
    return np.pad(inner, ((0, 0), (_HALF, _HALF), (_HALF, _HALF)), mode="edge")
