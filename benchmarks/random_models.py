"""Models of real sizes with random weights, as folders that the engine `diffusers` loads.

Their images are noise, but they take the time and the memory of the real ones.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file

_SPREAD = 0.02
"""The standard deviation of random weights. Activations stay finite in half precision."""

_VOCABULARY = 49408
"""The number of words that the text encoders of Stable Diffusion know."""


@dataclass(frozen=True)
class RandomWeights:
    """Where to make weights, and in which precision.

    Args:
        device: Such as "cpu" or "cuda", which is much faster.
        dtype: The precision in which they are saved.
    """

    device: str
    dtype: torch.dtype

    def fill(self, make_module: Callable[[], Any]) -> Any:
        """Return a module with random weights."""
        # On this device, making the module neither takes memory nor initializes anything.
        with torch.device("meta"):
            module = make_module()
        module = module.to(self.dtype).to_empty(device=self.device).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, _SPREAD)
                else:
                    parameter.fill_(0 if name.endswith("bias") else 1)
        return module


def save_random_model(shape: str, folder: Path, *, device: str, dtype: torch.dtype) -> Path:
    """Save a model with random weights, and return its folder.

    Args:
        shape: A key of `SHAPES`.
        folder: Where to save it. It must not exist.
        device: Where to make the weights.
        dtype: Their precision.
    """
    torch.manual_seed(0)
    SHAPES[shape](folder, RandomWeights(device, dtype))
    return folder


def _vae(weights: RandomWeights, **options: Any) -> Any:
    options = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, **options}
    levels = len(options["block_out_channels"])
    return weights.fill(
        lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **options,
        )
    )


def _clip_image_encoder(weights: RandomWeights, **options: Any) -> Any:
    config = transformers.CLIPVisionConfig(image_size=224, patch_size=14, **options)
    return weights.fill(lambda: transformers.CLIPVisionModelWithProjection(config))


def _small_image_encoder(weights: RandomWeights) -> Any:
    """Return an image encoder with the input of the real one, but few layers."""
    return _clip_image_encoder(
        weights,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=256,
    )


def _vit_l(weights: RandomWeights) -> Any:
    """Return CLIP's ViT-L/14, the image encoder of `sd-variations`."""
    return _clip_image_encoder(
        weights,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        projection_dim=768,
    )


def _safety_checker(weights: RandomWeights) -> Any:
    """Return the safety checker of Stable Diffusion 1, which accepts every image."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "patch_size": 14}
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=768)
    # Its thresholds become 1, which no similarity exceeds.
    return weights.fill(lambda: StableDiffusionSafetyChecker(config))


def _vit_h(weights: RandomWeights) -> Any:
    """Return OpenCLIP's ViT-H/14, the image encoder of `unclip` and of IP-Adapter."""
    return _clip_image_encoder(
        weights,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        projection_dim=1024,
    )


def _text_config(width: int, layers: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
    )


def character_tokenizer(folder: Path) -> Any:
    """Return a tokenizer of single characters. It writes its files into `folder`, and removes it.

    Only the empty prompt is encoded, which no vocabulary can make faster.
    """
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    shutil.rmtree(folder)
    return tokenizer


def _image_variation(
    folder: Path, unet: Any, image_encoder: Any, vae: Any, safety_checker: Any = None
) -> None:
    diffusers.StableDiffusionImageVariationPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True),
        safety_checker=safety_checker,
        feature_extractor=transformers.CLIPImageProcessor(),
        requires_safety_checker=safety_checker is not None,
    ).save_pretrained(folder)


def _save_small(folder: Path, weights: RandomWeights) -> None:
    """Save a small `sd-variations`, for CPUs. It draws 256 pixels."""
    unet = weights.fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(32, 64, 128),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=256,
            attention_head_dim=8,
        )
    )
    vae = _vae(weights, block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    _image_variation(folder, unet, _small_image_encoder(weights), vae)


def _save_sd15(folder: Path, weights: RandomWeights) -> None:
    """Save `sd-variations`, which has the U-Net of Stable Diffusion 1.5."""
    unet = weights.fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
    )
    _image_variation(folder, unet, _vit_l(weights), _vae(weights), _safety_checker(weights))


def _save_sd21(folder: Path, weights: RandomWeights) -> None:
    """Save `unclip`, which has the U-Net of Stable Diffusion 2.1."""
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    unet = weights.fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2048,
        )
    )
    text_encoder = weights.fill(lambda: transformers.CLIPTextModel(_text_config(1024, 23)))
    diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=transformers.CLIPImageProcessor(),
        image_encoder=_vit_h(weights),
        # Random deviations would be divided by.
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=1024).to(weights.dtype),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=character_tokenizer(folder / "new"),
        text_encoder=text_encoder,
        unet=unet,
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, prediction_type="v_prediction"),
        vae=_vae(weights),
    ).save_pretrained(folder)


def _save_sdxl(folder: Path, weights: RandomWeights) -> None:
    """Save `ip-adapter-xl`: SDXL with IP-Adapter Plus."""
    unet = weights.fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    )
    large = _text_config(1280, 32)
    diffusers.StableDiffusionXLPipeline(
        vae=_vae(weights, scaling_factor=0.13025),
        text_encoder=weights.fill(lambda: transformers.CLIPTextModel(_text_config(768, 12))),
        text_encoder_2=weights.fill(lambda: transformers.CLIPTextModelWithProjection(large)),
        tokenizer=character_tokenizer(folder / "new"),
        tokenizer_2=character_tokenizer(folder / "new"),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
    ).save_pretrained(folder)
    adapter = folder / "adapter"
    _vit_h(weights).save_pretrained(adapter / "models" / "image_encoder")
    projection = weights.fill(
        lambda: IPAdapterPlusImageProjection(embed_dims=1280, output_dims=2048, heads=20)
    )
    state = {f"image_proj.{key}": value for key, value in _as_published(projection).items()}
    modules = dict(unet.named_modules())
    processors = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(processors):
        width = modules[name.removesuffix(".processor")].to_k.out_features
        for letter in ("k", "v"):
            weight = torch.randn(width, 2048, device=weights.device, dtype=weights.dtype)
            # Cross-attention processors have the odd numbers.
            state[f"ip_adapter.{2 * index + 1}.to_{letter}_ip.weight"] = weight * _SPREAD
    file = adapter / "sdxl_models" / "ip-adapter-plus_sdxl_vit-h.safetensors"
    file.parent.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in state.items()}, file)


def _as_published(projection: Any) -> dict[str, torch.Tensor]:
    """Return the weights of IP-Adapter Plus under their published names."""
    names = {
        "ln0": "0.norm1",
        "ln1": "0.norm2",
        "attn.to_q": "0.to_q",
        "attn.to_out.0": "0.to_out",
        "ff.0": "1.0",
        "ff.1.net.0.proj": "1.1",
        "ff.1.net.2": "1.3",
    }
    weights = projection.state_dict()
    published = {}
    for key, value in weights.items():
        if ".attn.to_v." in key:
            continue
        if ".attn.to_k." in key:
            other = weights[key.replace("to_k", "to_v")]
            published[key.replace("attn.to_k", "0.to_kv")] = torch.cat([value, other])
            continue
        for module, name in names.items():
            if f".{module}." in key:
                key = key.replace(f".{module}.", f".{name}.")
                break
        published[key] = value
    return published


def _save_flux(folder: Path, weights: RandomWeights) -> None:
    """Save `flux-redux`: FLUX.1 [dev] and Redux, without the text encoders, which are not used."""
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    transformer = weights.fill(lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True))
    no_text = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(
            weights,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.1159,
            scaling_factor=0.3611,
        ),
        transformer=transformer,
        **no_text,
    ).save_pretrained(folder)
    config = transformers.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    diffusers.FluxPriorReduxPipeline(
        image_encoder=weights.fill(lambda: transformers.SiglipVisionModel(config)),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 384, "width": 384}),
        image_embedder=weights.fill(ReduxImageEncoder),
    ).save_pretrained(folder / "redux")


SHAPES: Mapping[str, Callable[[Path, RandomWeights], None]] = {
    "small": _save_small,
    "sd15": _save_sd15,
    "sd21": _save_sd21,
    "sdxl": _save_sdxl,
    "flux": _save_flux,
}
"""Saves a model of each shape in a folder."""
