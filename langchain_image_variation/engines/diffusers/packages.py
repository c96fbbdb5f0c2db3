"""The packages of the extra `diffusers`: whether they are installed, without importing them."""

from importlib.util import find_spec

from langchain_image_variation.exceptions import MissingExtraError

__all__ = ["check_packages", "missing_packages"]

_PACKAGES = (
    *("torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub"),
    "psutil",
)


def missing_packages() -> list[str]:
    """Return the packages that are not installed."""
    return [package for package in _PACKAGES if find_spec(package) is None]


def check_packages() -> None:
    """Check that all packages are installed.

    Raises:
        MissingExtraError: If one is missing.
    """
    for package in missing_packages():
        raise MissingExtraError.for_package(
            "The engine 'diffusers'", package, "langchain-image-variation[diffusers]"
        )
