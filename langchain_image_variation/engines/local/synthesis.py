"""One source in, any number of variations out: the steps of the method in order."""

from collections.abc import Callable

import numpy as np

from langchain_image_variation.engines.local.arrangement import Arranger
from langchain_image_variation.engines.local.change import Yardstick
from langchain_image_variation.engines.local.field import upsample
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, Floats, resize
from langchain_image_variation.engines.local.quilt import Quilt
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["Synthesis"]

_TRIES = 4
_CLOSE = 0.03


def _ignore(fraction: float) -> None:
    pass


class Synthesis:
    """Makes variations of one source; what they share is computed once. Safe to use from threads.

    Args:
        source: uint8 (side, side, channels), side at least 256, 1 to 4 channels. If the last of 2
            or 4 channels is alpha, colours are premultiplied by it.
        strength: 0 (nearly a copy) to 1.
        complete: Whether everything in the source is wanted; off only to measure what that brings.
    """

    def __init__(self, source: Bytes, strength: float, *, complete: bool = True) -> None:
        small = resize(source, NODES)
        self._plan = schedule(strength)
        self._quilt = Quilt(source)
        self._yardstick = Yardstick(small)
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
        speed = velocity(generator)
        wanted = self._plan.share * self._yardstick.most
        amplitude = self._yardstick.amplitude(speed, wanted, self._plan.reach)
        step(0.1)
        if self._arranger is None:
            field = resample(flow(speed, amplitude), NODES)
        else:
            field, soft = self._sketch(self._arranger, speed, amplitude, wanted, step)
            field = self._arranger.refine(field, soft, generator)
        step(0.8)
        picture = self._quilt.draw(field)
        step(1.0)
        return picture

    def _sketch(
        self,
        arranger: Arranger,
        speed: Floats,
        amplitude: float,
        wanted: float,
        step: Callable[[float], None],
    ) -> tuple[Floats, Floats]:
        """Sketch until the change is close to the wanted one; return the closest sketch."""
        best: tuple[float, Floats, Floats] | None = None
        low = high = 0.0
        for turn in range(_TRIES):
            field, picture = arranger.sketch(flow(speed, amplitude), amplitude)
            step(0.1 + 0.4 * (turn + 1) / _TRIES)
            change = self._yardstick.change(upsample(field, 128))
            miss = abs(change - wanted)
            if best is None or miss < best[0]:
                best = miss, field, picture
            if miss <= _CLOSE * wanted:
                break
            if change < wanted:
                low = amplitude
            else:
                high = amplitude
            if low and high:
                amplitude = (low * high) ** 0.5
            else:
                amplitude *= min(max((wanted / max(change, 0.01)) ** 4, 0.4), 2.5)
        assert best is not None
        return best[1], best[2]
