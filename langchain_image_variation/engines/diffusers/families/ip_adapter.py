"""Stable Diffusion with an IP-Adapter: an image in place of a prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from langchain_image_variation.engines.diffusers.families.family import (
    DrawingSettings,
    Pipelines,
    Step,
)
from langchain_image_variation.engines.diffusers.families.pipeline import (
    call_pipeline,
    choose_scheduler,
    load_component,
    load_pipeline,
    to_images,
    unet_side,
)
from langchain_image_variation.engines.diffusers.families.prompt import encode_empty_prompt
from langchain_image_variation.engines.diffusers.families.seeds import generators

__all__ = ["IPAdapterFamily", "IPAdapterXLFamily"]

_MAX_LOSS = 0.4
"""How much of the adapter's scale a strength of 1 takes away. Below a scale of about 0.5, the base
model draws whatever an empty prompt gives."""

_ENCODER_FOLDER = "models/image_encoder"


class IPAdapterFamily:
    """`StableDiffusionPipeline` and an adapter. The strength lowers the adapter's scale."""

    batches = True
    prefers_bfloat16 = False
    takes_dpm_solver = True
    _weights: ClassVar[tuple[str, str]] = ("models", "ip-adapter-plus_sd15.safetensors")

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`."""
        from diffusers import StableDiffusionPipeline

        no_checker = {} if safety else {"safety_checker": None, "requires_safety_checker": False}
        pipeline = load_pipeline(StableDiffusionPipeline, folders["pipeline"], dtype, **no_checker)
        choose_scheduler(pipeline, scheduler)
        self._load_adapter(pipeline, folders["adapter"])
        prompt = encode_empty_prompt(pipeline, "prompt_embeds", "negative_prompt_embeds")
        return Pipelines(pipeline, prompt=prompt)

    def _load_adapter(self, pipeline: Any, folder: Path) -> None:
        from transformers import CLIPVisionModelWithProjection

        pipeline.register_modules(
            image_encoder=load_component(
                CLIPVisionModelWithProjection, folder / _ENCODER_FOLDER, pipeline.dtype
            )
        )
        subfolder, weights = self._weights
        pipeline.load_ip_adapter(
            str(folder), subfolder=subfolder, weight_name=weights, local_files_only=True
        )

    def side(self, loaded: Pipelines) -> int:
        """See `Family.side`."""
        return unet_side(loaded.pipeline)

    def encode(self, loaded: Pipelines, image: Image.Image) -> Any:
        """Return the embeddings of the image and of no image, for each adapter."""
        import torch

        pipeline = loaded.pipeline
        with torch.no_grad():
            return pipeline.prepare_ip_adapter_image_embeds(
                image, None, pipeline._execution_device, 1, do_classifier_free_guidance=True
            )

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
        pipeline.set_ip_adapter_scale(1 - _MAX_LOSS * settings.strength)
        is_guided = settings.guidance_scale > 1
        embeds = encoded if is_guided else [both.chunk(2)[1] for both in encoded]
        output = call_pipeline(
            pipeline,
            step,
            ip_adapter_image_embeds=embeds,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            num_images_per_prompt=len(seeds),
            generator=generators(seeds),
            **loaded.prompt,
        )
        return to_images(output.images, getattr(output, "nsfw_content_detected", None))


class IPAdapterXLFamily(IPAdapterFamily):
    """The same with `StableDiffusionXLPipeline`, which has no safety checker."""

    _weights = ("sdxl_models", "ip-adapter-plus_sdxl_vit-h.safetensors")

    def load(
        self, folders: Mapping[str, Path], dtype: Any, *, safety: bool, scheduler: str = "auto"
    ) -> Pipelines:
        """See `Family.load`."""
        import torch
        from diffusers import StableDiffusionXLPipeline

        pipeline = load_pipeline(
            StableDiffusionXLPipeline, folders["pipeline"], dtype, add_watermarker=False
        )
        # The pipeline calls its own method, which does the same and warns that it is deprecated.
        pipeline.upcast_vae = lambda: pipeline.vae.to(dtype=torch.float32)
        choose_scheduler(pipeline, scheduler)
        self._load_adapter(pipeline, folders["adapter"])
        prompt = encode_empty_prompt(
            pipeline,
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        return Pipelines(pipeline, prompt=prompt)
