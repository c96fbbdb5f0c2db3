import base64
import json
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.hosted.known_servers import SERVERS
from langchain_image_variation.hosted.variations import VariationsEngine
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import jpeg
from tests.calling import PNG, Handler, answering, b64, success


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "DEEPINFRA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def make_engine(handler: Handler, **options: Any) -> VariationsEngine:
    """Return an engine whose server is `handler`."""
    transport = httpx.MockTransport(handler)
    engine = load_engine("variations", http_client=httpx.Client(transport=transport), **options)
    assert isinstance(engine, VariationsEngine)
    return engine


def request(**fields: Any) -> CreateImageVariationRequest:
    """Return a small request."""
    arguments = {
        "image": SquarePNG(PNG),
        "size": "256x256",
        "response_format": "b64_json",
        **fields,
    }
    return CreateImageVariationRequest(**arguments)


def field(http_request: httpx.Request, name: str) -> str:
    """Return a field of the form in a request."""
    return (
        http_request.content.partition(f'name="{name}"\r\n\r\n'.encode())[2]
        .split(b"\r\n")[0]
        .decode()
    )


def test_any_server_can_be_used_by_its_address() -> None:
    """Any server's results become PNG of the requested size, whatever their format and size."""
    handler, requests = answering(httpx.Response(200, content=success(2, jpeg())))
    engine = make_engine(handler, base_url="https://pictures.example/v1", model="m")
    assert isinstance(engine, VariationEngine)
    answer = engine.create_variation(request(n=2))
    assert [SquarePNG(image.read()).side for image in answer.data] == [256, 256]
    assert requests[0].url == "https://pictures.example/v1/images/variations"
    assert field(requests[0], "model") == "m"


@pytest.mark.parametrize("name", SERVERS)
def test_a_known_server_is_used_by_name(name: str) -> None:
    """The name of a known server sets its address, its model and the form of its results."""
    server = SERVERS[name]
    handler, requests = answering(httpx.Response(200, content=success()))
    options = {} if server.base_url else {"base_url": "https://gateway.example/v1"}
    engine = make_engine(handler, server=name, model=None if server.model else "own", **options)
    answer = engine.create_variation(request(response_format="url"))
    assert str(requests[0].url).startswith(server.base_url or "https://gateway.example/v1")
    assert field(requests[0], "model") == (server.model or "own")
    assert field(requests[0], "response_format") == (server.response_format or "url")
    if server.response_format == "b64_json":
        url = answer.data[0].url
        assert url is not None
        assert SquarePNG(base64.b64decode(url.removeprefix("data:image/png;base64,"))).side == 256
        assert answer.data[0].b64_json is None


@pytest.mark.parametrize(
    "settings", [{"server": "deepinfra"}, {"base_url": "https://API.deepinfra.com/v1/openai"}]
)
def test_an_unsupported_request_is_not_sent(settings: dict[str, str]) -> None:
    """A request that a known server does not support is not sent."""
    handler, requests = answering(httpx.Response(200, content=success(4)))
    engine = make_engine(handler, **settings)
    with pytest.raises(InvalidRequestError, match=r"DeepInfra makes at most 4 .*, got n=5"):
        engine.create_variation(request(n=5))
    assert (requests, engine.max_n) == ([], 4)
    engine.create_variation(request(n=4))
    assert field(requests[0], "model") == "black-forest-labs/FLUX-1-Redux-dev"


@pytest.mark.parametrize("name", [name for name in SERVERS if SERVERS[name].needs_model])
def test_a_missing_model_is_refused(name: str) -> None:
    """Without a model nothing is sent, since the vendor's old model means nothing to the server."""
    handler, requests = answering(httpx.Response(200, content=success()))
    engine = make_engine(handler, server=name, base_url="https://gateway.example/v1")
    with pytest.raises(InvalidRequestError, match="needs the name of one of its models") as caught:
        engine.create_variation(request())
    assert caught.value.param == "model"
    assert requests == []
    engine.create_variation(request(model="own"))
    assert field(requests[0], "model") == "own"


def test_an_unreadable_result_keeps_the_others() -> None:
    """An unreadable result raises the reason when it is read, and the others are still there."""
    entries = [{"url": "/srv/image/a.jpg"}, {"b64_json": b64(jpeg())}, {"b64_json": b64()[:60]}]
    body = json.dumps({"created": 1, "data": entries}).encode()
    engine = make_engine(
        answering(httpx.Response(200, content=body))[0], base_url="https://x.example"
    )
    path_image, good_image, corrupt_image = engine.create_variation(request(n=3)).data
    assert SquarePNG(good_image.read()).side == 256
    with pytest.raises(OutputError, match="ask for response_format 'b64_json'"):
        path_image.read()
    with pytest.raises(OutputError):
        corrupt_image.read()


def test_a_known_server_never_gets_the_vendors_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known server gets no OPENAI_* settings, and other servers get those that are set."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-vendor")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-vendor")
    handler, requests = answering(httpx.Response(200, content=success()))
    make_engine(handler, server="deepinfra").create_variation(request())
    make_engine(handler, server="xinference", model="m").create_variation(request())
    for http_request in requests:
        assert "authorization" not in http_request.headers
        assert "openai-organization" not in http_request.headers
    monkeypatch.setenv("DEEPINFRA_API_KEY", "di-1")
    make_engine(handler, server="deepinfra").create_variation(request())
    make_engine(handler, server="deepinfra", api_key="di-2").create_variation(request())
    make_engine(handler, base_url="https://gateway.example/v1").create_variation(request())
    keys = [http_request.headers["authorization"] for http_request in requests[2:]]
    assert keys == ["Bearer di-1", "Bearer di-2", "Bearer sk-vendor"]


def test_an_unknown_server_is_refused() -> None:
    """The error for an unknown server lists the known servers."""
    with pytest.raises(InvalidRequestError, match="'deepinfra', 'lemonade', 'stdapi'"):
        load_engine("variations", server="x")


def test_there_is_no_default_server() -> None:
    """Without an address, the engine is refused like the client."""
    with pytest.raises(InvalidRequestError, match="There is no default server"):
        load_engine("variations")
