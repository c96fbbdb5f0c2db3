"""`DiffusersEngine`: handles requests, options, seeds, sizes and refused images around a model."""

import copy
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from PIL import Image

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.diffusers.call_progress import CallProgress
from langchain_image_variation.engines.diffusers.devices import list_devices
from langchain_image_variation.engines.diffusers.families.family import DrawingSettings
from langchain_image_variation.engines.diffusers.families.seeds import noise_seed
from langchain_image_variation.engines.diffusers.load_options import LoadOptions
from langchain_image_variation.engines.diffusers.model_download import (
    is_downloaded,
    plan_model_download,
)
from langchain_image_variation.engines.diffusers.model_loader import LoadedModel, ModelLoader
from langchain_image_variation.engines.diffusers.models import model_name
from langchain_image_variation.engines.diffusers.packages import check_packages
from langchain_image_variation.engines.diffusers.placed_model import PlacedModel
from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET, PRESETS
from langchain_image_variation.engines.diffusers.shared_models import SharedModel
from langchain_image_variation.engines.failed_images import failed_images
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_seed, check_strength
from langchain_image_variation.engines.traits import PendingDownload, check_model
from langchain_image_variation.exceptions import ContentPolicyError, EngineError
from langchain_image_variation.images.pixels import decode_png, encode_png, flatten
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["MAX_GUIDANCE_SCALE", "MAX_REDRAWS", "MAX_STEPS", "DiffusersEngine"]

MAX_REDRAWS = 3
"""How often an image that the safety checker refuses is drawn again. The checker has many false
alarms (https://github.com/CompVis/stable-diffusion/issues/239), which another seed avoids. An image
that is refused this often is likely to be refused every time."""

MAX_STEPS = 100
"""The most denoising steps. Models are used with 20 to 50.

Most schedulers take every 1000 // steps of the 1000 levels of noise that a model was trained on,
from the lowest. With 10 to 100 steps, they start in the highest tenth of the levels. With more,
they can start far below: with 334, a third of the levels is left out, and the images get worse."""

MAX_GUIDANCE_SCALE = 100.0
"""The largest guidance scale. Models are used with 1 to 20; far above, images are noise."""

_SEED_BITS = 32
_PRESET_HINT = "; leave it out for the model's own"


class DiffusersEngine:
    """Makes new images of the same subject, with an open model on your own hardware.

    Nothing leaves the machine, and nothing is downloaded unless you say so. The model is loaded by
    the first request, and shared by all engines of the process whose options load the same. It is
    freed when the last of them is closed or forgotten.

    You can use one engine from many threads at once. A device draws for one request at a time, and
    the others wait.

    Args:
        model: The name of a preset (see `image-variation engines`), a repository of the Hugging
            Face Hub as "owner/name", or a folder: a path, or a string that is absolute or starts
            with "." or "~". The class of its pipeline must be that of a preset.
        revision: A commit, tag or branch of the repository. By default, that of the preset, or
            "main".
        seed: Image i of a request depends on `seed + i` alone, so you can make it again with n=1
            and that seed, on the same device. None draws a new 32-bit seed for each request.
        strength: How much the images differ from the source, from 0 to 1. What it changes depends
            on the model: see the page "New images on your own machine".
        steps: How many denoising steps to take. By default, those of the preset.
        guidance_scale: How closely the model follows the source. 1 or less turns guidance off,
            which takes half as long, except for `flux-redux`. By default, that of the preset.
        device: "auto", "cuda", "cuda:1", "mps", "xpu" or "cpu". "auto" is the first GPU, or else
            the CPU.
        dtype: "auto", "float32", "float16" or "bfloat16". "auto" is half precision on a GPU. For
            "float16", smaller files are downloaded where a repository has them.
        offload: What stays in the main memory until the GPU needs it: "none", "model" (all
            components but one) or "sequential" (all layers but one). "auto" decides by the free
            memory.
        batch: How many images to draw at once, at most. By default, as many as the free memory
            allows, and one on a CPU. An image that is drawn with others can differ by one level (of
            255) from the same image drawn alone. With `batch=1`, it never does.
        scheduler: "auto", "model" (the one that the model came with) or "dpm-solver++", which needs
            about 20 steps. "auto" takes it in place of the scheduler PNDM only.
        safety: Whether the model's safety checker looks at the images, if it has one. An image that
            it refuses is drawn again from other noise.
        download: Whether the first request may download what is missing. Otherwise, run
            `image-variation pull` first.
        token: Identifies you at the Hub, for models whose license you have accepted there. By
            default, the variable HF_TOKEN, or the login of `hf auth`.
        cache_dir: The folder of downloaded models. By default, the one that all programs of Hugging
            Face share.

    Raises:
        InvalidRequestError: If an option is out of range. `param` names the option.
        EngineError: If the index of a model's folder is corrupt.
        MissingExtraError: If a package of the extra `diffusers` is not installed.
    """

    variation_kind = "new images of the same subject"
    """What its variations are."""

    def __init__(
        self,
        *,
        model: str | Path = DEFAULT_PRESET.name,
        revision: str | None = None,
        seed: int | None = None,
        strength: float = 0.5,
        steps: int | None = None,
        guidance_scale: float | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "auto",
        batch: int | None = None,
        scheduler: str = "auto",
        safety: bool = True,
        download: bool = False,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model = model_name(model)
        self.seed = None if seed is None else check_seed(seed)
        self.strength = check_strength(strength)
        self.steps = (
            None
            if steps is None
            else check_whole_number("steps", steps, 1, MAX_STEPS, hint=_PRESET_HINT)
        )
        self.guidance_scale = (
            None
            if guidance_scale is None
            else check_number(
                "guidance_scale", guidance_scale, 0, MAX_GUIDANCE_SCALE, hint=_PRESET_HINT
            )
        )
        options = LoadOptions.check(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            offload=offload,
            batch=batch,
            safety=safety,
            scheduler=scheduler,
            cache_dir=cache_dir,
            download=download,
            token=token,
        )
        self._folder_fingerprint = options.fingerprint_folder()
        check_packages()
        self._options = options
        self._pipeline = SharedModel(options, ModelLoader(options))
        self._is_closed = False

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        """Return the devices that the option `device` can choose here: all GPUs, or the CPU.

        Raises:
            MissingExtraError: If torch is not installed.
        """
        return list_devices()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that a request may name."""
        return (DEFAULT_MODEL, self.model)

    @property
    def fingerprint(self) -> str:
        """A hash of the settings. Without a seed, each call also draws one.

        It does not cover the hardware. The same settings give slightly different images on another
        kind of device.
        """
        options = self._options
        return digest(
            model=self.model,
            folder=self._folder_fingerprint,
            revision=options.revision,
            seed=self.seed,
            strength=self.strength,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            device=options.device,
            dtype=options.dtype,
            safety=options.safety,
            scheduler=options.scheduler,
        )

    def with_options(self, *, seed: int | None = None, strength: float | None = None) -> Self:
        """Return a copy with another seed or strength. None keeps this engine's own.

        The copy shares the loaded model. It stays usable when this engine is closed.

        Raises:
            InvalidRequestError: If an option is out of range. `param` names the option.
        """
        engine = copy.copy(self)
        if seed is not None:
            engine.seed = check_seed(seed)
        if strength is not None:
            engine.strength = check_strength(strength)
        engine._pipeline = self._pipeline.share()
        return engine

    def plan_download(self) -> PendingDownload | None:
        """Return what must be downloaded before the first request. None if nothing is missing.

        Raises:
            InvalidRequestError: If an option does not fit the device, or the preset.
            ImageVariationError: If the Hub cannot say what the model consists of.
        """
        options = self._options
        if isinstance(options.model, str) and options.model in PRESETS:
            preset = PRESETS[options.model]
            ModelLoader(options).check_options(preset, preset.name)
        if is_downloaded(
            options.model,
            options.revision,
            cache_dir=options.cache_dir,
            device=options.device,
            dtype=options.dtype,
        ):
            return None
        return plan_model_download(
            options.model,
            options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            device=options.device,
            dtype=options.dtype,
        )

    def close(self) -> None:
        """Give up the loaded model. It is freed if no other engine uses it."""
        self._is_closed = True
        self._pipeline.close()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` variations of `request.image`, each of exactly `request.size`.

        If the safety checker refuses some of the images every time, the others can be read. Reading
        a refused one raises a `ContentPolicyError`.

        Raises:
            ModelNotFoundError: If the request names a model that is neither "dall-e-2" nor this
                engine's.
            InvalidImageError: If the image cannot be decoded.
            ContentPolicyError: If the safety checker refuses all images every time.
            EngineError: If the engine is closed, the call is cancelled, the memory is too small, or
                the model cannot be loaded or draws nothing.
            ImageVariationError: If the model cannot be found or downloaded.
        """
        check_model(request.model, self.models)
        if self._is_closed:
            raise EngineError("The engine is closed. Create a new one.")
        call = CallProgress(request.n, progress_reporter(), cancellation())
        call.check()
        source = flatten(decode_png(request.image)).convert("RGB")
        first = secrets.randbits(_SEED_BITS) if self.seed is None else self.seed
        seeds = range(first, first + request.n)
        with self._pipeline.lease(call.is_cancelled) as placed:
            images = self._draw(placed, source, seeds, call)
        refused = [index for index, seed in enumerate(seeds) if seed not in images]
        refusal = _refusal(refused, request.n)
        if not images:
            raise refusal
        drawn_seeds = sorted(images)
        response = ImagesResponse.from_pngs(
            [_encode(images[seed], request.side) for seed in drawn_seeds],
            response_format=request.response_format,
            seeds=drawn_seeds,
            model=self.model,
            note=_describe_enlarging(images[drawn_seeds[0]].width, request.side),
        )
        for index, image in zip(refused, failed_images(len(refused), refusal), strict=True):
            image.set_seed(seeds[index])
            response.data.insert(index, image)
        return response

    def _draw(
        self,
        placed: PlacedModel[LoadedModel],
        source: Image.Image,
        seeds: Sequence[int],
        call: CallProgress,
    ) -> dict[int, Image.Image]:
        """Return an image of the model's own size for each seed.

        Those that the safety checker refuses every time are left out.
        """
        encoded = placed.run(lambda model: model.family.encode(model.loaded, source))
        images: dict[int, Image.Image] = {}

        def draw_batch(model: LoadedModel, batch: Sequence[int]) -> list[Image.Image | None]:
            settings = DrawingSettings(
                steps=self.steps or model.preset.steps,
                guidance_scale=(
                    model.preset.guidance_scale
                    if self.guidance_scale is None
                    else self.guidance_scale
                ),
                strength=self.strength,
            )
            step = call.batch_step(len(batch))
            drawn = model.family.draw(model.loaded, encoded, batch, settings, step)
            call.finish(sum(image is not None for image in drawn))
            return drawn

        for redraw in range(MAX_REDRAWS + 1):
            missing = [seed for seed in seeds if seed not in images]
            drawn = placed.draw([noise_seed(seed, redraw) for seed in missing], draw_batch)
            images |= {
                seed: image for seed, image in zip(missing, drawn, strict=True) if image is not None
            }
            if len(images) == len(seeds):
                break
        return images


def _refusal(refused: Sequence[int], n: int) -> ContentPolicyError:
    """Return the error for images that the safety checker refused every time.

    Args:
        refused: The indexes of the images, from 0.
        n: How many images were requested.
    """
    numbers = " and ".join(str(index + 1) for index in refused)
    images = f"image{'s' * (len(refused) > 1)} {numbers} of {n}"
    redraws = f"{MAX_REDRAWS} redraws{' of each' * (len(refused) > 1)}"
    return ContentPolicyError(
        f"The model's safety checker refused {images}, and {redraws}. Use another source or "
        "another seed.",
        hint="The option safety=False turns the checker off.",
    )


def _encode(image: Image.Image, side: int) -> bytes:
    """Return a PNG file of exactly the side."""
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return encode_png(image, compress_level=1)


def _describe_enlarging(drawn: int, side: int) -> str | None:
    if drawn >= side:
        return None
    return f"drawn at {drawn}x{drawn} pixels and enlarged to {side}x{side}"
