"""The public API as a typed program uses it. This file is type-checked and never run."""

from datetime import timedelta
from pathlib import Path

import httpx
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from pydantic import SecretStr

from langchain_image_variation import (
    AsyncImageVariationClient,
    AsyncVariationEngine,
    ContactSheet,
    CreateImageVariationRequest,
    Image,
    ImagesResponse,
    ImageVariationClient,
    ImageVariationError,
    ImageVariationMiddleware,
    ImageVariationTool,
    ImageVariationToolSpec,
    Progress,
    SquarePNG,
    URLPolicy,
    VariationBatch,
    VariationEngine,
    call_engine,
    call_engine_async,
    check_cancellation,
    check_model,
    cut_back,
    decode_png,
    encode_png,
    load_engine,
    load_source,
    progress_reporter,
    save_images,
)
from langchain_image_variation.contract import Usage
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.hosted.variations import VariationsEngine
from langchain_image_variation.output import SavedImage


def batch_rows(columns: dict[str, list[object]]) -> list[str]:
    """Run a batch of rows."""
    batch = VariationBatch("out", engine="local", options={"strength": 0.2}, size="256x256")
    out = batch(columns)
    return [str(path) for path in out["output_path"]]


def library(path: Path) -> list[SavedImage]:
    """Go all the way from a source to files."""
    source = load_source(path, fit="keep")
    png: SquarePNG = source.png
    request = CreateImageVariationRequest(image=png, n=2, size="512x512")
    engine: VariationEngine = load_engine("local", seed=7, strength=0.5)
    response: ImagesResponse = cut_back(engine.create_variation(request), source)
    ContactSheet(png, response).save("out", name=source.name)
    ContactSheet(source, response).save("out", name=source.name)
    return save_images(response, "out", name=source.name)


def by_url(url: str) -> SquarePNG:
    """Load an image from an allowed host."""
    urls = URLPolicy(hosts={"images.example.com"}, max_bytes=2**20, timeout=5, max_redirects=0)
    return load_source(url, urls=urls).png


def engines() -> list[VariationEngine]:
    """Our engines satisfy the Protocol."""
    return [
        InstantEngine(),
        LocalEngine(seed=1, strength=0.3, threads=2),
        ImageVariationClient(base_url="http://127.0.0.1:8000/v1"),
        VariationsEngine(server="deepinfra", api_key=SecretStr("KEY"), deadline=120),
        GptImageEngine(
            prompt="As a woodcut", input_fidelity="low", extra_fields={"quality": "low"}
        ),
    ]


def client(photo: Path) -> list[bytes]:
    """Call a server as the SDK does, and handle its errors."""
    with (
        httpx.Client(proxy="http://127.0.0.1:3128") as http_client,
        ImageVariationClient(max_retries=5, timeout=60, http_client=http_client) as client,
        open(photo, "rb") as file,
    ):
        try:
            answer = client.images.create_variation(image=file, n=2, size="512x512")
        except RateLimitError as error:
            seconds: float | None = error.retry_after
            print(seconds)
            raise
        except ImageVariationError as error:
            status: int = error.status_code
            request_id: str | None = error.request_id
            print(status, request_id)
            raise
    usage: Usage | None = answer.usage
    print(usage, answer.request_id)
    return [image.read() for image in answer.data]


async def async_client(photo: bytes) -> ImagesResponse:
    """Do the same with the async client."""
    async with AsyncImageVariationClient(base_url="http://127.0.0.1:8000/v1", timeout=60) as client:
        engine: AsyncVariationEngine = client
        print(engine)
        return await client.images.create_variation(image=("a.png", photo), response_format="url")


def client_in_the_shape_of_the_sdk(photo: bytes) -> ImagesResponse:
    """Headers, query and options of the SDK."""
    client = ImageVariationClient(
        base_url=httpx.URL("http://127.0.0.1:8000/v1"),
        timeout=httpx.Timeout(60, connect=5),
        default_headers={"X-Team": "a", "api-key": SecretStr("KEY")},
        default_query={"api-version": "1"},
    )
    copy: ImageVariationClient = client.with_options(timeout=None, max_retries=5, deadline=None)
    return copy.images.create_variation(
        image=photo,
        extra_headers={"X-Trace": "1"},
        extra_query={"tags": ["a", "b"]},
        extra_body={"steps": 4, "style": {"name": "woodcut"}},
        timeout=5,
    )


class MyEngine:
    """A custom engine that uses all that its author may need."""

    models = ("dall-e-2", "mine")

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the image, resized."""
        check_model(request.model, self.models)
        reporter = progress_reporter()
        pngs: list[bytes] = []
        for _ in range(request.n):
            check_cancellation()
            pngs.append(encode_png(decode_png(request.image).resize((request.side, request.side))))
            reporter.image_finished()
        return ImagesResponse.from_pngs(pngs, response_format=request.response_format)


async def calls(request: CreateImageVariationRequest) -> list[Image]:
    """Call sync and async engines, and follow their progress."""

    def show(progress: Progress) -> None:
        print(progress.finished, progress.n, progress.share)

    response = call_engine(MyEngine(), request, progress=show)
    return [*response.data, *(await call_engine_async(MyAsyncEngine(), request)).data]


class MyAsyncEngine:
    """A custom async engine whose results can be cached."""

    @property
    def fingerprint(self) -> str:
        """Return what its images depend on."""
        return "1"

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return a response without images."""
        return ImagesResponse(created=0)


def tools(engine: AsyncVariationEngine) -> list[BaseTool]:
    """Pass the name of an engine, an engine or an async engine to a tool."""
    return [
        ImageVariationTool(),
        ImageVariationTool(engine=MyAsyncEngine(), root_dir=Path("photos"), max_n=4),
        ImageVariationTool(engine=engine, fixed_size="256x256"),
        ImageVariationTool(
            output_dir="s3://bucket/prefix", storage_options={"anon": False}, cache=True
        ),
        ImageVariationTool(
            public_url="https://files.example.com/variations",
            max_uploads=10,
            max_upload_age=timedelta(days=30),
            raise_on=(RateLimitError,),
        ),
    ]


def agent(model: BaseChatModel) -> object:
    """Give the tool and the middleware to an agent."""
    tool = ImageVariationTool(raise_on=())
    return create_agent(model, [tool], middleware=[ImageVariationMiddleware(tool)])


def tool_spec() -> list[str | None]:
    """Pass the same settings to a tool spec, which returns a list of tools."""
    spec = ImageVariationToolSpec(engine=MyAsyncEngine(), root_dir=Path("photos"), max_n=4)
    return [tool.metadata.name for tool in spec.to_tool_list()]
