import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import (
    DownloadError,
    ExpiredURLError,
    OutputError,
    SourceError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.png import SquarePNG
from tests.calling import (
    BASE_URL,
    PNG,
    Caller,
    answering,
    b64,
    ok,
    parts,
    success,
)

EXPIRED = (
    b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server "
    b"failed to authenticate the request.</Message><AuthenticationErrorDetail>Signature not valid "
    b"in the specified time frame: Start [a] - Expiry [b] - Current [c]"
    b"</AuthenticationErrorDetail></Error>"
)


def urls(*addresses: str) -> httpx.Response:
    """Return a success that gives addresses."""
    entries = [{"url": address, "b64_json": None} for address in addresses]
    return ok(json.dumps({"created": 1, "data": entries}).encode())


def test_results_on_the_server_itself_are_downloaded_at_once(call: Caller) -> None:
    """From the server that made them, wherever that is, and without the key."""
    url = "https://pictures.example/files/a.png?sig=1"
    handler, seen = answering(urls(url), httpx.Response(200, content=PNG))
    (image,) = call(handler, api_key="sk-1").data
    assert image.url == url
    assert image.read() == PNG
    assert [request.method for request in seen] == ["POST", "GET"]
    assert seen[1].url == url
    assert "authorization" not in seen[1].headers


def test_a_redirect_on_the_server_itself_is_followed(call: Caller) -> None:
    """And one to another host only as the policy allows."""
    url = "https://pictures.example/files/a.png"
    moved = httpx.Response(302, headers={"location": "/b.png"})
    handler, seen = answering(urls(url), moved, httpx.Response(200, content=PNG))
    assert call(handler).data[0].read() == PNG
    assert seen[-1].url == "https://pictures.example/b.png"
    assert seen[-1].headers["accept-encoding"] == "identity"
    away = httpx.Response(302, headers={"location": "http://127.0.0.1/x"})
    (image,) = call(answering(urls(url), away)[0]).data
    with pytest.raises(DownloadError, match="ask for response_format 'b64_json'"):
        image.read()
    endless = httpx.Response(302, headers={"location": "/a.png"})
    (image,) = call(answering(urls(url), endless)[0]).data
    with pytest.raises(DownloadError, match="redirects"):
        image.read()


def test_names_of_this_machine_are_one_server(call: Caller) -> None:
    """A server on loopback may call itself by another name than the client does."""
    url = "http://127.0.0.1:8000/a.png"
    handler, _ = answering(urls(url), httpx.Response(200, content=PNG))
    assert call(handler, base_url="http://localhost:8000/v1").data[0].read() == PNG


def test_a_failed_download_holds_nothing_back(call: Caller) -> None:
    """Each reader gets an error of its own, without what had been read."""
    policy = URLPolicy(hosts=None, max_bytes=100)
    long = httpx.Response(200, content=bytes(10_000))
    url = "https://pictures.example/a.png"
    (image,) = call(answering(urls(url), long)[0], result_urls=policy).data
    errors = []
    for _ in range(2):
        with pytest.raises(DownloadError, match="100 bytes") as caught:
            image.read()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert len(caught.traceback) == 2


def test_an_expired_address_is_its_own_error(call: Caller) -> None:
    """The vendor's storage answers 403 with XML; the answer itself is not lost."""
    url = "https://pictures.example/files/a.png"
    gone = httpx.Response(403, content=EXPIRED, headers={"content-type": "application/xml"})
    (image,) = call(answering(urls(url), gone)[0]).data
    assert image.url == url
    with pytest.raises(ExpiredURLError):
        image.read()


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "http://other.example/a.png",
        "https://pictures.example:8443/a.png",
        "http://pictures.example/a.png",
    ],
)
def test_an_address_of_another_host_is_held_to_the_address_policy(call: Caller, url: str) -> None:
    """A server cannot make the client fetch from inside its own network."""
    handler, seen = answering(urls(url))
    (image,) = call(handler).data
    with pytest.raises(DownloadError):
        image.read()
    assert len(seen) == 1


def test_the_path_of_a_file_on_the_server_says_what_to_ask_for(call: Caller) -> None:
    """One known server answers so."""
    (image,) = call(answering(urls("/srv/xinference/image/ab.jpg"))[0]).data
    with pytest.raises(OutputError, match="ask for response_format 'b64_json'"):
        image.read()


def test_a_data_url_is_read(call: Caller) -> None:
    """Without any traffic."""
    (image,) = call(answering(urls(f"data:image/png;base64,{b64()}"))[0], normalize=True).data
    assert image.url is not None
    assert base64.b64decode(image.url.partition(",")[2]) == image.read()
    assert SquarePNG(image.read()).side == 256


def test_one_failed_download_does_not_cost_the_others(call: Caller) -> None:
    """Each result stands for itself."""
    addresses = [f"https://pictures.example/{index}.png" for index in range(3)]
    picture = httpx.Response(200, content=PNG)
    handler, _ = answering(urls(*addresses), picture, httpx.Response(404), picture)
    first, second, third = call(handler, {"n": 3}).data
    assert first.read() == third.read() == PNG
    with pytest.raises(DownloadError, match="404"):
        second.read()


def test_a_picture_by_url_needs_a_policy() -> None:
    """`urls` is handed to `load_source`; none of its hosts is, and nothing is sent."""
    handler, seen = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        settings: dict[str, Any] = {"base_url": BASE_URL, "http_client": http_client}
        image = "https://images.example/a.png"
        with pytest.raises(SourceError, match="URLs are not fetched"):
            ImageVariationClient(**settings).images.create_variation(image=image)
        there = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
        policy = URLPolicy(
            hosts=["images.example"], resolve=lambda host, port: ["93.184.216.34"], transport=there
        )
        client = ImageVariationClient(**settings, urls=policy)
        client.images.create_variation(image=image)
    assert parts(seen[0])[-1][2] == PNG


async def test_ten_calls_at_once_share_a_client() -> None:
    """Each gets its own answer."""

    def handler(request: httpx.Request) -> httpx.Response:
        n = int(parts(request)[1][2])
        return ok(success(n))

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        client = AsyncImageVariationClient(base_url=BASE_URL, http_client=http_client)
        calls = [
            client.create_variation(CreateImageVariationRequest(image=SquarePNG(PNG), n=n))
            for n in range(1, 11)
        ]
        answers = await asyncio.gather(*calls)
    assert [len(answer.data) for answer in answers] == list(range(1, 11))
