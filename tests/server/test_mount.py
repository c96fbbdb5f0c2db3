"""The app below a path: mounted in another app, or behind a proxy that strips a prefix."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.server.serving import check_image, serving
from tests.server.test_hosts import running

# The SDK marks the call as deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@pytest.fixture
def mount_address(tmp_path: Path) -> Iterator[str]:
    """The address of an app below `/img/v2` of another app, which is below `/api` of a third."""
    app: Any = create_app("instant", store_dir=tmp_path)
    for path in ("/img/v2", "/api"):
        app = Starlette(routes=[Mount(path, app)])
    with serving(app) as address:
        yield f"{address}/api/img/v2"


@pytest.fixture
def proxy_address(tmp_path: Path) -> Iterator[str]:
    """The address of a proxy that strips `/img` before `uvicorn --root-path /img`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["uvicorn", "tests.server.hosted:app", "--port", str(port), "--root-path", "/img"]

    async def forward(request: Request) -> Response:
        url = f"http://127.0.0.1:{port}/{request.path_params['path']}?{request.url.query}"
        async with httpx.AsyncClient() as client:
            answer = await client.request(
                request.method, url, headers=request.headers.raw, content=await request.body()
            )
        return Response(answer.content, answer.status_code, dict(answer.headers))

    proxy = Starlette(routes=[Route("/img/{path:path}", forward, methods=["GET", "POST"])])
    with running(command, tmp_path, ("127.0.0.1", port)), serving(proxy) as address:
        yield f"{address}/img"


@pytest.fixture(params=["mount_address", "proxy_address"])
def app_address(request: pytest.FixtureRequest) -> str:
    """The address of the app below a path."""
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.mark.mostly_slow("mount_address")
def test_urls_work_below_a_path(app_address: str) -> None:
    """The SDK's default response format works without `public_url`."""
    with openai.OpenAI(base_url=f"{app_address}/v1", api_key="any-text") as sdk:
        response = sdk.images.create_variation(
            image=square_png(8), n=2, size="256x256", response_format="url"
        )
    assert response.data is not None
    assert len(response.data) == 2
    for entry in response.data:
        assert entry.url is not None
        assert entry.url.startswith(f"{app_address}/files/")
        check_image(entry.url, "256x256")


@pytest.mark.mostly_slow("mount_address")
def test_openapi_names_the_path(app_address: str) -> None:
    """The document names the path, so that a generated client calls the app where it is."""
    document = httpx.get(f"{app_address}/openapi.json").json()
    origin = str(httpx.URL(app_address).copy_with(path="/")).rstrip("/")
    (server,) = document["servers"]
    assert origin + server["url"] == app_address
    assert httpx.get(f"{app_address}/v1/models").status_code == 200


@pytest.mark.mostly_slow("mount_address")
def test_metrics_count_below_a_path(app_address: str) -> None:
    """A request counts under the app's own path, not as "other"."""
    httpx.get(f"{app_address}/v1/models")
    line = 'image_variation_requests_total{path="/v1/models",status="200"} 1.0'
    # A request is counted once its answer is out.
    deadline = time.monotonic() + 20
    while line not in (text := httpx.get(f"{app_address}/metrics").text):
        assert time.monotonic() < deadline, text


async def test_a_path_with_odd_characters_is_encoded(tmp_path: Path) -> None:
    """A path with unusual characters is encoded in URLs."""
    app = Starlette(routes=[Mount("/bücher #1", create_app("instant", store_dir=tmp_path))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post(
            "/b%C3%BCcher%20%231/v1/images/variations", files={"image": square_png(8)}
        )
        url = answer.json()["data"][0]["url"]
        assert url.startswith("http://localhost/b%C3%BCcher%20%231/files/")
        assert (await client.get(url)).status_code == 200
        document = (await client.get("/b%C3%BCcher%20%231/openapi.json")).json()
        assert document["servers"] == [{"url": "/b%C3%BCcher%20%231"}]


async def test_openapi_names_the_public_url(tmp_path: Path) -> None:
    """`public_url` is where clients call the app; without a path, its own root is."""
    for public_url, servers in (
        ("https://img.example/api/", "https://img.example/api"),
        (None, "/"),
    ):
        app = create_app("instant", store_dir=tmp_path, public_url=public_url)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            document = (await client.get("/openapi.json")).json()
        assert document["servers"] == [{"url": servers}]
