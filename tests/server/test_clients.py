"""Real clients that call the app over a real socket."""

import asyncio
import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    ExpiredURLError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import non_square_png, square_png
from tests.server.serving import MoodyEngine, check_image, serving

KEY = "sk-right"
PATH = "/v1/images/variations"
SIZES = ("256x256", "512x512", "1024x1024")

# The SDK marks the call as deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app that requires a key."""
    folder = tmp_path_factory.mktemp("store")
    with serving(create_app(MoodyEngine(), api_key=KEY, store_dir=folder, queue=100)) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A square PNG on disk."""
    path = tmp_path / "image.png"
    path.write_bytes(square_png(64))
    return path


def check_response(response: Any, n: int, size: str, response_format: str) -> None:
    """Check an SDK's response, and every image in it."""
    assert len(response.data) == n
    for item in response.data:
        assert (item.b64_json is None) == (response_format == "url")
        assert (item.url is None) == (response_format == "b64_json")
        check_image(item.url or item.b64_json, size)


CALLS = [
    (n, size, response_format)
    for n in (1, 10)
    for size in SIZES
    for response_format in ("url", "b64_json")
]


def test_the_vendors_sdk_works(address: str, photo: Path) -> None:
    """Each response format, number and size works with the vendor's SDK."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as sdk:
        for n, size, response_format in CALLS:
            response = sdk.images.create_variation(
                image=photo,
                n=n,
                size=size,  # type: ignore[arg-type]  # one of the three
                response_format=response_format,  # type: ignore[arg-type]  # one of the two
            )
            check_response(response, n, size, response_format)
        assert [model.id for model in sdk.models.list()] == ["dall-e-2", "instant"]
        assert sdk.models.retrieve("instant").id == "instant"


@pytest.mark.parametrize("transport", ["httpx2", "aiohttp"])
async def test_the_vendors_async_sdk_works(address: str, photo: Path, transport: str) -> None:
    """Concurrent calls of the vendor's async SDK work with each of its transports."""
    http_client = openai.DefaultAioHttpClient() if transport == "aiohttp" else None
    async with openai.AsyncOpenAI(
        base_url=f"{address}/v1", api_key=KEY, http_client=http_client
    ) as sdk:
        calls = [
            sdk.images.create_variation(
                image=photo,
                n=n,
                size=size,  # type: ignore[arg-type]  # one of the three
                response_format=response_format,  # type: ignore[arg-type]  # one of the two
            )
            for n, size, response_format in CALLS
        ]
        for response, call in zip(await asyncio.gather(*calls), CALLS, strict=True):
            await asyncio.to_thread(check_response, response, *call)


@pytest.mark.slow
async def test_the_async_sdk_raises_its_exceptions(address: str, photo: Path) -> None:
    """The async SDK has an exception for each status, and retries after 429 and 500."""
    # At the same time, because both wait for a second.
    await asyncio.gather(
        *(_check_exceptions(address, photo, name) for name in ("httpx2", "aiohttp"))
    )


async def _check_exceptions(address: str, photo: Path, transport: str) -> None:
    http_client = openai.DefaultAioHttpClient() if transport == "aiohttp" else None
    async with openai.AsyncOpenAI(
        base_url=f"{address}/v1", api_key=KEY, http_client=http_client, max_retries=0
    ) as sdk:
        vary, wrong = sdk.images.create_variation, sdk.with_options(api_key="sk-wrong")
        patient = sdk.with_options(max_retries=1).images.create_variation
        calls = [
            vary(image=photo, size="1x1"),  # type: ignore[arg-type]  # as a user could by mistake
            wrong.images.create_variation(image=photo),
            sdk.models.retrieve("gpt-9"),
            vary(image=photo, user=f"limit-raised-{transport}"),
            vary(image=photo, user=f"fail-raised-{transport}"),
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [
            openai.BadRequestError,
            openai.AuthenticationError,
            openai.NotFoundError,
            openai.RateLimitError,
            openai.InternalServerError,
        ]
        retries = [patient(image=photo, user=f"{what}-{transport}") for what in ("limit", "fail")]
        for response in await asyncio.gather(*retries):
            await asyncio.to_thread(check_response, response, 1, "1024x1024", "url")


def test_the_sdk_sends_every_kind_of_image(address: str, photo: Path) -> None:
    """Bytes, files, BytesIO and tuples work, as the SDK's users pass them."""
    named_file = io.BytesIO(photo.read_bytes())
    named_file.name = "x.png"
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as sdk, open(photo, "rb") as file:
        data = photo.read_bytes()
        for image in (data, io.BytesIO(data), named_file, file, ("a.png", data, "image/png")):
            assert len(sdk.images.create_variation(image=image, size="256x256").data or []) == 1


def test_the_sdk_raises_its_exceptions(address: str, photo: Path) -> None:
    """The SDK has an exception for each status, which shows our error."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as sdk:
        with pytest.raises(openai.BadRequestError, match="square") as bad:
            sdk.images.create_variation(image=non_square_png())
        assert (bad.value.param, bad.value.type) == ("image", "invalid_request_error")
        assert bad.value.request_id is not None
        with pytest.raises(openai.AuthenticationError) as wrong:
            sdk.with_options(api_key="sk-wrong").images.create_variation(image=photo)
        assert wrong.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("gpt-9")
        with pytest.raises(openai.RateLimitError) as limit:
            sdk.images.create_variation(image=photo, user="limit-sdk-raises")
        assert limit.value.code == "rate_limit_exceeded"
        with pytest.raises(openai.InternalServerError):
            sdk.images.create_variation(image=photo, user="fail-sdk-raises")


@pytest.mark.slow
def test_the_sdk_retries(address: str, photo: Path) -> None:
    """After 429 and 500, the SDK retries and gets its images."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=1) as sdk:

        def ask(user: str) -> None:
            check_response(
                sdk.images.create_variation(image=photo, user=user), 1, "1024x1024", "url"
            )

        # At the same time, because both wait for a while.
        with ThreadPoolExecutor() as pool:
            list(pool.map(ask, ("limit-sdk-retries", "fail-sdk-retries")))


def test_our_client_keeps_images_and_errors(address: str, photo: Path) -> None:
    """Results of our client are downloaded already, and our errors keep their classes."""
    with ImageVariationClient(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        for n, size, response_format in CALLS:
            answer = client.images.create_variation(
                image=photo,
                n=n,
                size=size,  # type: ignore[arg-type]  # one of the three
                response_format=response_format,  # type: ignore[arg-type]  # one of the two
            )
            sides = [SquarePNG(image.read()).side for image in answer.data]
            assert [f"{side}x{side}" for side in sides] == [size] * n
            assert answer.request_id is not None
        with pytest.raises(RateLimitError) as limit:
            client.images.create_variation(image=photo, user="limit-ours")
        assert limit.value.retry_after == 1
        with pytest.raises(EngineError):
            client.images.create_variation(image=photo, user="fail-ours")
        with pytest.raises(InvalidRequestError, match="does not exist here"):
            client.images.create_variation(image=photo, model="gpt-9")
    with ImageVariationClient(base_url=f"{address}/v1", api_key="x") as client:
        with pytest.raises(AuthenticationError):
            client.images.create_variation(image=photo)
    with ImageVariationClient(base_url=f"{address}/v2", api_key=KEY) as client:
        with pytest.raises(NotFoundError):
            client.images.create_variation(image=photo)


async def test_our_async_client_retries_refused_calls(address: str, photo: Path) -> None:
    """Of fifty calls at once, our async client retries those that are refused."""
    client = AsyncImageVariationClient(base_url=f"{address}/v1", api_key=KEY)
    async with client:
        calls = [client.images.create_variation(image=photo, size="256x256") for _ in range(50)]
        answers = await asyncio.gather(*calls)
    assert {SquarePNG(answer.data[0].read()).side for answer in answers} == {256}


def test_an_expired_result_is_its_own_error(tmp_path: Path, photo: Path) -> None:
    """Our client recognizes the 403 of an expired result like the vendor's."""
    with serving(create_app("instant", store_dir=tmp_path / "store", url_ttl=0.001)) as address:
        with ImageVariationClient(base_url=f"{address}/v1") as client:
            answer = client.images.create_variation(image=photo)
            with pytest.raises(ExpiredURLError):
                answer.data[0].read()


def curl(url: str, *options: str, key: str = KEY) -> subprocess.CompletedProcess[bytes]:
    """Run curl, as in the vendor's reference."""
    command = ["curl", "--silent", "--fail", url, "-H", f"Authorization: Bearer {key}", *options]
    return subprocess.run(command, capture_output=True, timeout=30)


SAY = ("-w", "%{http_code}")
CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@CURL
def test_curl_works(address: str, photo: Path) -> None:
    """Each response format, number and size works with curl."""
    for n, size, form in CALLS:
        fields = [f"image=@{photo}", f"n={n}", f"size={size}", f"response_format={form}"]
        process = curl(
            f"{address}{PATH}", *(option for field in fields for option in ("-F", field))
        )
        answer = ImagesResponse.from_json(process.stdout)
        check_response(answer, n, size, form)
        assert answer.created is not None
        assert abs(answer.created - time.time()) < 60


@pytest.mark.slow
@CURL
def test_curl_shows_failures_and_retries(address: str, photo: Path) -> None:
    """For a failure, curl shows the status, and it can retry after 429 and 500."""
    url, image = f"{address}{PATH}", ["-F", f"image=@{photo}"]
    for status, process in (
        (400, curl(url, *image, "-F", "n=11", *SAY)),
        (401, curl(url, *image, *SAY, key="sk-wrong")),
        (404, curl(f"{address}/v1/models/gpt-9", *SAY)),
        (429, curl(url, *image, "-F", "user=limit-curl-fails", *SAY)),
        (500, curl(url, *image, "-F", "user=fail-curl-fails", *SAY)),
    ):
        assert (process.returncode, int(process.stdout)) == (22, status)

    def ask(user: str) -> None:
        process = curl(url, "--retry", "1", *image, "-F", f"user={user}")
        check_response(ImagesResponse.from_json(process.stdout), 1, "1024x1024", "url")

    # At the same time, because both wait for a while.
    with ThreadPoolExecutor() as pool:
        list(pool.map(ask, ("limit-curl-retries", "fail-curl-retries")))
