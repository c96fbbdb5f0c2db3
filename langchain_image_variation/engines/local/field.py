"""Fields of displacements: read from patches, upsampled coherently, propagated, smoothed.

PatchMatch (Barnes et al. 2009, "PatchMatch: a randomized correspondence algorithm for structural
image editing", section 3.2): propagation, f(x) = argmin D over f(x) and f(x + e) for neighbors e,
and random search, u_i = f(x) + w_i R_i (its equation 1) for uniform R_i in [-1, 1] and falling w_i.

A field is float32 (2, nodes, nodes). For the center of each node, it holds where the node comes
from minus where it is, y and x, in sides of the image. So it means the same at every level, with
sub-pixel precision.
"""

from collections.abc import Iterator

import numpy as np

from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.oklab import Doubles
from langchain_image_variation.engines.local.patches import PATCH, ShortKeys
from langchain_image_variation.engines.local.pyramid import Floats, Indices

__all__ = ["compose", "corners", "from_corners", "propagate", "smooth", "upsample"]

_HALF = PATCH // 2

_SAME_PIECE = 2.5
"""Neighbors belong to one piece if their displacements differ by less than this many nodes."""

_COHERENCE = np.float32(1.1)
"""How much worse a neighbor's displacement may be and still be adopted, for coherence."""

_NEIGHBORS = ((1, 0), (-1, 0), (0, 1), (0, -1))

_HOPS = (4, 1)
"""Distances in nodes of the neighbors to try. All nodes advance at once, so one pass must reach
far."""

_REACHES = (8, 3)
"""w_i, in nodes."""


def from_corners(matches: Indices) -> Floats:
    """Return the field that patch positions describe.

    Args:
        matches: Flat corner indices (side - 6, side - 6), as `vote` takes them.
    """
    span = matches.shape[0]
    axis = np.arange(span)
    pixels = np.stack([matches // span - axis[:, None], matches % span - axis[None, :]])
    return _pad_margin((pixels / (span + 2 * _HALF)).astype(np.float32))


def corners(field: Floats) -> Indices:
    """Return the legal patch corner nearest to each inner node, flat, (side - 6, side - 6)."""
    side = field.shape[1]
    inner = field[:, _HALF : side - _HALF, _HALF : side - _HALF]
    axis = np.arange(side - PATCH + 1, dtype=np.float32)
    return _corner(inner[0], inner[1], axis[:, None], axis[None, :], side)


def upsample(field: Floats, side: int) -> Floats:
    """Read a field at the nodes of a finer level, keeping the seams between its pieces sharp.

    A displacement is interpolated among the four nearest nodes, but only those that belong to the
    piece of the nearest one. So a piece of the source stays a piece. This is the upsampling of
    PatchMatch with sub-pixel precision.

    Args:
        field: (2, nodes, nodes).
        side: Nodes along a side of the result.
    """
    nodes = field.shape[1]
    position = (np.arange(side) + 0.5) * (nodes / side) - 0.5
    return _read(field, position[:, None], position[None, :])


def compose(view: Floats, field: Floats) -> Floats:
    """Return the field that first follows a smooth field and then, from there, another one.

    Args:
        view: Displacements (2, nodes, nodes), without seams.
        field: Displacements (2, nodes, nodes). Its pieces stay pieces.
    """
    nodes = view.shape[1]
    axis = np.arange(nodes)
    y, x = view.astype(np.float64) * nodes + np.stack(np.meshgrid(axis, axis, indexing="ij"))
    return np.asarray(view + _read(field, y, x))


def _read(field: Floats, y: Doubles, x: Doubles) -> Floats:
    """Read a field at positions in nodes, among the nodes that belong to the nearest one's piece.

    Both arrays are broadcast. Positions outside move to the outermost nodes.
    """
    nodes = field.shape[1]
    last = nodes - 1
    y, x = np.clip(y, 0, last), np.clip(x, 0, last)
    low_y = np.minimum(y.astype(np.intp), last - 1)
    low_x = np.minimum(x.astype(np.intp), last - 1)
    share_y, share_x = (y - low_y).astype(np.float32), (x - low_x).astype(np.float32)
    # `take` keeps both planes contiguous, unlike an index. That makes all later steps faster.
    planes = field.reshape(2, -1)
    nearest_node = np.rint(y).astype(np.intp) * nodes + np.rint(x).astype(np.intp)
    nearest = planes.take(nearest_node, axis=1)
    total, weight = np.zeros_like(nearest), np.zeros_like(nearest[0])
    node = low_y * nodes + low_x
    for dy, wy in ((0, 1 - share_y), (1, share_y)):
        for dx, wx in ((0, 1 - share_x), (1, share_x)):
            other = planes.take(node + (dy * nodes + dx), axis=1)
            share = wy * wx * _same_piece(other, nearest, nodes)
            total += other * share
            weight += share
    return np.asarray(total / weight)


def smooth(field: Floats) -> Floats:
    """Average each node with the nodes of the 5x5 around it that belong to its piece.

    Patch positions are whole pixels. The mean over a piece restores the fractions. Without them,
    straight edges come out in steps.
    """
    nodes = field.shape[1]
    padded = np.pad(field, ((0, 0), (2, 2), (2, 2)), mode="edge")
    total, weight = np.zeros_like(field), np.zeros_like(field[0])
    for dy in range(5):
        for dx in range(5):
            other = padded[:, dy : dy + nodes, dx : dx + nodes]
            mask = _same_piece(other, field, nodes)
            total += other * mask
            weight += mask
    return np.asarray(total / weight)


def propagate(
    field: Floats,
    queries: Floats,
    keys: Floats | ShortKeys,
    draws: Draws,
    nodes: Indices | None = None,
) -> Floats:
    """Improve a field by one pass of PatchMatch over all its nodes at once.

    Each node tries the displacements of its neighbors, then small random changes, then its
    neighbors again. These last ones win even when slightly worse, for coherence (Hertzmann et al.
    2001, "Image analogies", section 3).

    Args:
        field: Displacements (2, side, side).
        queries: Descriptors of the image at `nodes`, (n, d).
        keys: Descriptors of all patches of the source, ((side - 6) ** 2, d).
        draws: The source of random changes.
        nodes: Flat corner indices of the nodes to improve. None means all, row by row.
    """
    side = field.shape[1]
    span = side - PATCH + 1
    y, x = np.divmod(np.arange(span * span) if nodes is None else nodes, span)
    inner = field[:, _HALF : side - _HALF, _HALF : side - _HALF].copy()
    corner = _corner(inner[0, y, x], inner[1, y, x], y, x, side)
    distance = _distances(queries, keys[corner])
    for candidate, tolerance in _candidates(inner, y, x, draws):
        candidate = _shorten(candidate, y, x, side)
        new_corner = _corner(candidate[0], candidate[1], y, x, side)
        changed_indices = np.flatnonzero(new_corner != corner)
        new_distance = _distances(queries[changed_indices], keys[new_corner[changed_indices]])
        is_better = new_distance < distance[changed_indices] * tolerance
        changed_indices = changed_indices[is_better]
        distance[changed_indices] = new_distance[is_better]
        corner[changed_indices] = new_corner[changed_indices]
        inner[:, y[changed_indices], x[changed_indices]] = candidate[:, changed_indices]
    return _pad_margin(inner)


def _candidates(
    inner: Floats, y: Indices, x: Indices, draws: Draws
) -> Iterator[tuple[Floats, np.float32]]:
    """Yield displacements to try at (y, x), each with the factor by which it may be worse."""
    last_corner = inner.shape[1] - 1
    side = last_corner + PATCH

    def neighbor(dy: int, dx: int) -> Floats:
        return inner[:, np.clip(y + dy, 0, last_corner), np.clip(x + dx, 0, last_corner)]

    for hop in _HOPS:
        for dy, dx in _NEIGHBORS:
            yield neighbor(hop * dy, hop * dx), np.float32(1)
    for reach in _REACHES:
        jitter = draws.integers(reach, 2, len(y))
        yield inner[:, y, x] + (jitter / side).astype(np.float32), np.float32(1)
    for dy, dx in _NEIGHBORS:
        yield neighbor(dy, dx), _COHERENCE


def _corner(dy: Floats, dx: Floats, y: Floats | Indices, x: Floats | Indices, side: int) -> Indices:
    """Return the flat index of the legal corner nearest to (y, x) displaced by (dy, dx) sides."""
    last_corner = side - PATCH
    row = np.clip(np.rint(dy * np.float32(side)) + y, 0, last_corner)
    column = np.clip(np.rint(dx * np.float32(side)) + x, 0, last_corner)
    return np.asarray(row * (last_corner + 1) + column).astype(np.intp)


def _shorten(displacement: Floats, y: Indices, x: Indices, side: int) -> Floats:
    """Shorten displacements of corners (y, x) that would lead past a legal corner.

    Otherwise they would be judged by a patch that they do not lead to, and spread along the border
    as streaks.
    """
    corner = np.stack([y, x]).astype(np.float32)
    target = np.clip(displacement * np.float32(side) + corner, 0, side - PATCH)
    return np.asarray((target - corner) / np.float32(side))


def _distances(queries: Floats, keys: Floats | ShortKeys) -> Floats:
    difference = queries - keys
    # Exact in any order: see `patches`.
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def _same_piece(one: Floats, other: Floats, nodes: int) -> Floats:
    """Return 1 where two displacements belong to one piece, else 0."""
    limit = np.float32(_SAME_PIECE / nodes)
    difference = np.abs(one - other)
    return np.asarray((difference[0] < limit) & (difference[1] < limit)).astype(np.float32)


def _pad_margin(inner: Floats) -> Floats:
    """Repeat the outermost nodes over the margin on which no patch is centered."""
    return np.pad(inner, ((0, 0), (_HALF, _HALF), (_HALF, _HALF)), mode="edge")
