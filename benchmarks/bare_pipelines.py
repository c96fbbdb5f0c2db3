"""Calls of bare pipelines, as a script makes them, to compare the engine `diffusers` with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from langchain_image_variation.engines.diffusers.model_loader import LoadedModel

__all__ = ["bare_call"]


def bare_call(
    model: "LoadedModel", source: "Image.Image", seeds: Sequence[int], steps: int | None
) -> list["Image.Image"]:
    """Return what a script gets that calls the pipeline itself, for one image per seed.

    It uses the settings of the preset, and the strength at which they are used unchanged.
    """
    import numpy as np
    import torch

    pipeline, encoder = model.loaded.pipeline, model.loaded.encoder
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    common: dict[str, Any] = {
        "num_inference_steps": steps or model.preset.steps,
        "guidance_scale": model.preset.guidance_scale,
        "generator": generators,
    }
    name = type(pipeline).__name__
    if name == "StableDiffusionImageVariationPipeline":
        # As the model's card does it, without torchvision.
        pixels = torch.from_numpy(np.asarray(source, dtype=np.float32) / 255).permute(2, 0, 1)
        side = pipeline.image_encoder.config.image_size
        small = torch.nn.functional.interpolate(
            pixels[None], size=(side, side), mode="bicubic", antialias=False
        )
        mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
        deviation = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
        image = ((small - mean) / deviation).to(pipeline.dtype)
        output = pipeline(image, num_images_per_prompt=len(seeds), **common)
    elif name == "StableUnCLIPImg2ImgPipeline":
        output = pipeline(
            source,
            num_images_per_prompt=len(seeds),
            noise_level=300,
            **common,
            **model.loaded.prompt,
        )
    elif name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        output = pipeline(
            ip_adapter_image=source,
            num_images_per_prompt=len(seeds),
            **common,
            **model.loaded.prompt,
        )
    elif name == "FluxPipeline":
        prior = encoder(source)
        output = pipeline(
            prompt_embeds=prior.prompt_embeds.repeat(len(seeds), 1, 1),
            pooled_prompt_embeds=prior.pooled_prompt_embeds.repeat(len(seeds), 1),
            **common,
        )
    elif name == "KandinskyV22Pipeline":
        device = pipeline._execution_device
        pixels = encoder.image_processor(images=source, return_tensors="pt").pixel_values
        with torch.no_grad():
            image = encoder.image_encoder(pixels.to(device, pipeline.dtype)).image_embeds
            black = encoder.get_zero_embed(device=device)
        output = pipeline(
            image_embeds=image.repeat(len(seeds), 1),
            negative_image_embeds=black.repeat(len(seeds), 1),
            height=model.family.side(model.loaded),
            width=model.family.side(model.loaded),
            **common,
        )
    else:
        raise SystemExit(f"No bare call is known for {name}.")
    return list(output.images)
