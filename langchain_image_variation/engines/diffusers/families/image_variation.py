"""Stable Diffusion Image Variations: the text encoder is replaced by an image encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from langchain_image_variation.engines.diffusers.families.family import (
    DrawingSettings,
    Pipelines,
    Step,
)
from langchain_image_variation.engines.diffusers.families.guidance import weakened_guidance
from langchain_image_variation.engines.diffusers.families.pipeline import (
    call_pipeline,
    choose_scheduler,
    load_pipeline,
    to_images,
    unet_side,
)
from langchain_image_variation.engines.diffusers.families.seeds import generators

__all__ = ["ImageVariationFamily"]

# The model card of lambdalabs/sd-image-variations-diffusers, and CLIP's own constants.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ImageVariationFamily:
    """`StableDiffusionImageVariationPipeline`. The strength weakens the guidance."""

    batches = True
    prefers_bfloat16 = False
    takes_dpm_solver = True

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`."""
        from diffusers import StableDiffusionImageVariationPipeline

        no_checker = {} if safety else {"safety_checker": None, "requires_safety_checker": False}
        pipeline = load_pipeline(
            StableDiffusionImageVariationPipeline, folders["pipeline"], dtype, **no_checker
        )
        choose_scheduler(pipeline, scheduler)
        return Pipelines(pipeline)

    def side(self, loaded: Pipelines) -> int:
        """See `Family.side`."""
        return unet_side(loaded.pipeline)

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return the pixels as the image encoder was trained on them: resized without antialiasing.

        The pipeline's own preprocessing antialiases, which gives worse images.
        """
        import torch

        side = loaded.pipeline.image_encoder.config.image_size
        pixels = torch.from_numpy(np.array(image, np.float32) / 255).permute(2, 0, 1)[None]
        pixels = torch.nn.functional.interpolate(
            pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=False
        )
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        return (pixels - mean) / deviation

    def draw(
        self,
        loaded: Pipelines,
        encoded: Any,
        seeds: Sequence[int],
        settings: DrawingSettings,
        step: Step,
    ) -> list[Image.Image | None]:
        """See `Family.draw`."""
        output = call_pipeline(
            loaded.pipeline,
            step,
            image=encoded,
            num_inference_steps=settings.steps,
            guidance_scale=weakened_guidance(settings),
            num_images_per_prompt=len(seeds),
            generator=generators(seeds),
        )
        return to_images(output.images, output.nsfw_content_detected)
