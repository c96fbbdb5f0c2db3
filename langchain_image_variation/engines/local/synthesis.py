"""One source in, any number of variations out: the steps of the method in order."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from langchain_image_variation.engines.local.arrangement import Arranger, Sketch
from langchain_image_variation.engines.local.change import Yardstick
from langchain_image_variation.engines.local.field import upsample
from langchain_image_variation.engines.local.grain import Grain
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, Floats, resize
from langchain_image_variation.engines.local.quilt import Quilt
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["Synthesis"]

_CANDIDATES = 4
"""So many first guesses are sketched for each picture that is arranged anew; the best is kept."""

_TRIES = 4
_CLOSE = 0.06

_AIM = 1.1
"""Patches snap back a little towards the source, so first guesses aim further than is wanted."""


def _ignore(fraction: float) -> None:
    pass


@dataclass(frozen=True)
class _Try:
    """A guess, what became of it, and how far it misses the wanted change, as a share of that."""

    speed: Floats
    amplitude: float
    sketch: Sketch
    change: float
    miss: float
    badness: float


class Synthesis:
    """Makes variations of one source; what they share is computed once. Safe to use from threads.

    Args:
        source: uint8 (side, side, channels), side at least 256, 1 to 4 channels. If the last of 2
            or 4 channels is alpha, colours are premultiplied by it.
        strength: 0 (nearly a copy) to 1.
        complete: Whether everything in the source is wanted; off only to measure what that brings.
        step: Called between the steps of the shared work with the share of all that is done, which
            is 0; what it raises ends the work.
    """

    def __init__(
        self,
        source: Bytes,
        strength: float,
        *,
        complete: bool = True,
        step: Callable[[float], None] = _ignore,
    ) -> None:
        small = resize(source, NODES)
        self._plan = schedule(strength)
        self._quilt = Quilt(source)
        step(0.0)
        self._grain = Grain(small)
        self._yardstick = Yardstick(small)
        step(0.0)
        self._wanted = self._plan.share * self._yardstick.most
        # Without completeness nothing is chosen by it either.
        self._candidates = _CANDIDATES if complete else 1
        self._arranger = None
        if self._plan.rearranged:
            finest = self._quilt if source.shape == small.shape else Quilt(small)
            self._arranger = Arranger(small, finest, complete=complete)

    def draw(self, seed: int, step: Callable[[float], None] = _ignore) -> Bytes:
        """Make one variation.

        Args:
            seed: The same seed makes the same picture.
            step: Called between the steps of the work with the share of it that is done, up to 1;
                what it raises ends the work.

        Returns:
            uint8, of the source's shape.
        """
        generator = np.random.default_rng(seed)
        if self._arranger is None:
            speed, amplitude = self._guess(generator)
            field = resample(flow(speed, amplitude), NODES)
        else:
            sketch = self._best_sketch(self._arranger, generator, step)
            field = self._arranger.refine(sketch.field, sketch.picture, generator)
        step(0.8)
        picture = self._quilt.draw(self._grain.copied(field))
        step(1.0)
        return picture

    def _guess(self, generator: np.random.Generator, aim: float = 1.0) -> tuple[Floats, float]:
        """Draw a velocity, and find how far along it `aim` times the wanted change is."""
        speed = velocity(generator)
        amplitude = self._yardstick.amplitude(speed, aim * self._wanted, self._plan.reach)
        return speed, amplitude

    def _best_sketch(
        self,
        arranger: Arranger,
        generator: np.random.Generator,
        step: Callable[[float], None],
    ) -> Sketch:
        """Sketch several guesses, then come closer to the wanted change from the best of them."""
        turns = self._candidates + _TRIES - 1
        tried: list[_Try] = []
        for turn in range(self._candidates):
            speed, amplitude = self._guess(generator, _AIM)
            tried.append(self._try(arranger, speed, amplitude))
            step(0.6 * (turn + 1) / turns)
        best = latest = min(tried, key=lambda one: one.badness)
        low = high = 0.0
        for turn in range(self._candidates, turns):
            if latest.miss <= _CLOSE:
                break
            low, high, amplitude = _narrowed(low, high, latest, self._wanted)
            latest = self._try(arranger, latest.speed, amplitude)
            step(0.6 * (turn + 1) / turns)
            best = min(best, latest, key=lambda one: one.badness)
        return best.sketch

    def _try(self, arranger: Arranger, speed: Floats, amplitude: float) -> _Try:
        sketch = arranger.sketch(flow(speed, amplitude), amplitude)
        change = self._yardstick.change(upsample(sketch.field, 128))
        miss = abs(change - self._wanted) / max(self._wanted, 1e-6)
        badness = arranger.faults(sketch) + self._plan.firmness * miss**2
        return _Try(speed, amplitude, sketch, change, miss, badness)


def _narrowed(low: float, high: float, latest: _Try, wanted: float) -> tuple[float, float, float]:
    """Return the bounds around the right amplitude, as far as known, and the next one to try."""
    if latest.change < wanted:
        low = latest.amplitude
    else:
        high = latest.amplitude
    if low and high:
        return low, high, (low * high) ** 0.5
    return (
        low,
        high,
        latest.amplitude * min(max((wanted / max(latest.change, 0.01)) ** 4, 0.4), 2.5),
    )
