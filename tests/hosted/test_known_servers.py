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
    """The caller's environment takes no part."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "DEEPINFRA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def made(handler: Handler, **options: Any) -> VariationsEngine:
    """Return an engine whose server is `handler`."""
    transport = httpx.MockTransport(handler)
    engine = load_engine("variations", http_client=httpx.Client(transport=transport), **options)
    assert isinstance(engine, VariationsEngine)
    return engine


def request(**fields: Any) -> CreateImageVariationRequest:
    """Return a small request."""
    given = {"image": SquarePNG(PNG), "size": "256x256", "response_format": "b64_json", **fields}
    return CreateImageVariationRequest(**given)


def field(sent: httpx.Request, name: str) -> str:
    """Return a field of a form that was sent."""
    return sent.content.partition(f'name="{name}"\r\n\r\n'.encode())[2].split(b"\r\n")[0].decode()


def test_any_server_is_asked_by_its_address() -> None:
    """What it sends, of whatever format and size, comes back as PNG of the size asked for."""
    handler, seen = answering(httpx.Response(200, content=success(2, jpeg())))
    engine = made(handler, base_url="https://pictures.example/v1", model="m")
    assert isinstance(engine, VariationEngine)
    answer = engine.create_variation(request(n=2))
    assert [SquarePNG(image.read()).side for image in answer.data] == [256, 256]
    assert seen[0].url == "https://pictures.example/v1/images/variations"
    assert field(seen[0], "model") == "m"


@pytest.mark.parametrize("name", SERVERS)
def test_a_known_server_is_asked_as_it_needs(name: str) -> None:
    """By name alone, but for its own model's name: where it is, and for the form it can return."""
    server = SERVERS[name]
    handler, seen = answering(httpx.Response(200, content=success()))
    options = {} if server.base_url else {"base_url": "https://gateway.example/v1"}
    engine = made(handler, server=name, model=None if server.model else "own", **options)
    answer = engine.create_variation(request(response_format="url"))
    assert str(seen[0].url).startswith(server.base_url or "https://gateway.example/v1")
    assert field(seen[0], "model") == (server.model or "own")
    assert field(seen[0], "response_format") == (server.response_format or "url")
    if server.response_format == "b64_json":
        url = answer.data[0].url
        assert url is not None
        assert SquarePNG(base64.b64decode(url.removeprefix("data:image/png;base64,"))).side == 256
        assert answer.data[0].b64_json is None


@pytest.mark.parametrize(
    "settings", [{"server": "deepinfra"}, {"base_url": "https://API.deepinfra.com/v1/openai"}]
)
def test_what_a_known_server_cannot_do_is_refused_unsent(settings: dict[str, str]) -> None:
    """DeepInfra makes four a call; a hosted server is known by its address too."""
    handler, seen = answering(httpx.Response(200, content=success(4)))
    engine = made(handler, **settings)
    with pytest.raises(InvalidRequestError, match=r"DeepInfra makes at most 4 .*, got n=5"):
        engine.create_variation(request(n=5))
    assert seen == []
    engine.create_variation(request(n=4))
    assert field(seen[0], "model") == "black-forest-labs/FLUX-1-Redux-dev"


@pytest.mark.parametrize("name", [name for name in SERVERS if SERVERS[name].needs_model])
def test_a_server_that_needs_a_model_says_so_unsent(name: str) -> None:
    """The vendor's retired name would mean nothing to it."""
    handler, seen = answering(httpx.Response(200, content=success()))
    engine = made(handler, server=name, base_url="https://gateway.example/v1")
    with pytest.raises(InvalidRequestError, match="needs the name of one of its models") as caught:
        engine.create_variation(request())
    assert caught.value.param == "model"
    assert seen == []
    engine.create_variation(request(model="own"))
    assert field(seen[0], "model") == "own"


def test_a_result_that_cannot_be_read_does_not_cost_the_others() -> None:
    """It says so when it is read."""
    entries = [{"url": "/srv/image/a.jpg"}, {"b64_json": b64(jpeg())}, {"b64_json": b64()[:60]}]
    body = json.dumps({"created": 1, "data": entries}).encode()
    engine = made(answering(httpx.Response(200, content=body))[0], base_url="https://x.example")
    path, good, broken = engine.create_variation(request(n=3)).data
    assert SquarePNG(good.read()).side == 256
    with pytest.raises(OutputError, match="ask for response_format 'b64_json'"):
        path.read()
    with pytest.raises(OutputError):
        broken.read()


def test_a_known_server_gets_no_key_of_the_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor its organisation; a hosted one has a variable of its own. Others get what is set."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-vendor")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-vendor")
    handler, seen = answering(httpx.Response(200, content=success()))
    made(handler, server="deepinfra").create_variation(request())
    made(handler, server="xinference", model="m").create_variation(request())
    for sent in seen:
        assert "authorization" not in sent.headers
        assert "openai-organization" not in sent.headers
    monkeypatch.setenv("DEEPINFRA_API_KEY", "di-1")
    made(handler, server="deepinfra").create_variation(request())
    made(handler, server="deepinfra", api_key="di-2").create_variation(request())
    made(handler, base_url="https://gateway.example/v1").create_variation(request())
    keys = [sent.headers["authorization"] for sent in seen[2:]]
    assert keys == ["Bearer di-1", "Bearer di-2", "Bearer sk-vendor"]


def test_an_unknown_server_is_refused() -> None:
    """The message lists those that are known."""
    with pytest.raises(InvalidRequestError, match="'deepinfra', 'lemonade', 'stdapi'"):
        load_engine("variations", server="x")


def test_there_is_no_default_server() -> None:
    """Neither here."""
    with pytest.raises(InvalidRequestError, match="There is no default server"):
        load_engine("variations")
