"""Kandinsky 2.2: a decoder that draws from the embedding of an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    load_component,
    load_pipeline,
    to_images,
)
from langchain_image_variation.engines.diffusers.families.seeds import generators

__all__ = ["KandinskyFamily"]


class KandinskyFamily:
    """`KandinskyV22Pipeline`. The strength weakens the guidance.

    `KandinskyV22PriorPipeline.interpolate` gives a single image the embedding of its image encoder,
    and guides away from the embedding of a black image. So neither its prior nor its text encoder
    is loaded.
    """

    batches = True
    prefers_bfloat16 = False
    takes_dpm_solver = True

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`. These models have no safety checker."""
        from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        pipeline = load_pipeline(KandinskyV22Pipeline, folders["pipeline"], dtype)
        choose_scheduler(pipeline, scheduler)
        folder = folders["encoder"]
        image_encoder = load_component(
            CLIPVisionModelWithProjection, folder / "image_encoder", dtype
        )
        encoder = KandinskyV22PriorPipeline(
            prior=None,
            image_encoder=image_encoder,
            text_encoder=None,
            tokenizer=None,
            scheduler=None,
            image_processor=CLIPImageProcessor.from_pretrained(
                folder, subfolder="image_processor", local_files_only=True
            ),
        )
        return Pipelines(pipeline, encoder)

    def side(self, loaded: Pipelines) -> int:
        """See `Family.side`."""
        return int(loaded.pipeline.unet.config.sample_size * loaded.pipeline.movq_scale_factor)

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return the embeddings of the image and of a black one."""
        import torch

        encoder = loaded.encoder
        device = encoder._execution_device
        pixels = encoder.image_processor(images=image, return_tensors="pt").pixel_values
        pixels = pixels.to(device=device, dtype=encoder.image_encoder.dtype)
        with torch.no_grad():
            embedding = encoder.image_encoder(pixels).image_embeds
            black = encoder.get_zero_embed(device=device)
        encoder.maybe_free_model_hooks()
        return embedding, black

    def draw(
        self,
        loaded: Pipelines,
        encoded: Any,
        seeds: Sequence[int],
        settings: DrawingSettings,
        step: Step,
    ) -> list[Image.Image | None]:
        """See `Family.draw`."""
        pipeline = loaded.pipeline
        side = self.side(loaded)
        # Without guidance, the pipeline does not repeat embeddings for several images itself.
        embedding, black = (part.repeat(len(seeds), 1) for part in encoded)
        output = call_pipeline(
            pipeline,
            step,
            image_embeds=embedding,
            negative_image_embeds=black,
            height=side,
            width=side,
            num_inference_steps=settings.steps,
            guidance_scale=weakened_guidance(settings),
            generator=generators(seeds),
        )
        return to_images(output.images)
