"""Image variations that work again: one to ten new images from one image, without a prompt.

From a photo to files::

    source = load_source("photo.jpg")
    request = CreateImageVariationRequest(image=source.png, n=2, size="512x512")
    response = call_engine(load_engine("local"), request)
    save_images(response, "variations", name=source.name)

`ImageVariationTool` does this for an agent, `VariationBatch` for many photos, and `create_app` for
the clients of a server. To write an engine, see `VariationEngine`. All errors are in
`langchain_image_variation.exceptions`.

The public names are loaded on first use, so importing this package is almost free.
"""

__version__ = "0.1.0"

# Type checkers take this for true. Importing `typing` takes long enough for Ctrl-C to come before
# `__main__` can answer it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from langchain_image_variation.agents.graph_state import add_images
    from langchain_image_variation.agents.middleware import (
        ImageVariationMiddleware as ImageVariationMiddleware,
    )
    from langchain_image_variation.agents.settings import ToolSettings
    from langchain_image_variation.agents.tool import ImageVariationInput, ImageVariationTool
    from langchain_image_variation.agents.tool_spec import (
        ImageVariationToolSpec as ImageVariationToolSpec,
    )
    from langchain_image_variation.batch.variation_batch import VariationBatch
    from langchain_image_variation.cancellation import check_cancellation
    from langchain_image_variation.contract import (
        CreateImageVariationRequest,
        Image,
        ImagesResponse,
    )
    from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
    from langchain_image_variation.engines.call import call_engine, call_engine_async
    from langchain_image_variation.engines.call_interrupt import CallInterrupt
    from langchain_image_variation.engines.context import Progress, progress_reporter
    from langchain_image_variation.engines.loading import load_engine
    from langchain_image_variation.engines.traits import check_model
    from langchain_image_variation.exceptions import ImageVariationError
    from langchain_image_variation.hosted.client import (
        AsyncImageVariationClient,
        ImageVariationClient,
    )
    from langchain_image_variation.http.url_policy import URLPolicy
    from langchain_image_variation.images.pixels import decode_png, encode_png
    from langchain_image_variation.images.png import SquarePNG
    from langchain_image_variation.mcp.server import (
        ImageVariationMCPServer as ImageVariationMCPServer,
    )
    from langchain_image_variation.output import cut_back, save_images
    from langchain_image_variation.output.contact_sheet import ContactSheet
    from langchain_image_variation.server import create_app as create_app
    from langchain_image_variation.source import Source, load_source

# Names that need an extra are left out, because `import *` would need the extra too.
__all__ = [
    "AsyncImageVariationClient",
    "AsyncVariationEngine",
    "CallInterrupt",
    "ContactSheet",
    "CreateImageVariationRequest",
    "Image",
    "ImageVariationClient",
    "ImageVariationError",
    "ImageVariationInput",
    "ImageVariationTool",
    "ImagesResponse",
    "Progress",
    "Source",
    "SquarePNG",
    "ToolSettings",
    "URLPolicy",
    "VariationBatch",
    "VariationEngine",
    "__version__",
    "add_images",
    "call_engine",
    "call_engine_async",
    "check_cancellation",
    "check_model",
    "cut_back",
    "decode_png",
    "encode_png",
    "load_engine",
    "load_source",
    "progress_reporter",
    "save_images",
]

_MODULES = {
    "AsyncImageVariationClient": "hosted.client",
    "AsyncVariationEngine": "engines",
    "CallInterrupt": "engines.call_interrupt",
    "ContactSheet": "output.contact_sheet",
    "CreateImageVariationRequest": "contract",
    "Image": "contract",
    "ImageVariationClient": "hosted.client",
    "ImageVariationError": "exceptions",
    "ImageVariationInput": "agents.tool",
    "ImageVariationMCPServer": "mcp.server",
    "ImageVariationMiddleware": "agents.middleware",
    "ImageVariationTool": "agents.tool",
    "ImageVariationToolSpec": "agents.tool_spec",
    "ImagesResponse": "contract",
    "Progress": "engines.context",
    "Source": "source",
    "SquarePNG": "images.png",
    "ToolSettings": "agents.settings",
    "URLPolicy": "http.url_policy",
    "VariationBatch": "batch.variation_batch",
    "VariationEngine": "engines",
    "add_images": "agents.graph_state",
    "call_engine": "engines.call",
    "call_engine_async": "engines.call",
    "check_cancellation": "cancellation",
    "check_model": "engines.traits",
    "create_app": "server",
    "cut_back": "output",
    "decode_png": "images.pixels",
    "encode_png": "images.pixels",
    "load_engine": "engines.loading",
    "load_source": "source",
    "progress_reporter": "engines.context",
    "save_images": "output",
}

_EXTRAS = {
    "ImageVariationMCPServer": ("mcp_types",),  # release 1 of `mcp` has none
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
    # Imported here so that importing this package stays fast.
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    # Imported here so that importing this package stays fast.
    from importlib.util import find_spec

    # `help` and similar tools load every name that is listed, and would fail.
    unavailable_names = {
        name for name, packages in _EXTRAS.items() if not all(map(find_spec, packages))
    }
    return sorted({*globals(), *_MODULES} - unavailable_names)
