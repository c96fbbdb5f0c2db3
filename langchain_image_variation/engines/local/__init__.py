"""The `local` engine: variations from the picture's own pixels; no weights, no network, no key.

One module for each step of the method:

- `pyramid`: the source at falling sides.
- `draws`: random numbers that no release of numpy changes.
- `warp`: the first guess, a smooth random change of coordinates.
- `schedule`, `change`: what a strength asks for, and how far a field of displacements is from it.
- `patches`: descriptors of 7x7 patches; `product`: matrix products that keep to one thread.
- `exact`: nearest neighbours with completeness, for the coarse levels.
- `vote`: from patches back to pixels.
- `field`: displacements carried up, propagated, smoothed.
- `arrangement`: the loop over the levels.
- `grain`: copying fine grain where that is not seen.
- `quilt`: the picture at full resolution.
- `light`: a little other tone and colour.
- `synthesis`: all of it in order; `engine`, `workers`, `progress`: requests, options, threads.

A seed gives the same pixels on every machine. So a step may only use arithmetic that every machine
rounds alike: whole numbers, single operations on arrays (`+ - * /` and square roots), sums written
out term by term, and `math.fsum`. Avoid BLAS, `einsum`, float `sum` and `mean`, powers,
exponentials and logarithms, unless a comment says why the result is the same, or the result is
rounded far more coarsely than libraries differ. `benchmarks/same_pixels.py` checks the outcome.
"""

from langchain_image_variation.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
