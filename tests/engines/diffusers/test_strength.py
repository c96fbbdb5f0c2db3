"""What each family makes of the option `strength`, seen by a pipeline that draws nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from langchain_image_variation.engines.diffusers.families import load_family
from langchain_image_variation.engines.diffusers.families.family import DrawingSettings, Pipelines
from langchain_image_variation.engines.diffusers.presets import PRESETS

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


class RecordingPipeline:
    """Keeps what it is called with, and returns white images."""

    def __init__(self) -> None:
        unet: Any = torch.nn.Identity()
        unet.config = SimpleNamespace(sample_size=8)
        self.unet = unet
        self.movq_scale_factor = self.vae_scale_factor = 2
        self.scheduler = SimpleNamespace(timesteps=[1])
        self.arguments: dict[str, Any] = {}
        self.scale = float("nan")

    def set_ip_adapter_scale(self, scale: float) -> None:
        """Keep the scale."""
        self.scale = scale

    def maybe_free_model_hooks(self) -> None:
        """Have none."""

    def __call__(self, **arguments: Any) -> Any:
        """Keep the arguments."""
        self.arguments = arguments
        images = np.ones((1, 8, 8, 3), np.float32)
        return SimpleNamespace(images=images, nsfw_content_detected=None)


def settle(preset: str, strength: float, guidance_scale: float | None = None) -> RecordingPipeline:
    """Return the pipeline after one drawing of a preset."""
    chosen = PRESETS[preset]
    pipeline = RecordingPipeline()
    settings = DrawingSettings(
        chosen.steps,
        chosen.guidance_scale if guidance_scale is None else guidance_scale,
        strength,
    )
    encoded = {
        "sd-variations": torch.ones(1, 3, 8, 8),
        "unclip": torch.ones(1, 8),
        "ip-adapter": [torch.ones(2, 1, 8)],
        "ip-adapter-xl": [torch.ones(2, 1, 8)],
        "kandinsky": (torch.ones(1, 8), torch.zeros(1, 8)),
        "flux-redux": (torch.ones(1, 4, 8), torch.zeros(1, 8)),
    }[preset]
    load_family(chosen.family).draw(Pipelines(pipeline), encoded, [7], settings, lambda share: None)
    return pipeline


@pytest.mark.parametrize("preset", ["sd-variations", "kandinsky"])
def test_strength_weakens_the_guidance(preset: str) -> None:
    """The guidance is the preset's at 0.5, and falls evenly from 1.5 times that to half of it."""
    scales = [settle(preset, strength).arguments["guidance_scale"] for strength in STRENGTHS]
    own = PRESETS[preset].guidance_scale
    assert scales == pytest.approx([1.5 * own, 1.25 * own, own, 0.75 * own, 0.5 * own])
    for off in (0, 1):
        scales = [settle(preset, strength, off).arguments["guidance_scale"] for strength in (0, 1)]
        assert scales == [off, off]


def test_strength_is_the_noise_level_of_unclip() -> None:
    """The noise level rises evenly from 0 to 600, of the 999 that the model knows."""
    levels = [settle("unclip", strength).arguments["noise_level"] for strength in STRENGTHS]
    assert levels == [0, 150, 300, 450, 600]


@pytest.mark.parametrize("preset", ["ip-adapter", "ip-adapter-xl"])
def test_strength_lowers_the_scale_of_adapters(preset: str) -> None:
    """The scale of an adapter falls evenly from 1 to 0.6."""
    scales = [settle(preset, strength).scale for strength in STRENGTHS]
    assert scales == pytest.approx([1, 0.9, 0.8, 0.7, 0.6])


def test_strength_lowers_the_embedding_of_redux() -> None:
    """The scale of the embedding falls evenly from 1 to 0.4."""
    embeddings = [
        settle("flux-redux", strength).arguments["prompt_embeds"] for strength in STRENGTHS
    ]
    scales = [float(embedding.max()) for embedding in embeddings]
    assert scales == pytest.approx([1, 0.85, 0.7, 0.55, 0.4])
