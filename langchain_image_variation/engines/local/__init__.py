"""The `local` engine: variations from the image's own pixels, without weights or network.

Each module is one step of the method:

- `pyramid`: the source at falling sides.
- `draws`: random numbers that no release of numpy changes.
- `warp`: the first guess, a smooth random change of coordinates.
- `schedule`, `change`: how much a strength should change, and how much a field changes.
- `patches`: descriptors of 7x7 patches; `product`: matrix products on one thread.
- `exact`: nearest neighbors with completeness, for the coarse levels.
- `vote`: from patches back to pixels.
- `field`: displacements carried up, propagated, smoothed.
- `arrangement`: the loop over the levels.
- `grain`: copying fine grain where the copy cannot be seen.
- `quilt`: the image at full resolution.
- `light`: slightly different tone and color.
- `synthesis`: all steps in order. `engine`, `workers`, `progress`: requests, options, threads.

A seed gives the same pixels on every machine. So use only arithmetic that every machine rounds
alike: whole numbers, single operations on arrays (`+ - * /` and square roots), sums written term by
term, and `math.fsum`. Avoid BLAS, `einsum`, float `sum` and `mean`, powers, exponentials and
logarithms, unless a comment says why the result is the same, or you round the result far more
coarsely than libraries differ. `benchmarks/same_pixels.py` checks the pixels.
"""

from langchain_image_variation.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
