"""The steps of the method in order: one source in, any number of variations out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from langchain_image_variation.engines.local.arrangement import Arranger
from langchain_image_variation.engines.local.change import Yardstick
from langchain_image_variation.engines.local.draws import Draws
from langchain_image_variation.engines.local.framing import choose_view, look_through
from langchain_image_variation.engines.local.grain import Grain
from langchain_image_variation.engines.local.progress import Step, ignore_step
from langchain_image_variation.engines.local.pyramid import NODES, Bytes, Floats, resize
from langchain_image_variation.engines.local.quilt import Quilt
from langchain_image_variation.engines.local.rearrangement import Rearrangement, Run
from langchain_image_variation.engines.local.schedule import schedule
from langchain_image_variation.engines.local.series import Shot
from langchain_image_variation.engines.local.survey import Survey
from langchain_image_variation.engines.local.warp import flow, resample, velocity

__all__ = ["Synthesis"]

_VIEWED_SHARE, _BENT_SHARE = 0.7, 0.8
"""The shares of the work on one image that are done after its view and after its field."""

T = TypeVar("T")


def _run_in_order(jobs: Sequence[Callable[[], T]], /) -> list[T]:
    return [job() for job in jobs]


class Synthesis:
    """Makes variations of one source. What they share is computed once. Threads may share it.

    Args:
        source: uint8 (width, width, channels), width at least 256, 1 to 4 channels. If the last of
            2 or 4 channels is alpha, the colors are premultiplied by it.
        strength: 0 (nearly a copy) to 1.
        side: The side of the variations in pixels, at least 256. The default is that of the source.
            From a larger source, views of a part of it are sharper.
        aspect: Height over width of what the source shows. It may be stretched to a square.
        framing: Whether variations show the source from a slightly different place.
        mirror: Whether three of four variations may be mirrored.
        arrange: Whether patches may be rearranged at high strength.
        complete: Whether each arrangement should show everything in the source. False is used only
            to measure what completeness costs.
        step: Called during the shared work, always with a share of 0.
        run: Runs the jobs of the shared work, in any order or at once.
    """

    def __init__(
        self,
        source: Bytes,
        strength: float,
        *,
        side: int | None = None,
        aspect: float = 1.0,
        framing: bool = True,
        mirror: bool = True,
        arrange: bool = True,
        complete: bool = True,
        step: Step = ignore_step,
        run: Run = _run_in_order,
    ) -> None:
        small = resize(source, NODES)
        self._plan = schedule(strength)
        self._aspect = aspect
        self._framing, self._mirror = framing, mirror

        def quilt() -> Quilt:
            step(0.0)
            return Quilt(source, side)

        def survey() -> Survey:
            step(0.0)
            return Survey.of(small)

        results: list[Any] = run([quilt, survey])
        self._quilt: Quilt = results[0]
        self.survey: Survey = results[1]
        """What the source allows."""
        self._rearrangement = None
        if arrange and self._plan.arranges and self.survey.may_rearrange:
            self._rearrangement = self._prepare_rearrangement(small, complete, step, run)

    def _prepare_rearrangement(
        self, small: Bytes, complete: bool, step: Step, run: Run
    ) -> Rearrangement:
        def arranger() -> Arranger:
            step(0.0)
            return Arranger(small, complete=complete)

        def finest() -> Quilt:
            step(0.0)
            return self._quilt if self._quilt.shape == small.shape else Quilt(small)

        def measures() -> tuple[Grain, Yardstick]:
            step(0.0)
            return Grain(small), Yardstick(small)

        jobs: list[Callable[[], Any]] = [arranger, finest, measures]
        results = run(jobs)
        return Rearrangement(
            *(results[0], results[1], self._quilt, *results[2], self._plan), complete=complete
        )

    @property
    def light(self) -> float:
        """How much of a mood's light the strength asks for, 1 at the default strength."""
        return self._plan.light

    @property
    def may_rearrange(self) -> bool:
        """Whether the strength and the source allow patches to be rearranged."""
        return self._rearrangement is not None

    def draw(self, seed: int, step: Step = ignore_step, run: Run = _run_in_order) -> Bytes:
        """Make one variation.

        Args:
            seed: The same seed makes the same image.
            step: Called after each level. If `run` runs jobs at once, they call it at once.
            run: Runs the jobs of this image, in any order or at once. The result is the same.

        Returns:
            uint8 (side, side, channels).
        """
        image = self.rearrange(seed, step, run)
        if image is None:
            (image,) = run([partial(self._frame, seed, step)])
        may_mirror = self._mirror and self._plan.mirrors and self.survey.may_mirror
        if may_mirror and Shot.of(seed).is_mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
        return image

    def rearrange(
        self, seed: int, step: Step = ignore_step, run: Run = _run_in_order
    ) -> Bytes | None:
        """Make one variation whose patches are rearranged. It is not mirrored.

        Args:
            seed: The same seed makes the same image.
            step: Called after each level. If `run` runs jobs at once, they call it at once.
            run: Runs the jobs of this image, in any order or at once. The result is the same.

        Returns:
            uint8 (side, side, channels), or None if the result would have too many faults or
            `may_rearrange` is False. Then `draw` shows a view of the source instead.
        """
        if self._rearrangement is None:
            return None
        return self._rearrangement.draw(Draws(seed), self._view(seed), step, run)

    def _view(self, seed: int) -> Floats:
        """Return the displacements of a view of the source, (2, 256, 256)."""
        if not self._framing:
            return np.zeros((2, NODES, NODES), dtype=np.float32)
        place = choose_view(
            *(self.survey, seed, self._plan.crop, self._plan.motion), aspect=self._aspect
        )
        return look_through(place, NODES, self._aspect)

    def _frame(self, seed: int, step: Step) -> Bytes:
        """Draw a view of the source, with parts that moved a little."""
        field = self._view(seed)
        step(_VIEWED_SHARE)
        if self.survey.may_bend:
            field = field + resample(flow(velocity(Draws(seed)), self._plan.sway), NODES)
        step(_BENT_SHARE)
        image = self._quilt.draw(field, snap=False)
        step(1.0)
        return image
