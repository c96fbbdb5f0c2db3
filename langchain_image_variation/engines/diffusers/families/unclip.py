"""Stable unCLIP: draws from the embedding of an image, to which noise can be added."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from langchain_image_variation.engines.diffusers.families.family import (
    DrawingSettings,
    Pipelines,
    Step,
)
from langchain_image_variation.engines.diffusers.families.pipeline import (
    call_pipeline,
    choose_scheduler,
    load_pipeline,
    to_images,
    unet_side,
)
from langchain_image_variation.engines.diffusers.families.prompt import encode_empty_prompt
from langchain_image_variation.engines.diffusers.families.seeds import generators

__all__ = ["UnCLIPFamily"]

_MAX_NOISE_LEVEL = 600
"""The noise level at a strength of 1. The model knows 0 to 999; at 999, little is left of the
source."""


class UnCLIPFamily:
    """`StableUnCLIPImg2ImgPipeline`. The strength is the level of noise on the embedding."""

    batches = False
    prefers_bfloat16 = False
    takes_dpm_solver = True
    # The pipeline draws the noise on the embedding once for all images of a call, so an image would
    # depend on the others.

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`. These models have no safety checker."""
        from diffusers import StableUnCLIPImg2ImgPipeline

        pipeline = load_pipeline(StableUnCLIPImg2ImgPipeline, folders["pipeline"], dtype)
        choose_scheduler(pipeline, scheduler)
        prompt = encode_empty_prompt(pipeline, "prompt_embeds", "negative_prompt_embeds")
        return Pipelines(pipeline, prompt=prompt)

    def side(self, loaded: Pipelines) -> int:
        """See `Family.side`."""
        return unet_side(loaded.pipeline)

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return the embedding of the image."""
        import torch

        pipeline = loaded.pipeline
        pixels = pipeline.feature_extractor(images=image, return_tensors="pt").pixel_values
        encoder = pipeline.image_encoder
        with torch.no_grad():
            return encoder(
                pixels.to(device=pipeline._execution_device, dtype=encoder.dtype)
            ).image_embeds

    def draw(
        self,
        loaded: Pipelines,
        encoded: Any,
        seeds: Sequence[int],
        settings: DrawingSettings,
        step: Step,
    ) -> list[Image.Image | None]:
        """See `Family.draw`."""
        (generator,) = generators(seeds)
        output = call_pipeline(
            loaded.pipeline,
            step,
            image_embeds=encoded,
            noise_level=round(settings.strength * _MAX_NOISE_LEVEL),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=generator,
            **loaded.prompt,
        )
        return to_images(output.images)
