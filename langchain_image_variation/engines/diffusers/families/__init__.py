"""Families: how each kind of pipeline loads, reads a source, and draws.

A family is a module of this package with one class. It imports torch and diffusers only inside its
methods, so that importing it costs nothing.
"""

from collections.abc import Mapping

from langchain_image_variation.engines.diffusers.families.family import Family
from langchain_image_variation.engines.diffusers.families.flux_redux import FluxReduxFamily
from langchain_image_variation.engines.diffusers.families.image_variation import (
    ImageVariationFamily,
)
from langchain_image_variation.engines.diffusers.families.ip_adapter import (
    IPAdapterFamily,
    IPAdapterXLFamily,
)
from langchain_image_variation.engines.diffusers.families.kandinsky import KandinskyFamily
from langchain_image_variation.engines.diffusers.families.unclip import UnCLIPFamily

__all__ = ["FAMILIES", "load_family"]

FAMILIES: Mapping[str, type[Family]] = {
    "flux_redux": FluxReduxFamily,
    "image_variation": ImageVariationFamily,
    "ip_adapter": IPAdapterFamily,
    "ip_adapter_xl": IPAdapterXLFamily,
    "kandinsky": KandinskyFamily,
    "unclip": UnCLIPFamily,
}
"""The families by name: `Preset.family`."""


def load_family(name: str) -> Family:
    """Return the family of a preset: `Preset.family`."""
    return FAMILIES[name]()
