"""Image variations that work again: one to ten new images from one image, without a prompt.

The public names are loaded on first use, so importing this package is almost free.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from langchain_image_variation.agents.middleware import (
        ImageVariationMiddleware as ImageVariationMiddleware,
    )
    from langchain_image_variation.agents.tool import ImageVariationInput, ImageVariationTool
    from langchain_image_variation.agents.tool_spec import (
        ImageVariationToolSpec as ImageVariationToolSpec,
    )
    from langchain_image_variation.batch.variation_batch import VariationBatch
    from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
    from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
    from langchain_image_variation.engines.loading import load_engine
    from langchain_image_variation.exceptions import ImageVariationError
    from langchain_image_variation.hosted.client import (
        AsyncImageVariationClient,
        ImageVariationClient,
    )
    from langchain_image_variation.http.url_policy import URLPolicy
    from langchain_image_variation.images.png import SquarePNG
    from langchain_image_variation.output import cut_back, save_images
    from langchain_image_variation.output.contact_sheet import ContactSheet
    from langchain_image_variation.server import create_app as create_app
    from langchain_image_variation.source import Source, load_source

# Names that need an extra are left out, because `import *` would need the extra too.
__all__ = [
    "AsyncImageVariationClient",
    "AsyncVariationEngine",
    "ContactSheet",
    "CreateImageVariationRequest",
    "ImageVariationClient",
    "ImageVariationError",
    "ImageVariationInput",
    "ImageVariationTool",
    "ImagesResponse",
    "Source",
    "SquarePNG",
    "URLPolicy",
    "VariationBatch",
    "VariationEngine",
    "__version__",
    "cut_back",
    "load_engine",
    "load_source",
    "save_images",
]

_MODULES = {
    "AsyncImageVariationClient": "hosted.client",
    "AsyncVariationEngine": "engines",
    "ContactSheet": "output.contact_sheet",
    "CreateImageVariationRequest": "contract",
    "ImageVariationClient": "hosted.client",
    "ImageVariationError": "exceptions",
    "ImageVariationInput": "agents.tool",
    "ImageVariationMiddleware": "agents.middleware",
    "ImageVariationTool": "agents.tool",
    "ImageVariationToolSpec": "agents.tool_spec",
    "ImagesResponse": "contract",
    "Source": "source",
    "SquarePNG": "images.png",
    "URLPolicy": "http.url_policy",
    "VariationBatch": "batch.variation_batch",
    "VariationEngine": "engines",
    "create_app": "server",
    "cut_back": "output",
    "load_engine": "engines.loading",
    "load_source": "source",
    "save_images": "output",
}

_EXTRAS = {
    "ImageVariationMiddleware": ("langchain",),
    "ImageVariationToolSpec": ("llama_index",),
    "create_app": (
        *("platformdirs", "prometheus_client", "python_multipart"),
        *("starlette", "uvicorn"),
    ),
}
"""The optional packages that a name needs."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    # Imported here so that importing this package stays fast.
    from importlib.util import find_spec

    # `help` and similar tools load every name that is listed, and would fail.
    unavailable_names = {
        name for name, packages in _EXTRAS.items() if not all(map(find_spec, packages))
    }
    return sorted({*globals(), *_MODULES} - unavailable_names)
