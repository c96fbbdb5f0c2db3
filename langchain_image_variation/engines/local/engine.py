"""`LocalEngine`: requests in, responses out; options, threads and channels around the method."""

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import cancellation, check_model, picture_listener
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.local.light import relight
from langchain_image_variation.engines.local.progress import Progress
from langchain_image_variation.engines.local.pyramid import Bytes
from langchain_image_variation.engines.local.synthesis import Synthesis
from langchain_image_variation.engines.local.workers import processors, run_all, turn
from langchain_image_variation.exceptions import InvalidRequestError, shown
from langchain_image_variation.images.pixels import decode, encode

__all__ = ["MODELS", "LocalEngine"]

MODELS = ("dall-e-2", "local")

_SEED_BITS = 32

T = TypeVar("T")


class LocalEngine:
    """Makes variations from the picture's own pixels: no weights, no network, no key.

    Up to a strength of about 0.6 the picture is bent smoothly, as if taken a moment later; above it
    its patches are arranged anew. No shape is drawn that is not in the source. Grey stays grey, and
    alpha moves with the picture.

    One engine may be used from many threads at once.

    Args:
        seed: Picture i of a request is made from `seed + i` alone, so it can be made again with
            n=1 and that seed. None draws a new 32-bit seed for each request.
        strength: 0 (nearly a copy) to 1 (an arrangement of its own).
        light: Whether each picture also gets a little other tone and colour, the more the
            stronger. Greys stay grey.
        threads: How many pictures of a request are made at once; by default, and at most, as many
            as there are processors. It does not change the result.
        progress: Called with the share of a request that is done, in the thread that made the
            request: rising, 1.0 at the end. An exception raised by it stops the request and comes
            out of it. A slow one delays its own request only. It may call an engine itself.

    Raises:
        InvalidRequestError: If an option is out of range; `param` names it.
    """

    models = MODELS
    """The models it offers."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        strength: float = 0.5,
        light: bool = True,
        threads: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.seed = _checked_seed(seed)
        self.strength = _checked_strength(strength)
        self.light = _checked_light(light)
        self.threads = _checked_threads(threads)
        self.progress = progress

    @property
    def fingerprint(self) -> str:
        """What its pictures depend on; without a seed, on what is drawn at each call, too."""
        return digest(seed=self.seed, strength=self.strength, light=self.light)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` variations of `request.image`, each of exactly `request.size`.

        Raises:
            ModelNotFoundError: If the model is neither "dall-e-2" nor "local".
            InvalidImageError: If the picture cannot be decoded.
            EngineError: If the call was cancelled meanwhile; see `engines.cancellation`; or if the
                interpreter is shutting down.
        """
        check_model(request.model, MODELS)
        progress = Progress(request.n, self.progress, cancellation(), picture_listener())
        first = secrets.randbits(_SEED_BITS) if self.seed is None else self.seed
        seeds = range(first, first + request.n)
        with turn(progress):
            pngs = self._pngs(request, seeds, progress)
        return ImagesResponse.from_pngs(pngs, response_format=request.response_format, seeds=seeds)

    def _pngs(
        self, request: CreateImageVariationRequest, seeds: range, progress: Progress
    ) -> list[bytes]:
        def read() -> tuple[Bytes, str, bool]:
            # Whoever waited for a thread may have been cancelled meanwhile.
            progress.report(0, 0.0)
            image = _fitted(decode(request.image), request.side)
            source, alpha = _to_array(image)
            return source, image.mode, alpha

        def run(jobs: Sequence[Callable[[], T]], /) -> list[T]:
            return run_all(jobs, self.threads or processors(), progress)

        ((source, mode, alpha),) = run([read])
        synthesis = Synthesis(source, self.strength, step=partial(progress.report, 0), run=run)

        def finish(index: int, drawn: Bytes) -> bytes:
            picture = _to_image(drawn, mode, alpha)
            if self.light:
                picture = relight(picture, seeds[index], self.strength)
            png = encode(picture, compress_level=1)
            progress.finish(index)
            return png

        def step(index: int, done: float) -> None:
            progress.report(index, 0.9 * done)

        def make(index: int) -> bytes:
            step(index, 0.0)
            return finish(index, synthesis.draw(seeds[index], partial(step, index)))

        if request.n > 1:
            return run([partial(make, index) for index in range(request.n)])
        # A single picture is drawn by several threads: those that others would be drawn by.
        drawn = synthesis.draw(seeds[0], partial(step, 0), run)
        return run([partial(finish, 0, drawn)])


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture at the side that was asked for; Pillow premultiplies where there is alpha."""
    if image.size == (side, side):
        return image
    smaller = side < image.width
    kernel = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return image.resize((side, side), kernel, reducing_gap=3.0 if smaller else None)


def _to_array(image: Image.Image) -> tuple[Bytes, bool]:
    """The channels to vary, colour premultiplied by alpha, and whether alpha is one of them.

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
    """The picture in its own mode again: the inverse of `_to_array`."""
    if alpha:
        scale = np.maximum(array[..., -1:].astype(np.uint32), 1)
        # Resampling rings: colour may exceed its alpha, and be left where there is none.
        premultiplied = np.minimum(array[..., :-1], array[..., -1:]).astype(np.uint32)
        colour = (premultiplied * 255 + scale // 2) // scale
        array = np.concatenate([colour.astype(np.uint8), array[..., -1:]], axis=2)
    elif mode in ("LA", "RGBA"):
        array = np.concatenate([array, np.full_like(array[..., :1], 255)], axis=2)
    return Image.fromarray(array[..., 0] if mode == "L" else array)


def _whole(value: object, least: int) -> bool:
    # Integral holds numpy's integers too, and bool, which is none of ours.
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _checked_seed(seed: int | None) -> int | None:
    if seed is None or _whole(seed, 0):
        return None if seed is None else int(seed)
    raise InvalidRequestError(
        f"seed must be a whole number from 0, got {shown(seed)}; leave it out for a random one.",
        param="seed",
    )


def _checked_strength(strength: float) -> float:
    # NaN is not between any two numbers, and a huge one is no float.
    if isinstance(strength, Real) and not isinstance(strength, bool) and 0 <= strength <= 1:
        return float(strength)
    raise InvalidRequestError(
        f"strength must be a number from 0 to 1, got {shown(strength)}; 0.5 is the default.",
        param="strength",
    )


def _checked_light(light: bool) -> bool:
    if isinstance(light, bool):
        return light
    raise InvalidRequestError(f"light must be True or False, got {shown(light)}.", param="light")


def _checked_threads(threads: int | None) -> int | None:
    if threads is None or _whole(threads, 1):
        return None if threads is None else int(threads)
    raise InvalidRequestError(
        f"threads must be a whole number from 1, got {shown(threads)}; the default suits most.",
        param="threads",
    )
