"""Guidance as a strength, for pipelines that have no other knob."""

from langchain_image_variation.engines.diffusers.families.family import DrawingSettings

__all__ = ["weakened_guidance"]


def weakened_guidance(settings: DrawingSettings) -> float:
    """Return the guidance scale at a strength: 1.5 times as large at 0, and half as large at 1.

    At the default strength of 0.5, it is the one that was set. Guidance that is turned off stays
    off.
    """
    if settings.guidance_scale <= 1:
        return settings.guidance_scale
    return settings.guidance_scale * (1.5 - settings.strength)
