"""The `local` engine: variations from the picture's own pixels; no weights, no network, no key.

One module for each step of the method:

- `pyramid`: the source at falling sides.
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
"""

from langchain_image_variation.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
