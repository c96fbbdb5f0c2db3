"""Type-checked, never run: the public API as a typed program uses it."""

from pathlib import Path

from langchain_core.tools import BaseTool

from langchain_image_variation import (
    AsyncVariationEngine,
    ContactSheet,
    CreateImageVariationRequest,
    ImagesResponse,
    ImageVariationTool,
    SquarePNG,
    URLPolicy,
    VariationEngine,
    load_engine,
    load_source,
    save_images,
)
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.output import SavedImage


def library(path: Path) -> list[SavedImage]:
    """Run the whole line from a source to files."""
    source = load_source(path, fit="pad")
    png: SquarePNG = source.png
    request = CreateImageVariationRequest(image=png, n=2, size="512x512")
    engine: VariationEngine = load_engine("local", seed=7, strength=0.5)
    response: ImagesResponse = engine.create_variation(request)
    ContactSheet(png, response).save("out", name=source.name)
    return save_images(response, "out", name=source.name)


def by_url(url: str) -> SquarePNG:
    """Load a picture from a host that is allowed."""
    urls = URLPolicy(hosts={"images.example.com"}, max_bytes=2**20, timeout=5, max_redirects=0)
    return load_source(url, urls=urls).png


def engines() -> list[VariationEngine]:
    """Our engines satisfy the Protocol."""
    return [InstantEngine(), LocalEngine(seed=1, strength=0.3, threads=2, progress=print)]


class MyAsyncEngine:
    """An engine of one's own, async."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer with no picture."""
        return ImagesResponse(created=0)


def tools(engine: AsyncVariationEngine) -> list[BaseTool]:
    """A tool takes a name, an engine or an async engine."""
    return [
        ImageVariationTool(),
        ImageVariationTool(engine=MyAsyncEngine(), root_dir=Path("photos"), max_n=4),
        ImageVariationTool(engine=engine, fixed_size="256x256"),
    ]
