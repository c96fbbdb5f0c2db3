"""The kit's classes check our own server, clients and engines."""

import asyncio
import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.hosted.variations import VariationsEngine
from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import (
    Capabilities,
    ClientConformanceTests,
    EngineConformanceTests,
    Server,
    ServerConformanceTests,
)
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import parameters
from pytest_image_variation.conformance.server_probe import ServerProbe
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.forms import Form
from pytest_image_variation.loopback import Loopback
from tests.server.serving import serving

EXPIRY = parameters(SERVER_RULES[id] for id in ("url-expires", "url-expires-in-words"))


class TestServer(ServerConformanceTests):
    """The app on a real socket, with a key."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """An app with a key."""
        store = tmp_path_factory.mktemp("store")
        with serving(create_app("instant", api_key="sk-ours", store_dir=store)) as address:
            yield Server(f"{address}/v1", api_key="sk-ours")


class TestServerWithExpiredURLs(ServerConformanceTests):
    """The app whose URLs expire at once, for the rules about expiry."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """An app whose URLs have expired by the time the response arrives."""
        app = create_app("instant", store_dir=tmp_path_factory.mktemp("store"), url_ttl=0.001)
        with serving(app) as address:
            yield Server(f"{address}/v1", capabilities=Capabilities(url_ttl=0.001))

    @pytest.mark.parametrize("rule", EXPIRY)
    def test_rule(
        self, rule: Rule[ServerProbe], server: Server, request: pytest.FixtureRequest
    ) -> None:
        """The server follows the rules about expiry."""
        super().test_rule(rule, server, request)


@pytest.fixture(params=["sync", "async"])
def client_kind(request: pytest.FixtureRequest) -> str:
    """Which of our clients to check."""
    return str(request.param)


class TestClients(ClientConformanceTests):
    """Our clients, sync and async."""

    @pytest.fixture
    def create_variation(self, client_kind: str) -> Callable[..., list[bytes]]:
        """The function that calls the client."""
        return _sync if client_kind == "sync" else _async


def _settings(base_url: str, api_key: str) -> dict[str, Any]:
    return {"base_url": base_url, "api_key": api_key, "max_retries": 1}


def _sync(base_url: str, api_key: str, image: bytes, **fields: Any) -> list[bytes]:
    with ImageVariationClient(**_settings(base_url, api_key)) as client:
        answer = client.images.create_variation(image=image, **fields)
        return [entry.read() for entry in answer.data]


def _async(base_url: str, api_key: str, image: bytes, **fields: Any) -> list[bytes]:
    async def ask() -> list[bytes]:
        async with AsyncImageVariationClient(**_settings(base_url, api_key)) as client:
            answer = await client.images.create_variation(image=image, **fields)
            return [entry.read() for entry in answer.data]

    return asyncio.run(ask())


class TestInstantEngine(EngineConformanceTests):
    """The engine for tests."""

    deterministic = True

    @pytest.fixture
    def engine(self) -> InstantEngine:
        """The engine."""
        return InstantEngine()


@pytest.mark.slow
class TestLocalEngine(EngineConformanceTests):
    """The engine that makes real variations."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> LocalEngine:
        """The engine with a seed, so that each response is the same."""
        return LocalEngine(seed=1)


@pytest.fixture(scope="module")
def client_settings(image_variation_loopback: Loopback) -> Iterator[dict[str, Any]]:
    """The settings for a client of our own server."""
    with image_variation_loopback.view() as view:
        yield _settings(view.base_url, view.api_key)


class TestClientAsEngine(EngineConformanceTests):
    """Our client is an engine too."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, client_settings: dict[str, Any]) -> Iterator[ImageVariationClient]:
        """A client of our server."""
        with ImageVariationClient(**client_settings) as client:
            yield client


class TestAsyncClientAsEngine(EngineConformanceTests):
    """Our async client is an async engine too."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, client_settings: dict[str, Any]) -> AsyncImageVariationClient:
        """A client of our server. It keeps no connections, as each test has its own loop."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return AsyncImageVariationClient(
            **client_settings, http_client=httpx.AsyncClient(limits=limits)
        )


class TestVariationsEngine(EngineConformanceTests):
    """The engine that uses a server."""

    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, client_settings: dict[str, Any]) -> Iterator[VariationsEngine]:
        """The engine with our server."""
        engine = VariationsEngine(**client_settings)
        yield engine
        engine.close()


class TestGptImageEngine(EngineConformanceTests):
    """The engine that requests edits."""

    # The model's own smallest size comes first.
    capabilities = Capabilities(sizes=("1024x1024", "512x512", "256x256"))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[GptImageEngine]:
        """The engine with a model of the vendor's server."""
        with httpx.Client(transport=httpx.MockTransport(_edits)) as http_client:
            yield GptImageEngine(
                base_url="https://pictures.example/v1", api_key="sk-1", http_client=http_client
            )


def _edits(request: httpx.Request) -> httpx.Response:
    """Respond to a request for edits as the vendor does: 1024-pixel images as base64."""
    form = Form.parse(request.headers["content-type"], request.read())
    if form.fields["model"] != "gpt-image-2":
        error = {"message": "No such model.", "type": "image_generation_user_error"}
        body = {"error": {**error, "param": "model", "code": "invalid_value"}}
        return httpx.Response(400, json=body)
    assert form.image is not None
    seed = int(hashlib.sha256(form.image.content).hexdigest()[:4], 16)
    entries = []
    for index in range(int(form.fields["n"])):
        buffer = io.BytesIO()
        color = (seed % 256, seed // 256, index)
        Image.new("RGB", (1024, 1024), color).save(buffer, "PNG", compress_level=1)
        entries.append({"b64_json": base64.b64encode(buffer.getvalue()).decode()})
    return httpx.Response(200, json={"created": 1, "data": entries})
