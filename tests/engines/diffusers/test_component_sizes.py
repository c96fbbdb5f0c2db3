"""The sizes of the presets' components, counted on the real shapes. No weights are made."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from langchain_image_variation.engines.diffusers.presets import PRESETS
from tests.extras import skip_without

skip_without("torch")

UNET_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2048,
}
UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNET_KANDINSKY = {
    "sample_size": 64,
    "out_channels": 8,
    "block_out_channels": (384, 768, 1152, 1536),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
    "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "attention_head_dim": 64,
    "cross_attention_dim": 768,
    "encoder_hid_dim": 1280,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift",
}


def count(module: Any) -> int:
    """Return how many numbers a module has."""
    return sum(tensor.numel() for tensor in [*module.parameters(), *module.buffers()])


def count_vit(width: int, layers: int, inner: int, projection: int) -> int:
    """Return the size of an image encoder of CLIP."""
    import transformers

    config = transformers.CLIPVisionConfig(
        image_size=224,
        patch_size=14,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=16,
        projection_dim=projection,
    )
    return count(transformers.CLIPVisionModelWithProjection(config))


def count_vae(**options: Any) -> int:
    """Return the size of a decoder of Stable Diffusion or FLUX, with its encoder."""
    import diffusers

    return count(
        diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **options,
        )
    )


def count_unet(options: Mapping[str, Any]) -> int:
    """Return the size of a U-Net."""
    import diffusers

    return count(diffusers.UNet2DConditionModel(**options))


def count_adapted_unet(options: Mapping[str, Any], *, heads: int) -> int:
    """Return the size of a U-Net with the layers of IP-Adapter Plus."""
    import diffusers
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    unet = diffusers.UNet2DConditionModel(**options)
    width = options["cross_attention_dim"]
    modules = dict(unet.named_modules())
    keys = [
        modules[name.removesuffix(".processor")].to_k
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    projection = IPAdapterPlusImageProjection(
        embed_dims=1280, output_dims=width, hidden_dims=64 * heads, heads=heads
    )
    return count(unet) + count(projection) + sum(2 * width * key.out_features for key in keys)


def count_safety_checker() -> int:
    """Return the size of the safety checker of Stable Diffusion 1."""
    import transformers
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "patch_size": 14}
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=768)
    return count(StableDiffusionSafetyChecker(config))


def count_sd_variations() -> dict[str, int]:
    """Count Stable Diffusion Image Variations."""
    return {
        "image_encoder": count_vit(1024, 24, 4096, 768),
        "safety_checker": count_safety_checker(),
        "unet": count_unet(UNET_1),
        "vae": count_vae(),
    }


def count_unclip() -> dict[str, int]:
    """Count Stable unCLIP 2.1, without its text encoder."""
    return {
        "image_encoder": count_vit(1280, 32, 5120, 1024),
        "image_normalizer": 2 * 1024,
        "unet": count_unet(UNET_2),
        "vae": count_vae(),
    }


def count_ip_adapter() -> dict[str, int]:
    """Count Stable Diffusion 1.5 with IP-Adapter Plus, without its text encoder."""
    return {
        "image_encoder": count_vit(1280, 32, 5120, 1024),
        "safety_checker": count_safety_checker(),
        "unet": count_adapted_unet(UNET_1, heads=12),
        "vae": count_vae(),
    }


def count_ip_adapter_xl() -> dict[str, int]:
    """Count SDXL with IP-Adapter Plus, without its text encoders."""
    return {
        "image_encoder": count_vit(1280, 32, 5120, 1024),
        "unet": count_adapted_unet(UNET_XL, heads=20),
        "vae": count_vae(),
    }


def count_kandinsky() -> dict[str, int]:
    """Count Kandinsky 2.2, without its prior and its text encoder."""
    import diffusers

    decoder = diffusers.VQModel(
        block_out_channels=(128, 256, 256, 512),
        down_block_types=(*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3),
        layers_per_block=2,
        latent_channels=4,
        num_vq_embeddings=16384,
        norm_type="spatial",
        vq_embed_dim=4,
    )
    return {
        "image_encoder": count_vit(1664, 48, 8192, 1280),
        "movq": count(decoder),
        "unet": count_unet(UNET_KANDINSKY),
    }


def count_flux_redux() -> dict[str, int]:
    """Count FLUX.1 [dev] and Redux, without the text encoders."""
    import diffusers
    import transformers
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    config = transformers.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    return {
        "image_embedder": count(ReduxImageEncoder()),
        "image_encoder": count(transformers.SiglipVisionModel(config)),
        "transformer": count(diffusers.FluxTransformer2DModel(guidance_embeds=True)),
        "vae": count_vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
    }


COUNTS: Mapping[str, Callable[[], dict[str, int]]] = {
    "sd-variations": count_sd_variations,
    "unclip": count_unclip,
    "ip-adapter": count_ip_adapter,
    "ip-adapter-xl": count_ip_adapter_xl,
    "kandinsky": count_kandinsky,
    "flux-redux": count_flux_redux,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_follow_from_the_shapes(preset: str) -> None:
    """The sizes of a preset's components are those of its published configuration."""
    import torch

    # On this device, making a module takes no memory.
    with torch.device("meta"):
        sizes = COUNTS[preset]()
    assert dict(PRESETS[preset].component_sizes) == sizes
