"""FLUX.1 Redux: an adapter that turns an image into the embedding of a prompt."""

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
    load_pipeline,
    to_images,
)
from langchain_image_variation.engines.diffusers.families.seeds import generators

__all__ = ["FluxReduxFamily"]

_MAX_LOSS = 0.6
"""How much of the embedding a strength of 1 takes away. Unchanged, it makes images that are close
to the source."""

_NO_TEXT = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))


class FluxReduxFamily:
    """`FluxPriorReduxPipeline` and `FluxPipeline`. The strength lowers the embedding's scale."""

    batches = True
    prefers_bfloat16 = True
    takes_dpm_solver = False

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`. These models have no safety checker."""
        from diffusers import FluxPipeline, FluxPriorReduxPipeline

        pipeline = load_pipeline(FluxPipeline, folders["pipeline"], dtype, **_NO_TEXT)
        encoder = load_pipeline(FluxPriorReduxPipeline, folders["redux"], dtype, **_NO_TEXT)
        return Pipelines(pipeline, encoder)

    def side(self, loaded: Pipelines) -> int:
        """See `Family.side`."""
        return int(loaded.pipeline.default_sample_size * loaded.pipeline.vae_scale_factor)

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return the embedding of the image, and an empty pooled one."""
        return loaded.encoder(image, return_dict=False)

    def draw(
        self,
        loaded: Pipelines,
        encoded: Any,
        seeds: Sequence[int],
        settings: DrawingSettings,
        step: Step,
    ) -> list[Image.Image | None]:
        """See `Family.draw`."""
        # The pipeline does not repeat embeddings for several images itself.
        embedding, pooled = (part.repeat(len(seeds), *[1] * (part.ndim - 1)) for part in encoded)
        output = call_pipeline(
            loaded.pipeline,
            step,
            prompt_embeds=embedding * (1 - _MAX_LOSS * settings.strength),
            pooled_prompt_embeds=pooled,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=generators(seeds),
        )
        return to_images(output.images)
