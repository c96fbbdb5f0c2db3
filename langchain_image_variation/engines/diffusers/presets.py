"""The models that you can choose by name, as data: what to download, and how to use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["DEFAULT_PRESET", "PRESETS", "Part", "Preset"]


@dataclass(frozen=True)
class Part:
    """A folder of files that a model is loaded from: all or some files of a repository.

    Args:
        name: Names the part in its model. The first part of a model is always "pipeline".
        repository: A repository of the Hugging Face Hub, as "owner/name".
        revision: A commit, a tag or a branch.
        patterns: The files to download, as for `fnmatch`. If weights exist in several formats, the
            patterns match all of them, and only one is downloaded.
    """

    name: str
    repository: str
    revision: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """A model that you can choose by name.

    Args:
        name: The value of the option `model`.
        family: Which module of `families` uses it.
        pipeline_class: The diffusers class that its `model_index.json` names.
        parts: What to download. The first is the pipeline.
        side: The width and height of the images that it draws, in pixels.
        steps: The default number of denoising steps.
        guidance_scale: The default guidance scale.
        strength: What the option `strength` changes, for a person.
        license: The name of its license. If its parts have several, the strictest one.
        license_url: Where to read the license.
        is_gated: Whether the Hub asks you to accept the license before you can download it.
        is_commercial: Whether the license allows commercial use.
        download_bytes: The size of its largest files in their usual precision, as published: the
            download is at least this large. None if the sizes are not published. See
            `least_download_bytes`.
        may_have_float16: Whether its repositories may have the files in half precision too.
        component_sizes: How many numbers each component has that stays in memory, such as weights,
            by its name. They follow from the published configuration of the component. Empty if
            they are not known.
        decodes_in_float32: Whether the decoder computes in single precision whatever the `dtype`.
    """

    name: str
    family: str
    pipeline_class: str
    parts: tuple[Part, ...]
    side: int
    steps: int
    guidance_scale: float
    strength: str
    license: str
    license_url: str
    is_gated: bool = False
    is_commercial: bool = True
    download_bytes: int | None = None
    may_have_float16: bool = True
    component_sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    decodes_in_float32: bool = False

    def least_download_bytes(self, *, float16: bool) -> int | None:
        """Return how large the download is at least, in bytes, or None if that is not known.

        Args:
            float16: Whether files in half precision are downloaded where there are any.
        """
        # A number has two bytes in half precision, and more in all others.
        halved_bytes = 2 * sum(self.component_sizes.values()) or None
        if self.download_bytes is None:
            return halved_bytes
        if halved_bytes is None or not (float16 and self.may_have_float16):
            return self.download_bytes
        return min(self.download_bytes, halved_bytes)


def _components(*names: str) -> tuple[str, ...]:
    """Return the patterns of a pipeline's index and of its components' folders."""
    return ("model_index.json", *(f"{name}/*" for name in names))


_SD_COMPONENTS = _components(
    *("feature_extractor", "safety_checker", "scheduler", "text_encoder", "tokenizer"),
    *("unet", "vae"),
)
_XL_COMPONENTS = _components(
    *("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"),
)
_ADAPTERS = "h94/IP-Adapter"

_SAFETY_CHECKER = 303_981_845
_VAE = 83_653_863
_VIT_L = 303_966_465
_VIT_H = 632_077_057
_VIT_BIG_G = 1_844_907_521
"""The sizes of components that several presets have."""

_SD_VARIATIONS = Preset(
    name="sd-variations",
    family="image_variation",
    pipeline_class="StableDiffusionImageVariationPipeline",
    parts=(
        Part(
            "pipeline",
            "lambdalabs/sd-image-variations-diffusers",
            # The tag v2.0. Version 1 is still there, because version 2 has memorized some famous
            # images.
            "a2a13984e57db80adcc9e3f85d568dcccb9b29fc",
            _components(
                *("feature_extractor", "image_encoder", "safety_checker", "scheduler"),
                *("unet", "vae"),
            ),
        ),
    ),
    side=512,
    steps=20,
    guidance_scale=3.0,
    strength="how loosely an image follows the source: the guidance falls to half of its value",
    license="CreativeML OpenRAIL-M",
    license_url="https://huggingface.co/lambdalabs/sd-image-variations-diffusers",
    download_bytes=3_775_000_000,
    may_have_float16=False,
    component_sizes={
        "image_encoder": _VIT_L,
        "safety_checker": _SAFETY_CHECKER,
        "unet": 859_520_964,
        "vae": _VAE,
    },
)
_UNCLIP = Preset(
    name="unclip",
    family="unclip",
    pipeline_class="StableUnCLIPImg2ImgPipeline",
    parts=(
        Part(
            "pipeline",
            "sd2-community/stable-diffusion-2-1-unclip",
            "main",
            _components(
                *("feature_extractor", "image_encoder", "image_noising_scheduler"),
                *("image_normalizer", "scheduler", "text_encoder", "tokenizer", "unet", "vae"),
            ),
        ),
    ),
    side=768,
    steps=20,
    guidance_scale=10.0,
    strength="how much noise is added to what the model sees in the source",
    license="CreativeML OpenRAIL++-M",
    license_url="https://huggingface.co/sd2-community/stable-diffusion-2-1-unclip",
    download_bytes=5_170_000_000,
    component_sizes={
        "image_encoder": _VIT_H,
        "image_normalizer": 2_048,
        "unet": 870_173_124,
        "vae": _VAE,
    },
)
_IP_ADAPTER = Preset(
    name="ip-adapter",
    family="ip_adapter",
    pipeline_class="StableDiffusionPipeline",
    parts=(
        Part(
            "pipeline",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            _SD_COMPONENTS,
        ),
        Part(
            "adapter",
            _ADAPTERS,
            "018e402774aeeddd60609b4ecdb7e298259dc729",
            ("models/image_encoder/*", "models/ip-adapter-plus_sd15.safetensors"),
        ),
    ),
    side=512,
    steps=25,
    guidance_scale=7.5,
    strength="how little weight the source has",
    license="CreativeML OpenRAIL-M",
    license_url="https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
    component_sizes={
        "image_encoder": _VIT_H,
        "safety_checker": _SAFETY_CHECKER,
        "unet": 908_602_308,
        "vae": _VAE,
    },
)
_IP_ADAPTER_XL = Preset(
    name="ip-adapter-xl",
    family="ip_adapter_xl",
    pipeline_class="StableDiffusionXLPipeline",
    parts=(
        Part(
            "pipeline",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            _XL_COMPONENTS,
        ),
        Part(
            "adapter",
            _ADAPTERS,
            "018e402774aeeddd60609b4ecdb7e298259dc729",
            (
                "models/image_encoder/*",
                "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
            ),
        ),
    ),
    side=1024,
    steps=30,
    guidance_scale=5.0,
    strength="how little weight the source has",
    license="CreativeML OpenRAIL++-M",
    license_url="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0",
    component_sizes={
        "image_encoder": _VIT_H,
        "unet": 2_991_202_308,
        "vae": _VAE,
    },
    decodes_in_float32=True,
)
_KANDINSKY = Preset(
    name="kandinsky",
    family="kandinsky",
    pipeline_class="KandinskyV22Pipeline",
    parts=(
        Part(
            "pipeline",
            "kandinsky-community/kandinsky-2-2-decoder",
            "9ae140d347fed8ce6e8bb3005dcc1f48543bb8e3",
            _components("movq", "scheduler", "unet"),
        ),
        # The prior itself turns text into what the image encoder sees. An image needs no prior.
        Part(
            "encoder",
            "kandinsky-community/kandinsky-2-2-prior",
            "9fc51ad5732afc5d031724219d22e6c42179c5a8",
            ("image_encoder/*", "image_processor/*"),
        ),
    ),
    side=512,
    steps=50,
    guidance_scale=4.0,
    strength="how loosely an image follows the source: the guidance falls to half of its value",
    license="Apache-2.0",
    license_url="https://huggingface.co/kandinsky-community/kandinsky-2-2-decoder",
    download_bytes=8_700_000_000,
    component_sizes={
        "image_encoder": _VIT_BIG_G,
        "movq": 67_832_495,
        "unet": 1_253_057_288,
    },
)
_FLUX_REDUX = Preset(
    name="flux-redux",
    family="flux_redux",
    pipeline_class="FluxPipeline",
    parts=(
        # The text encoders are left out: their part of the embedding is zero.
        Part(
            "pipeline",
            "black-forest-labs/FLUX.1-dev",
            "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            _components("scheduler", "transformer", "vae"),
        ),
        Part(
            "redux",
            "black-forest-labs/FLUX.1-Redux-dev",
            "1282f955f706b5240161278f2ef261d2a29ad649",
            _components("feature_extractor", "image_embedder", "image_encoder"),
        ),
    ),
    side=1024,
    steps=28,
    guidance_scale=2.5,
    strength="how little weight the source has",
    license="FLUX.1 [dev] Non-Commercial License",
    license_url="https://huggingface.co/black-forest-labs/FLUX.1-Redux-dev",
    is_gated=True,
    is_commercial=False,
    download_bytes=25_120_000_000,
    component_sizes={
        "image_embedder": 64_503_808,
        "image_encoder": 428_226_329,
        "transformer": 11_901_408_320,
        "vae": 83_819_683,
    },
)

DEFAULT_PRESET = _SD_VARIATIONS
"""The preset that the engine uses if you name none: the only one trained for this task alone."""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            *(_SD_VARIATIONS, _UNCLIP, _IP_ADAPTER, _IP_ADAPTER_XL, _KANDINSKY),
            _FLUX_REDUX,
        )
    }
)
"""All presets, by name."""
