"""Arrangements of one source: several sketches, the best of them, and the image that it becomes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from langchain_image_variation.engines.local.arrangement import Arranger, Sketch
from langchain_image_variation.engines.local.change import PROBES, Yardstick
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.field import compose, upsample
from langchain_image_variation.engines.local.grain import Grain
from langchain_image_variation.engines.local.progress import Step
from langchain_image_variation.engines.local.pyramid import Bytes, Floats
from langchain_image_variation.engines.local.quilt import Quilt
from langchain_image_variation.engines.local.schedule import Schedule
from langchain_image_variation.engines.local.warp import flow, velocity

__all__ = ["CLOSE", "Rearrangement", "Run"]

_CANDIDATES = 4
"""How many first guesses to sketch for each rearranged image. The best is kept."""

_TRIES = 4
"""How many amplitudes to try along the best guess, including its first one."""

CLOSE = 0.06
"""The relative error of the change that a sketch may have without another try."""

_AIM = 1.1
"""Patches snap back a little toward the source, so first guesses aim further than the target."""

_FAULTS = 2.0
"""How many faults an arrangement may have. One with more is dropped."""

_SKETCHED_SHARE, _REFINED_SHARE = 0.6, 0.8
"""The shares of the work on one image that are done after its sketch and after its field."""

T = TypeVar("T")


class Run(Protocol):
    """Runs independent jobs and returns their results in order."""

    def __call__(self, jobs: Sequence[Callable[[], T]], /) -> list[T]:
        """Run the jobs."""
        ...


@dataclass(frozen=True)
class _Try:
    """A guess with its sketch. `miss` is the relative error of its change."""

    speed: Floats
    amplitude: float
    sketch: Sketch
    change: float
    miss: float
    faults: float
    badness: float


class Rearrangement:
    """Rearranges the patches of one source.

    Args:
        arranger: The patches of the source.
        finest: The source at 256 pixels.
        quilt: The source at full resolution.
        grain: Where its grain hides steps.
        yardstick: Measures how much an arrangement changes it.
        plan: What the strength asks for.
        complete: Whether each arrangement should show everything in the source.
    """

    def __init__(
        self,
        arranger: Arranger,
        finest: Quilt,
        quilt: Quilt,
        grain: Grain,
        yardstick: Yardstick,
        plan: Schedule,
        *,
        complete: bool = True,
    ) -> None:
        self._arranger = arranger
        self._finest, self._quilt = finest, quilt
        self._grain = grain
        self._yardstick = yardstick
        self._plan = plan
        # The choice among candidates and the limit of faults are about completeness.
        self._candidates, self._most_faults = (_CANDIDATES, _FAULTS) if complete else (1, math.inf)
        self._target = plan.share * yardstick.max_change

    def draw(self, draws: Draws, view: Floats, step: Step, run: Run) -> Bytes | None:
        """Make one arrangement, or return None if it would have too many faults.

        Args:
            draws: Where the arrangement comes from.
            view: The displacements of the view that shows it, (2, 256, 256).
            step: Called after each level.
            run: Runs the jobs of this image, in any order or at once. The result is the same.
        """
        best = self._best_try(draws, step, run)
        if best.faults > self._most_faults:
            return None
        (image,) = run([partial(self._refine, best.sketch, draws, view, step)])
        return image

    def _refine(self, sketch: Sketch, draws: Draws, view: Floats, step: Step) -> Bytes:
        def report(share: float) -> None:
            step(_SKETCHED_SHARE + (_REFINED_SHARE - _SKETCHED_SHARE) * share)

        field = self._arranger.refine(sketch, self._finest, draws, report)
        field = self._grain.copy(field)
        if view.any():
            field = compose(view, field)
        step(_REFINED_SHARE)
        image = self._quilt.draw(field, snap=not view.any())
        step(1.0)
        return image

    def _best_try(self, draws: Draws, step: Step, run: Run) -> _Try:
        """Sketch several guesses, then approach the target from the best of them."""
        tries = self._candidates + _TRIES - 1
        shares = [0.0] * tries

        def report(index: int, share: float) -> None:
            shares[index] = share
            step(_SKETCHED_SHARE * sum(shares) / tries)

        def try_first(speed: Floats, index: int) -> _Try:
            target = _AIM * self._target
            amplitude = self._yardstick.amplitude(speed, target, self._plan.reach)
            return self._try(speed, amplitude, partial(report, index))

        speeds = [velocity(draws) for _ in range(self._candidates)]
        results = run([partial(try_first, speed, index) for index, speed in enumerate(speeds)])
        best = latest_try = min(results, key=self._rank)
        low = high = 0.0
        for index in range(self._candidates, tries):
            if latest_try.miss <= CLOSE:
                break
            low, high, amplitude = _narrow(low, high, latest_try, self._target)
            (latest_try,) = run(
                [partial(self._try, latest_try.speed, amplitude, partial(report, index))]
            )
            best = min(best, latest_try, key=self._rank)
        return best

    def _rank(self, one: _Try) -> tuple[bool, float]:
        """Return a number that is smaller for a better try. Those with few faults come first."""
        return one.faults > self._most_faults, one.badness

    def _try(self, speed: Floats, amplitude: float, step: Step) -> _Try:
        sketch = self._arranger.sketch(flow(speed, amplitude), amplitude, step)
        change = self._yardstick.change(upsample(sketch.field, PROBES))
        miss = abs(change - self._target) / max(self._target, 1e-6)
        faults = self._arranger.faults(sketch)
        badness = faults + self._plan.firmness * miss * miss
        return _Try(speed, amplitude, sketch, change, miss, faults, badness)


def _narrow(low: float, high: float, latest_try: _Try, target: float) -> tuple[float, float, float]:
    """Return bounds around the right amplitude, 0 where unknown, and the next one to try."""
    if latest_try.change < target:
        low = latest_try.amplitude
    else:
        high = latest_try.amplitude
    if low and high:
        return low, high, math.sqrt(low * high)
    share = target / max(latest_try.change, 0.01)
    return low, high, latest_try.amplitude * min(max(share * share * share * share, 0.4), 2.5)
