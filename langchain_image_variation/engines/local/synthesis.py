"""One source in, any number of variations out: the steps of the method in order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from langchain_image_variation.engines.local.arrangement import Arranger, Sketch
from langchain_image_variation.engines.local.change import PROBES, Yardstick, reached
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.field import upsample
from langchain_image_variation.engines.local.grain import Grain
from langchain_image_variation.engines.local.progress import Step, ignore_step
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, Floats, resize
from langchain_image_variation.engines.local.quilt import Quilt, settled
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["Synthesis"]

_CANDIDATES = 4
"""So many first guesses are sketched for each picture that is arranged anew; the best is kept."""

_TRIES = 4
"""So many amplitudes are tried along the best guess, with the one it was chosen for."""

_CLOSE = 0.06
"""Share of the wanted change by which a sketch may miss it without another try."""

_LOOSE = 0.1
"""Share of the wanted change by which a picture that is only bent may miss it."""

_AIM = 1.1
"""Patches snap back a little towards the source, so first guesses aim further than is wanted."""


_SKETCHED, _REFINED = 0.6, 0.8
"""Shares of the work on one picture that are done when its sketch and its field are."""

T = TypeVar("T")


class Run(Protocol):
    """Does jobs that do not depend on each other, and returns their results in order."""

    def __call__(self, jobs: Sequence[Callable[[], T]], /) -> list[T]: ...


@dataclass(frozen=True)
class _Try:
    """A guess, what became of it, and how far it misses the wanted change, as a share of that."""

    speed: Floats
    amplitude: float
    sketch: Sketch
    change: float
    miss: float
    badness: float


def _in_turn(jobs: Sequence[Callable[[], T]], /) -> list[T]:
    return [job() for job in jobs]


class Synthesis:
    """Makes variations of one source; what they share is computed once. Safe to use from threads.

    Args:
        source: uint8 (side, side, channels), side at least 256, 1 to 4 channels. If the last of 2
            or 4 channels is alpha, colours are premultiplied by it.
        strength: 0 (nearly a copy) to 1.
        complete: Whether everything in the source is wanted; off only to measure what that brings.
        step: Told of the shared work, of which the share of all is 0.
        run: Does the shared work's jobs, at once if it likes.
    """

    def __init__(
        self,
        source: Bytes,
        strength: float,
        *,
        complete: bool = True,
        step: Step = ignore_step,
        run: Run = _in_turn,
    ) -> None:
        small = resize(source, NODES)
        self._plan = schedule(strength)
        # Without completeness nothing is chosen by it either.
        self._candidates = _CANDIDATES if complete else 1
        seamed = self._plan.rearranged and source.shape != small.shape

        def arranger() -> Arranger | None:
            step(0.0)
            return Arranger(small, complete=complete) if self._plan.rearranged else None

        def quilts() -> tuple[Quilt, Quilt]:
            step(0.0)
            quilt = Quilt(source)
            return quilt, Quilt(small) if seamed else quilt

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
        self._wanted = self._plan.share * self._yardstick.most

    def draw(self, seed: int, step: Step = ignore_step, run: Run = _in_turn) -> Bytes:
        """Make one variation.

        Args:
            seed: The same seed makes the same picture.
            step: Told after each level. Called by several jobs at once if `run` does so.
            run: Does this picture's jobs, at once if it likes. The picture does not depend on it.

        Returns:
            uint8, of the source's shape.
        """
        draws = Draws(seed)
        arranger = self._arranger
        if arranger is None:
            (picture,) = run([partial(self._bent, velocity(draws), step)])
        else:
            sketch = self._best_sketch(arranger, draws, step, run)
            (picture,) = run([partial(self._refined, arranger, sketch, draws, step)])
        return picture

    def _bent(self, speed: Floats, step: Step) -> Bytes:
        """Bend along a velocity, and change as much as is wanted as copies of grain will have it.

        Grain that would move by less than half a pixel does not move at all once it is copied.
        """
        drawn, field = -1.0, np.zeros((2, NODES, NODES), dtype=np.float32)

        def change(amplitude: float) -> float:
            nonlocal drawn, field
            step(0.0)
            drawn = amplitude
            field = self._grain.copied(resample(flow(speed, amplitude), NODES))
            return self._yardstick.change(settled(field, NODES))

        amplitude = self._yardstick.amplitude(speed, self._wanted, self._plan.reach)
        if abs(change(amplitude) - self._wanted) > _LOOSE * self._wanted:
            amplitude = reached(change, self._wanted, self._plan.reach, _LOOSE)
            if amplitude != drawn:
                change(amplitude)
        step(_SKETCHED)
        return self._drawn(field, step)

    def _refined(self, arranger: Arranger, sketch: Sketch, draws: Draws, step: Step) -> Bytes:
        def refined(share: float) -> None:
            step(_SKETCHED + (_REFINED - _SKETCHED) * share)

        field = arranger.refine(sketch, self._finest, draws, refined)
        return self._drawn(self._grain.copied(field), step)

    def _drawn(self, field: Floats, step: Step) -> Bytes:
        step(_REFINED)
        picture = self._quilt.draw(field)
        step(1.0)
        return picture

    def _best_sketch(self, arranger: Arranger, draws: Draws, step: Step, run: Run) -> Sketch:
        """Sketch several guesses, then come closer to the wanted change from the best of them."""
        turns = self._candidates + _TRIES - 1

        done = [0.0] * turns

        def sketched(turn: int, share: float) -> None:
            done[turn] = share
            step(_SKETCHED * sum(done) / turns)

        def first(speed: Floats, turn: int) -> _Try:
            wanted = _AIM * self._wanted
            amplitude = self._yardstick.amplitude(speed, wanted, self._plan.reach)
            return self._try(arranger, speed, amplitude, partial(sketched, turn))

        speeds = [velocity(draws) for _ in range(self._candidates)]
        tried = run([partial(first, speed, turn) for turn, speed in enumerate(speeds)])
        best = latest = min(tried, key=lambda one: one.badness)
        low = high = 0.0
        for turn in range(self._candidates, turns):
            if latest.miss <= _CLOSE:
                break
            low, high, amplitude = _narrowed(low, high, latest, self._wanted)
            told = partial(sketched, turn)
            (latest,) = run([partial(self._try, arranger, latest.speed, amplitude, told)])
            best = min(best, latest, key=lambda one: one.badness)
        return best.sketch

    def _try(self, arranger: Arranger, speed: Floats, amplitude: float, step: Step) -> _Try:
        sketch = arranger.sketch(flow(speed, amplitude), amplitude, step)
        change = self._yardstick.change(upsample(sketch.field, PROBES))
        miss = abs(change - self._wanted) / max(self._wanted, 1e-6)
        badness = arranger.faults(sketch) + self._plan.firmness * miss * miss
        return _Try(speed, amplitude, sketch, change, miss, badness)


def _narrowed(low: float, high: float, latest: _Try, wanted: float) -> tuple[float, float, float]:
    """Return the bounds around the right amplitude, as far as known, and the next one to try."""
    if latest.change < wanted:
        low = latest.amplitude
    else:
        high = latest.amplitude
    if low and high:
        return low, high, math.sqrt(low * high)
    share = wanted / max(latest.change, 0.01)
    return low, high, latest.amplitude * min(max(share * share * share * share, 0.4), 2.5)
