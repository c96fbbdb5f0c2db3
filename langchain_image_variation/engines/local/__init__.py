"""The `local` engine: variations from the image's own pixels, without weights or network.

A variation is another picture of the same thing: another view, another side, another light. Each
module is one step. What a seed and a strength ask for, and what the source allows:

- `series`: how the images of consecutive seeds differ. `draws`: random numbers that no release of
  numpy changes. `schedule`: how much a strength should change.
- `survey`: what one source allows, from `salience` and `slender` (what a crop must not cut),
  `lettering` (small print) and `words` (larger letters), which are not mirrored, and `straightness`
  (lines, which are not bent). `components`: the connected parts of a mask.
- `bars`: the bars that made the source square. They are not varied.

The steps of every image:

- `framing`: the view, a homography. `warp`: a smooth random change of coordinates.
- `quilt`: the image at full resolution, from a field of displacements.
- `light`: the light of another hour, in the color space of `oklab`.

Textures and many small things are also rearranged at high strength:

- `pyramid`: the source at falling sides.
- `patches`: descriptors of 7x7 patches; `product`: matrix products on one thread.
- `exact`: nearest neighbors with completeness, for the coarse levels.
- `vote`: from patches back to pixels.
- `field`: displacements carried up, propagated, smoothed. `change`: how much a field changes.
- `arrangement`: the loop over the levels. `rearrangement`: the best of several arrangements.
- `grain`: copying fine grain where the copy cannot be seen.

`synthesis` has all steps in order. `engine`, `workers` and `progress` handle requests, options and
threads.

A seed gives the same pixels on every machine. So use only arithmetic that every machine rounds
alike: whole numbers, single operations on arrays (`+ - * /` and square roots), sums written term by
term, and `math.fsum`. Avoid BLAS, `einsum`, float `sum` and `mean`, powers, exponentials and
logarithms, unless a comment says why the result is the same, or you round the result far more
coarsely than libraries differ. `benchmarks/same_pixels.py` checks the pixels.
"""

from langchain_image_variation.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
