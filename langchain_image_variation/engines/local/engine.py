"""`LocalEngine`: handles requests, options, threads and color channels around the method."""

import copy
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self, TypeVar

import numpy as np
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.local.bars import Bars
from langchain_image_variation.engines.local.light import relight
from langchain_image_variation.engines.local.progress import RequestProgress
from langchain_image_variation.engines.local.pyramid import Bytes
from langchain_image_variation.engines.local.series import Shot
from langchain_image_variation.engines.local.synthesis import Synthesis
from langchain_image_variation.engines.local.workers import run_all, turn
from langchain_image_variation.engines.options import (
    check_seed,
    check_strength,
    check_switch,
)
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.engines.traits import check_model
from langchain_image_variation.images.pixels import decode_png, encode_png
from langchain_image_variation.numbers import check_whole_number

__all__ = ["MODELS", "LocalEngine"]

MODELS = ("dall-e-2", "local")

_SPARE = 5
"""How large the source of a view may be, in fourths of the side of the variations."""

_SEED_BITS = 32
_THREADS_HINT = "; leave it out to use every processor"

T = TypeVar("T")


class LocalEngine:
    """Makes variations from the pixels of the image itself: no weights, no network, no key.

    Variations look like more pictures of the same thing: from a slightly different place, often
    mirrored, and at another hour. The images of consecutive seeds differ in place and light. They
    are mirrored, too, unless their seed is a multiple of 4. Above a strength of 0.6, the patches of
    textures and of many small things are rearranged. The engine never draws a shape that is not in
    the source. Gray images stay gray, and alpha moves with the image.

    You can use one engine from many threads at once.

    Args:
        seed: Image i of a request depends on `seed + i` alone, so you can make it again with n=1
            and that seed. None draws a new 32-bit seed for each request.
        strength: 0 (nearly a copy) to 1 (the strongest view, or a new texture from a texture).
        framing: Whether images show the source from a slightly different place. What is salient
            stays in the image.
        mirror: Whether three of four images are mirrored, from a strength of 0.4. Images with text
            and logos are not.
        light: Whether each image gets another light: golden, dusk, vivid, overcast or morning.
        arrange: Whether the patches of textures and of many small things may be rearranged, above a
            strength of 0.6.
        threads: How many images of a request to make at once. The default, and the most, is the
            number of processors. The result does not depend on it.

    Raises:
        InvalidRequestError: If an option is out of range. `param` names the option.
    """

    models = MODELS
    """The models that this engine offers."""
    variation_kind = "the same image, seen, lit or arranged differently"
    """What its variations are."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        strength: float = 0.5,
        framing: bool = True,
        mirror: bool = True,
        light: bool = True,
        arrange: bool = True,
        threads: int | None = None,
    ) -> None:
        self.seed = None if seed is None else check_seed(seed)
        self.strength = check_strength(strength)
        self.framing = check_switch("framing", framing)
        self.mirror = check_switch("mirror", mirror)
        self.light = check_switch("light", light)
        self.arrange = check_switch("arrange", arrange)
        self.threads = (
            None
            if threads is None
            else check_whole_number("threads", threads, 1, hint=_THREADS_HINT)
        )

    def with_options(self, *, seed: int | None = None, strength: float | None = None) -> Self:
        """Return a copy with another seed or strength. None keeps this engine's own.

        Raises:
            InvalidRequestError: If an option is out of range. `param` names the option.
        """
        engine = copy.copy(self)
        if seed is not None:
            engine.seed = check_seed(seed)
        if strength is not None:
            engine.strength = check_strength(strength)
        return engine

    @property
    def fingerprint(self) -> str:
        """A hash of the settings. Without a seed, each call also draws one."""
        return digest(
            seed=self.seed,
            strength=self.strength,
            framing=self.framing,
            mirror=self.mirror,
            light=self.light,
            arrange=self.arrange,
        )

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` variations of `request.image`, each of exactly `request.size`.

        Raises:
            ModelNotFoundError: If the model is neither "dall-e-2" nor "local".
            InvalidImageError: If the image cannot be decoded.
            EngineError: If the call is cancelled, see `engines.context.cancellation`, or the
                interpreter is shutting down.
        """
        check_model(request.model, MODELS)
        progress = RequestProgress(request.n, progress_reporter(), cancellation())
        first = secrets.randbits(_SEED_BITS) if self.seed is None else self.seed
        seeds = range(first, first + request.n)
        with turn(progress):
            pngs = self._make_pngs(request, seeds, progress)
        return ImagesResponse.from_pngs(
            pngs, response_format=request.response_format, seeds=seeds, model="local"
        )

    def _make_pngs(
        self, request: CreateImageVariationRequest, seeds: range, progress: RequestProgress
    ) -> list[bytes]:
        def read() -> tuple[Bytes, str, bool, Bars | None]:
            # The call may have been cancelled while it waited for a thread.
            progress.report(0, 0.0)
            image = decode_png(request.image)
            bars = Bars.find(image)
            if bars is not None:
                image = bars.cut_off(image)
            source, alpha = _to_array(_resize(image, request.side))
            return source, image.mode, alpha, bars

        def run(jobs: Sequence[Callable[[], T]], /) -> list[T]:
            return run_all(jobs, self.threads or processor_count(), progress)

        ((source, mode, alpha, bars),) = run([read])
        synthesis = Synthesis(
            source,
            self.strength,
            side=request.side,
            aspect=1.0 if bars is None else bars.aspect,
            framing=self.framing,
            mirror=self.mirror,
            arrange=self.arrange,
            step=partial(progress.report, 0),
            run=run,
        )

        def finish(index: int, samples: Bytes) -> bytes:
            image = _to_image(samples, mode, alpha)
            seed, survey = seeds[index], synthesis.survey
            if self.light:
                mood, amount = Shot.of(seed).mood, synthesis.light
                image = relight(
                    *(image, seed, mood, amount),
                    brightness=survey.brightness,
                    is_gray=survey.is_gray,
                    is_graphic=survey.is_graphic,
                )
            if bars is not None:
                image = bars.add(image)
            has_color = not (synthesis.survey.is_gray and image.mode in ("RGB", "RGBA"))
            png = encode_png(image, compress_level=1, only_runs=has_color)
            progress.finish(index)
            return png

        def step(index: int, share: float) -> None:
            progress.report(index, 0.9 * share)

        def make(index: int) -> bytes:
            step(index, 0.0)
            return finish(index, synthesis.draw(seeds[index], partial(step, index)))

        if request.n > 1:
            return run([partial(make, index) for index in range(request.n)])
        # A single image is drawn by several threads: those that other images would use.
        samples = synthesis.draw(seeds[0], partial(step, 0), run)
        return run([partial(finish, 0, samples)])


def _resize(image: Image.Image, side: int) -> Image.Image:
    """Return a square to vary. It is larger than the requested side if the image is.

    Views show a part of the source, so they need more pixels. Pillow premultiplies where there is
    alpha.
    """
    side = min(max(side, *image.size), side * _SPARE // 4)
    if image.size == (side, side):
        return image
    smaller = side <= min(image.size)
    kernel = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return image.resize((side, side), kernel, reducing_gap=3.0 if smaller else None)


def _to_array(image: Image.Image) -> tuple[Bytes, bool]:
    """Return the channels to vary, premultiplied by alpha, and whether alpha is one of them.

    Alpha that is opaque everywhere is left out.
    """
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if image.mode not in ("LA", "RGBA"):
        return array, False
    if array[..., -1].min() == 255:
        return array[..., :-1], False
    premultiplied = array.copy()
    scale = array[..., -1:].astype(np.uint16)
    premultiplied[..., :-1] = (array[..., :-1] * scale + 127) // 255
    return premultiplied, True


def _to_image(array: Bytes, mode: str, alpha: bool) -> Image.Image:
    """Return the image in its original mode: the inverse of `_to_array`."""
    if alpha:
        scale = np.maximum(array[..., -1:].astype(np.uint32), 1)
        # Resampling rings: color can exceed alpha, or remain where alpha is zero.
        premultiplied = np.minimum(array[..., :-1], array[..., -1:]).astype(np.uint32)
        color = (premultiplied * 255 + scale // 2) // scale
        array = np.concatenate([color.astype(np.uint8), array[..., -1:]], axis=2)
    elif mode in ("LA", "RGBA"):
        array = np.concatenate([array, np.full_like(array[..., :1], 255)], axis=2)
    return Image.fromarray(array[..., 0] if mode == "L" else array)
