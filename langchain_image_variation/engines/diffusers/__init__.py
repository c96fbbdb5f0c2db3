"""New images from open models on your own hardware, with the library `diffusers`."""

from langchain_image_variation.engines.diffusers.engine import DiffusersEngine

__all__ = ["DiffusersEngine"]
