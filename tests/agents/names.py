"""The names of uploaded images, as a model must write them."""

from langchain_image_variation.agents.message_image import identify


def name_of(image: bytes) -> str:
    """Return the name of an uploaded image."""
    return identify(image).name
