"""Tiny pipelines with random weights, saved as folders: one for each preset.

They have the classes and the files of the real models, draw noise of 16 pixels, and take a second
to make. `TINY_MODELS` names them by preset. Import this module only where torch is installed: the
`tiny_model` fixture in conftest.py skips tests without it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from random_models import character_tokenizer

__all__ = [
    "TINY_MODELS",
    "TINY_SIDE",
    "add_safety_checker",
    "convert_to_bin",
    "halve_weights",
    "save_tiny_model",
]

TINY_SIDE = 16
"""The width and height of the images that each tiny model draws, in pixels."""

_WIDTH = 32
"""The length of every embedding."""


def save_tiny_model(preset: str, folder: Path, *, seed: int = 0) -> Path:
    """Save the tiny model of a preset, and return its folder.

    The folder has the layout of a user's own model: the files of the pipeline, and one subfolder
    for each further part of the preset.

    Args:
        preset: The name of a preset.
        folder: Where to save it. It must not exist.
        seed: Of the random weights. Models of different seeds draw different images.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        TINY_MODELS[preset](folder)
    return folder


def convert_to_bin(folder: Path) -> None:
    """Replace every file of weights with a pickle of the same weights, as older models have."""
    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), _bin_name(path))
        path.unlink()


def _bin_name(path: Path) -> Path:
    stem = "pytorch_model" if path.stem == "model" else path.stem
    return path.with_name(f"{stem}.bin")


def halve_weights(folder: Path, *, keep_originals: bool) -> None:
    """Add files of the same weights in half precision, or put them in the place of the others."""
    for path in folder.rglob("*.safetensors"):
        if (path.parent / "config.json").exists():
            weights = {key: value.half() for key, value in load_file(path).items()}
            # diffusers looks for the name of the library that made a file.
            save_file(weights, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
            if not keep_originals:
                path.unlink()


def add_safety_checker(folder: Path, threshold: float) -> None:
    """Add a safety checker with random weights to a saved model of Stable Diffusion 1.

    Args:
        folder: The folder of the model.
        threshold: The checker refuses an image that is more similar than this to its one concept,
            by the cosine. It refuses every image at -2, and none at 2.
    """
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    vision = _vision_config().to_dict()
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=_WIDTH)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(config).eval()
    for name in ("special_care_embeds", "concept_embeds"):
        # One concept: the others are too far from every image.
        getattr(checker, name).data.fill_(1.0)
        weights = getattr(checker, f"{name}_weights").data
        weights.fill_(2.0)
    checker.concept_embeds_weights.data[0] = threshold
    checker.save_pretrained(folder / "safety_checker")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    if index["feature_extractor"][0] is None:
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        _image_processor().save_pretrained(folder / "feature_extractor")
    (folder / "model_index.json").write_text(json.dumps(index))


def _vision_config() -> Any:
    return transformers.CLIPVisionConfig(
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=32,
        patch_size=8,
    )


def _image_encoder() -> Any:
    return transformers.CLIPVisionModelWithProjection(_vision_config()).eval()


def _image_processor() -> Any:
    return transformers.CLIPImageProcessor(crop_size=32, size=32)


def _text_config() -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=1000,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def _vae() -> Any:
    """Return a decoder that doubles the side."""
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
    ).eval()


def _unet(**options: Any) -> Any:
    options = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "sample_size": TINY_SIDE // 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": _WIDTH,
        **options,
    }
    return diffusers.UNet2DConditionModel(**options).eval()


def _save_sd_variations(folder: Path) -> None:
    diffusers.StableDiffusionImageVariationPipeline(
        vae=_vae(),
        image_encoder=_image_encoder(),
        unet=_unet(),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=_image_processor(),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _save_unclip(folder: Path) -> None:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=_image_processor(),
        image_encoder=_image_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=_WIDTH),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=character_tokenizer(folder / "new"),
        text_encoder=transformers.CLIPTextModel(_text_config()).eval(),
        unet=_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * _WIDTH),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        vae=_vae(),
    ).save_pretrained(folder)


def _save_adapter(unet: Any, folder: Path, weights: str) -> None:
    """Save an IP-Adapter for a U-Net, and its image encoder, with the layout of the repository."""
    modules = dict(unet.named_modules())
    processors = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    keys = [modules[name.removesuffix(".processor")].to_k for name in processors]
    width = keys[0].in_features
    state = _resampler_weights(width)
    # Cross-attention processors have the odd numbers.
    for number, key in zip(range(1, 2 * len(keys), 2), keys, strict=True):
        for letter in ("k", "v"):
            weight = torch.randn(key.out_features, width)
            state[f"ip_adapter.{number}.to_{letter}_ip.weight"] = weight
    (folder / weights).parent.mkdir(parents=True)
    save_file(state, folder / weights)
    _image_encoder().save_pretrained(folder / "models" / "image_encoder")


def _resampler_weights(width: int) -> dict[str, Any]:
    """Return the weights by which IP-Adapter Plus turns what its encoder sees into 4 tokens."""
    inner, heads = 64, 1
    layers = {
        "proj_in": torch.nn.Linear(_WIDTH, inner),
        "proj_out": torch.nn.Linear(inner, width),
        "norm_out": torch.nn.LayerNorm(width),
    }
    # Without its depth in a configuration, it always has this many.
    for number in range(4):
        layers |= {
            f"layers.{number}.0.norm1": torch.nn.LayerNorm(inner),
            f"layers.{number}.0.norm2": torch.nn.LayerNorm(inner),
            f"layers.{number}.0.to_q": torch.nn.Linear(inner, 64 * heads, bias=False),
            f"layers.{number}.0.to_kv": torch.nn.Linear(inner, 2 * 64 * heads, bias=False),
            f"layers.{number}.0.to_out": torch.nn.Linear(64 * heads, inner, bias=False),
            f"layers.{number}.1.0": torch.nn.LayerNorm(inner),
            f"layers.{number}.1.1": torch.nn.Linear(inner, 4 * inner, bias=False),
            f"layers.{number}.1.3": torch.nn.Linear(4 * inner, inner, bias=False),
        }
    weights = {
        f"image_proj.{layer}.{name}": value.contiguous()
        for layer, module in layers.items()
        for name, value in module.state_dict().items()
    }
    return {"image_proj.latents": torch.randn(1, 4, inner), **weights}


def _save_ip_adapter(folder: Path) -> None:
    unet = _unet()
    diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config()).eval(),
        tokenizer=character_tokenizer(folder / "new"),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    _save_adapter(unet, folder / "adapter", "models/ip-adapter-plus_sd15.safetensors")


def _save_ip_adapter_xl(folder: Path) -> None:
    unet = _unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=2 * _WIDTH,
    )
    diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config()).eval(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config()).eval(),
        tokenizer=character_tokenizer(folder / "new"),
        tokenizer_2=character_tokenizer(folder / "new"),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
    ).save_pretrained(folder)
    _save_adapter(unet, folder / "adapter", "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors")


def _save_kandinsky(folder: Path) -> None:
    diffusers.KandinskyV22Pipeline(
        unet=_unet(
            out_channels=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            addition_embed_type="image",
            encoder_hid_dim=_WIDTH,
            encoder_hid_dim_type="image_proj",
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
        ),
        # Like the real one, the U-Net also predicts the variance, in half of its channels.
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="linear", beta_start=0.00085, variance_type="learned_range"
        ),
        movq=diffusers.VQModel(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            in_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            out_channels=3,
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            vq_embed_dim=4,
        ).eval(),
    ).save_pretrained(folder)
    _image_encoder().save_pretrained(folder / "encoder" / "image_encoder")
    _image_processor().save_pretrained(folder / "encoder" / "image_processor")


def _save_flux_redux(folder: Path) -> None:
    # FluxPriorReduxPipeline makes embeddings of these lengths, whatever the model is.
    joint, pooled = 4096, 768
    diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKL(
            sample_size=32,
            block_out_channels=(4,),
            latent_channels=1,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ).eval(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=joint,
            pooled_projection_dim=pooled,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        ).eval(),
    ).save_pretrained(folder)
    encoder = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=_WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=16,
        )
    ).eval()
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    # In half precision, its weights take 100 MB.
    embedder = ReduxImageEncoder(redux_dim=_WIDTH, txt_in_features=joint).to(torch.float16)
    diffusers.FluxPriorReduxPipeline(
        image_encoder=encoder,
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
        image_embedder=embedder.eval(),
    ).save_pretrained(folder / "redux")


TINY_MODELS: Mapping[str, Callable[[Path], None]] = {
    "sd-variations": _save_sd_variations,
    "unclip": _save_unclip,
    "ip-adapter": _save_ip_adapter,
    "ip-adapter-xl": _save_ip_adapter_xl,
    "kandinsky": _save_kandinsky,
    "flux-redux": _save_flux_redux,
}
"""Saves the tiny model of each preset in a folder."""
