"""The steps of the method in order: one source in, any number of variations out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from langchain_image_variation.engines.local.arrangement import Arranger, Sketch
from langchain_image_variation.engines.local.change import PROBES, Yardstick, find_amplitude
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.field import upsample
from langchain_image_variation.engines.local.grain import Grain
from langchain_image_variation.engines.local.progress import Step, ignore_step
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, Floats, resize
from langchain_image_variation.engines.local.quilt import Quilt, snap_to_pixels
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["Synthesis"]

_CANDIDATES = 4
"""How many first guesses to sketch for each rearranged image. The best is kept."""

_TRIES = 4
"""How many amplitudes to try along the best guess, including its first one."""

_CLOSE = 0.06
"""The relative error of the change that a sketch may have without another try."""

_LOOSE = 0.1
"""The relative error of the change that a bent image may have."""

_AIM = 1.1
"""Patches snap back a little toward the source, so first guesses aim further than the target."""

_SKETCHED_SHARE, _REFINED_SHARE = 0.6, 0.8
"""The shares of the work on one image that are done after its sketch and after its field."""

T = TypeVar("T")


class Run(Protocol):
    """Runs independent jobs and returns their results in order."""

    def __call__(self, jobs: Sequence[Callable[[], T]], /) -> list[T]: ...


@dataclass(frozen=True)
class _Try:
    """A guess with its sketch. `miss` is the relative error of its change."""

    speed: Floats
    amplitude: float
    sketch: Sketch
    change: float
    miss: float
    badness: float


def _run_in_order(jobs: Sequence[Callable[[], T]], /) -> list[T]:
    return [job() for job in jobs]


class Synthesis:
    """Makes variations of one source. What they share is computed once. Threads may share it.

    Args:
        source: uint8 (side, side, channels), side at least 256, 1 to 4 channels. If the last of 2
            or 4 channels is alpha, the colors are premultiplied by it.
        strength: 0 (nearly a copy) to 1.
        complete: Whether each variation should show everything in the source. False is used only to
            measure what completeness costs.
        step: Called during the shared work, always with a share of 0.
        run: Runs the jobs of the shared work, in any order or at once.
    """

    def __init__(
        self,
        source: Bytes,
        strength: float,
        *,
        complete: bool = True,
        step: Step = ignore_step,
        run: Run = _run_in_order,
    ) -> None:
        small = resize(source, NODES)
        self._plan = schedule(strength)
        # The choice among candidates is about completeness.
        self._candidates = _CANDIDATES if complete else 1
        needs_small_quilt = self._plan.rearranges and source.shape != small.shape

        def arranger() -> Arranger | None:
            step(0.0)
            return Arranger(small, complete=complete) if self._plan.rearranges else None

        def quilts() -> tuple[Quilt, Quilt]:
            step(0.0)
            quilt = Quilt(source)
            return quilt, Quilt(small) if needs_small_quilt else quilt

        def measures() -> tuple[Grain, Yardstick]:
            step(0.0)
            return Grain(small), Yardstick(small)

        jobs: list[Callable[[], Any]] = [arranger, quilts, measures]
        results = run(jobs)
        self._arranger: Arranger | None = results[0]
        self._quilt: Quilt = results[1][0]
        self._finest: Quilt = results[1][1]
        self._grain: Grain = results[2][0]
        self._yardstick: Yardstick = results[2][1]
        self._target = self._plan.share * self._yardstick.max_change

    def draw(self, seed: int, step: Step = ignore_step, run: Run = _run_in_order) -> Bytes:
        """Make one variation.

        Args:
            seed: The same seed makes the same image.
            step: Called after each level. If `run` runs jobs at once, they call it at once.
            run: Runs the jobs of this image, in any order or at once. The result is the same.

        Returns:
            uint8, of the source's shape.
        """
        draws = Draws(seed)
        arranger = self._arranger
        if arranger is None:
            (image,) = run([partial(self._bend, velocity(draws), step)])
        else:
            sketch = self._best_sketch(arranger, draws, step, run)
            (image,) = run([partial(self._refine, arranger, sketch, draws, step)])
        return image

    def _bend(self, speed: Floats, step: Step) -> Bytes:
        """Bend along a velocity until the change is on target, with copied grain.

        Grain that would move by less than half a pixel does not move at all once it is copied, so
        the amplitude found without grain can be too small.
        """
        latest_amplitude, field = -1.0, np.zeros((2, NODES, NODES), dtype=np.float32)

        def change(amplitude: float) -> float:
            nonlocal latest_amplitude, field
            step(0.0)
            latest_amplitude = amplitude
            field = self._grain.copy(resample(flow(speed, amplitude), NODES))
            return self._yardstick.change(snap_to_pixels(field, NODES))

        amplitude = self._yardstick.amplitude(speed, self._target, self._plan.reach)
        if abs(change(amplitude) - self._target) > _LOOSE * self._target:
            amplitude = find_amplitude(change, self._target, self._plan.reach, _LOOSE)
            if amplitude != latest_amplitude:
                change(amplitude)
        step(_SKETCHED_SHARE)
        return self._draw_field(field, step)

    def _refine(self, arranger: Arranger, sketch: Sketch, draws: Draws, step: Step) -> Bytes:
        def report(share: float) -> None:
            step(_SKETCHED_SHARE + (_REFINED_SHARE - _SKETCHED_SHARE) * share)

        field = arranger.refine(sketch, self._finest, draws, report)
        return self._draw_field(self._grain.copy(field), step)

    def _draw_field(self, field: Floats, step: Step) -> Bytes:
        step(_REFINED_SHARE)
        image = self._quilt.draw(field)
        step(1.0)
        return image

    def _best_sketch(self, arranger: Arranger, draws: Draws, step: Step, run: Run) -> Sketch:
        """Sketch several guesses, then approach the target from the best of them."""
        tries = self._candidates + _TRIES - 1
        shares = [0.0] * tries

        def report(index: int, share: float) -> None:
            shares[index] = share
            step(_SKETCHED_SHARE * sum(shares) / tries)

        def try_first(speed: Floats, index: int) -> _Try:
            target = _AIM * self._target
            amplitude = self._yardstick.amplitude(speed, target, self._plan.reach)
            return self._try(arranger, speed, amplitude, partial(report, index))

        speeds = [velocity(draws) for _ in range(self._candidates)]
        results = run([partial(try_first, speed, index) for index, speed in enumerate(speeds)])
        best = latest_try = min(results, key=lambda one: one.badness)
        low = high = 0.0
        for index in range(self._candidates, tries):
            if latest_try.miss <= _CLOSE:
                break
            low, high, amplitude = _narrow(low, high, latest_try, self._target)
            job = partial(self._try, arranger, latest_try.speed, amplitude, partial(report, index))
            (latest_try,) = run([job])
            best = min(best, latest_try, key=lambda one: one.badness)
        return best.sketch

    def _try(self, arranger: Arranger, speed: Floats, amplitude: float, step: Step) -> _Try:
        sketch = arranger.sketch(flow(speed, amplitude), amplitude, step)
        change = self._yardstick.change(upsample(sketch.field, PROBES))
        miss = abs(change - self._target) / max(self._target, 1e-6)
        badness = arranger.faults(sketch) + self._plan.firmness * miss * miss
        return _Try(speed, amplitude, sketch, change, miss, badness)


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
