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


def url_answer(*addresses: str) -> httpx.Response:
    """Return a success with URLs."""
    entries = [{"url": address, "b64_json": None} for address in addresses]
    return ok(json.dumps({"created": 1, "data": entries}).encode())


def test_results_on_the_server_are_downloaded(call: Caller) -> None:
    """A result is downloaded from the server that made it, without the key."""
    url = "https://pictures.example/files/a.png?sig=1"
    handler, requests = answering(url_answer(url), httpx.Response(200, content=PNG))
    (image,) = call(handler, api_key="sk-1").data
    assert image.url == url
    assert image.read() == PNG
    assert [request.method for request in requests] == ["POST", "GET"]
    assert requests[1].url == url
    assert "authorization" not in requests[1].headers


def test_a_redirect_on_the_server_is_followed(call: Caller) -> None:
    """A redirect on the server is followed, and one to another host must satisfy the policy."""
    url = "https://pictures.example/files/a.png"
    redirect = httpx.Response(302, headers={"location": "/b.png"})
    handler, requests = answering(url_answer(url), redirect, httpx.Response(200, content=PNG))
    assert call(handler).data[0].read() == PNG
    assert requests[-1].url == "https://pictures.example/b.png"
    assert requests[-1].headers["accept-encoding"] == "identity"
    foreign_redirect = httpx.Response(302, headers={"location": "http://127.0.0.1/x"})
    (image,) = call(answering(url_answer(url), foreign_redirect)[0]).data
    with pytest.raises(DownloadError, match="ask for response_format 'b64_json'"):
        image.read()
    for location in ("https://[::1", "https://xn--a/", "//\u2028/"):
        invalid_redirect = httpx.Response(302, headers={b"location": location.encode()})
        (image,) = call(answering(url_answer(url), invalid_redirect)[0]).data
        with pytest.raises(DownloadError):
            image.read()
    endless_redirect = httpx.Response(302, headers={"location": "/a.png"})
    (image,) = call(answering(url_answer(url), endless_redirect)[0]).data
    with pytest.raises(DownloadError, match="redirects"):
        image.read()


def test_names_of_loopback_are_one_server(call: Caller) -> None:
    """A server on loopback may use another name for itself than the client does."""
    url = "http://127.0.0.1:8000/a.png"
    handler, _ = answering(url_answer(url), httpx.Response(200, content=PNG))
    assert call(handler, base_url="http://localhost:8000/v1").data[0].read() == PNG


def test_a_failed_download_frees_its_memory(call: Caller) -> None:
    """Each reader of a failed download gets a new error, which does not hold what was read."""
    policy = URLPolicy(hosts=None, max_bytes=100)
    long_image = httpx.Response(200, content=bytes(10_000))
    url = "https://pictures.example/a.png"
    (image,) = call(answering(url_answer(url), long_image)[0], result_urls=policy).data
    errors = []
    for _ in range(2):
        with pytest.raises(DownloadError, match="100 bytes") as caught:
            image.read()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert len(caught.traceback) == 2


def test_an_expired_url_has_its_error(call: Caller) -> None:
    """An expired URL, a 403 with XML, has an error, and the rest of the answer is not lost."""
    url = "https://pictures.example/files/a.png"
    expired_answer = httpx.Response(
        403, content=EXPIRED, headers={"content-type": "application/xml"}
    )
    (image,) = call(answering(url_answer(url), expired_answer)[0]).data
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
        "https://xn--a/a.png",
        "https://xn--ls8h.xn--a/a.png",
        "https://[::1/a.png",
    ],
)
def test_a_url_of_another_host_follows_the_policy(call: Caller, url: str) -> None:
    """A URL of another host follows the policy, so that no server can use the client's network."""
    handler, requests = answering(url_answer(url))
    (image,) = call(handler).data
    with pytest.raises(DownloadError):
        image.read()
    assert len(requests) == 1


def test_a_path_as_url_is_refused_with_advice(call: Caller) -> None:
    """If a URL is a path on the server's disk, the error says which format to request."""
    (image,) = call(answering(url_answer("/srv/xinference/image/ab.jpg"))[0]).data
    with pytest.raises(OutputError, match="ask for response_format 'b64_json'"):
        image.read()


def test_a_data_url_is_read(call: Caller) -> None:
    """A data: URL is read without traffic."""
    (image,) = call(answering(url_answer(f"data:image/png;base64,{b64()}"))[0], normalize=True).data
    assert image.url is not None
    assert base64.b64decode(image.url.partition(",")[2]) == image.read()
    assert SquarePNG(image.read()).side == 256


def test_a_download_is_repeated_like_a_call(call: Caller) -> None:
    """A result is asked for again after a temporary failure, at most `max_retries` times."""
    url = "https://pictures.example/files/a.png"
    busy = httpx.Response(503, headers={"retry-after": "0.01"})
    handler, requests = answering(url_answer(url), busy, httpx.ReadError("reset"))
    (image,) = call(handler, max_retries=1).data
    with pytest.raises(DownloadError, match="could not be downloaded") as caught:
        image.read()
    assert type(caught.value) is DownloadError
    assert len(requests) == 3
    handler, requests = answering(url_answer(url), busy, httpx.Response(200, content=PNG))
    assert call(handler, max_retries=1).data[0].read() == PNG


def test_a_failed_download_keeps_the_others(call: Caller) -> None:
    """Each result is downloaded on its own, so a failure does not affect the others."""
    addresses = [f"https://pictures.example/{index}.png" for index in range(3)]
    download = httpx.Response(200, content=PNG)
    handler, _ = answering(url_answer(*addresses), download, httpx.Response(404), download)
    first, second, third = call(handler, {"n": 3}).data
    assert first.read() == third.read() == PNG
    with pytest.raises(DownloadError, match="404"):
        second.read()


def test_an_image_by_url_needs_a_policy() -> None:
    """Without a URL policy, an image by URL is refused, and nothing is sent."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        settings: dict[str, Any] = {"base_url": BASE_URL, "http_client": http_client}
        image = "https://images.example/a.png"
        with pytest.raises(SourceError, match="URLs are not fetched"):
            ImageVariationClient(**settings).images.create_variation(image=image)
        image_host = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
        policy = URLPolicy(
            hosts=["images.example"],
            resolve=lambda host, port: ["93.184.216.34"],
            transport=image_host,
        )
        client = ImageVariationClient(**settings, urls=policy)
        client.images.create_variation(image=image)
    assert parts(requests[0])[-1][2] == PNG


async def test_ten_calls_at_once_share_a_client() -> None:
    """Ten calls at once share a client, and each gets its own answer."""

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
