import asyncio
import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import (
    AuthenticationError,
    ContentPolicyError,
    EngineNotFoundError,
    InvalidRequestError,
    OutputError,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from langchain_image_variation.server.log import JSONLines
from pytest_image_variation.samples import (
    corrupt_png,
    jpeg,
    non_square_png,
    oversized_png,
    square_png,
    truncated_png,
)
from tests.images.scans import with_scans

PATH = "/v1/images/variations"
PNG = square_png(8)
KEYS = ["message", "type", "param", "code"]

Form = dict[str, Any]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with the instant engine, without a socket."""
    async with connected(tmp_path) as client:
        yield client


def connected(tmp_path: Path, engine: Any = "instant", **options: Any) -> httpx.AsyncClient:
    """Return a client of a new app, which may be called by the name that the client sends."""
    options.setdefault("hosts", ["pictures.example"])
    app = create_app(engine, store_dir=tmp_path / "store", **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pictures.example")


def picture(data: bytes = PNG, name: str = "a.png", kind: str = "image/png") -> Form:
    """Return the file part of a form."""
    return {"image": (name, data, kind)}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error in an answer, after checking its envelope."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == KEYS
    error: dict[str, Any] = body["error"]
    return error


# Successes...


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
@pytest.mark.parametrize("n", [1, 10])
async def test_b64_json(client: httpx.AsyncClient, n: int, size: str) -> None:
    """Exactly n pictures of exactly the size, and nothing else beside `created`."""
    form = {"n": str(n), "size": size, "response_format": "b64_json"}
    response = await client.post(PATH, data=form, files=picture())
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["created", "data"]
    assert isinstance(body["created"], int)
    assert [list(entry) for entry in body["data"]] == [["b64_json"]] * n
    for entry in body["data"]:
        png = SquarePNG(base64.b64decode(entry["b64_json"]))
        assert f"{png.side}x{png.side}" == size
    assert response.text.startswith('{\n  "created": ')
    assert response.text.endswith("}\n")


async def test_url_is_the_default(client: httpx.AsyncClient) -> None:
    """One picture of 1024 pixels, at an address of this server that works without a key."""
    response = await client.post(PATH, files=picture())
    (entry,) = response.json()["data"]
    assert list(entry) == ["url"]
    assert entry["url"].startswith("http://pictures.example/files/")
    got = await client.get(entry["url"])
    assert got.headers["content-type"] == "image/png"
    assert SquarePNG(got.content).side == 1024


async def test_the_headers_of_the_vendor(client: httpx.AsyncClient) -> None:
    """An id, the milliseconds it took, the version."""
    response = await client.post(PATH, files=picture())
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.headers["openai-processing-ms"].isdecimal()
    assert response.headers["openai-version"] == "2020-10-01"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "files",
    [
        picture(kind="application/octet-stream"),
        picture(name="no-suffix"),
        picture(name="ä ü.jpeg", kind="text/plain"),
        picture(kind=""),
    ],
)
async def test_any_name_and_type_of_the_picture(client: httpx.AsyncClient, files: Form) -> None:
    """What counts is the content."""
    assert (await client.post(PATH, files=files)).status_code == 200


async def test_any_order_of_the_parts(client: httpx.AsyncClient) -> None:
    """The picture may come first, as some clients send it."""
    body = b"".join(
        b"--x\r\n" + part + b"\r\n"
        for part in (
            b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + PNG,
            b'Content-Disposition: form-data; name="n"\r\n\r\n2',
        )
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await client.post(PATH, content=body + b"--x--\r\n", headers=headers)
    assert len(response.json()["data"]) == 2


async def test_empty_optional_fields_count_as_absent(client: httpx.AsyncClient) -> None:
    """Web forms send them."""
    form = dict.fromkeys(("model", "n", "response_format", "size", "user"), "")
    response = await client.post(PATH, data=form, files=picture())
    assert list(response.json()["data"][0]) == ["url"]


async def test_every_model_that_is_listed_can_be_used(client: httpx.AsyncClient) -> None:
    """And each is found by its name."""
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert names == ["dall-e-2", "instant"]
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        response = await client.post(PATH, data={"model": name}, files=picture())
        assert response.status_code == 200
    assert error_of(await client.get("/v1/models/x/y"), 404)["code"] == "model_not_found"


# Errors...

ERRORS: list[tuple[str, Form, Form, int, str | None, str]] = [
    ("missing image", {"n": "1"}, {}, 400, "image", "must be multipart"),
    ("empty form", {}, {"user": (None, "u")}, 400, "image", "image is missing"),
    ("text image", {}, {"image": (None, "abc")}, 400, "image", "sent as a file"),
    ("not PNG", {}, picture(jpeg()), 400, "image", "not a PNG"),
    ("empty", {}, picture(b""), 400, "image", "PNG"),
    ("truncated", {}, picture(truncated_png()), 400, "image", "PNG"),
    ("not square", {}, picture(non_square_png()), 400, "image", "square"),
    ("too large", {}, picture(oversized_png()), 400, "image", "4"),
    ("n 0", {"n": "0"}, picture(), 400, "n", "got 0"),
    ("n 11", {"n": "11"}, picture(), 400, "n", "got 11"),
    ("n -1", {"n": "-1"}, picture(), 400, "n", "got -1"),
    ("n 1.0", {"n": "1.0"}, picture(), 400, "n", "got '1.0'"),
    ("n two", {"n": "two"}, picture(), 400, "n", "got 'two'"),
    ("n huge", {"n": "9" * 5000}, picture(), 400, "n", "whole number"),
    ("n ten in Arabic digits", {"n": "\u0661"}, picture(), 400, "n", "whole number"),
    ("size", {"size": "1024x1536"}, picture(), 400, "size", "1024x1024"),
    ("response_format", {"response_format": "URL"}, picture(), 400, "response_format", "'url'"),
    ("model", {"model": "gpt-9"}, picture(), 400, "model", "does not exist here"),
    ("unknown field", {"prompt": "x"}, picture(), 400, "prompt", "not a field"),
    ("image[]", {}, {"image[]": ("a.png", PNG)}, 400, "image[]", "not a field"),
    ("a file as n", {}, {**picture(), "n": ("n.txt", b"1")}, 400, "n", "plain field"),
    ("a field twice", {"n": ["1", "2"]}, picture(), 400, "n", "more than once"),
]


@pytest.mark.parametrize(
    ("data", "files", "status", "param", "message"),
    [row[1:] for row in ERRORS],
    ids=[row[0] for row in ERRORS],
)
async def test_each_broken_rule_is_named(
    client: httpx.AsyncClient,
    data: Form,
    files: Form,
    status: int,
    param: str | None,
    message: str,
) -> None:
    """In the vendor's envelope, with the field at fault."""
    error = error_of(await client.post(PATH, data=data, files=files), status)
    assert error["type"] == "invalid_request_error"
    if "multipart" not in message:
        assert error["param"] == param
    assert message in error["message"]


async def test_two_pictures_are_too_many(client: httpx.AsyncClient) -> None:
    """Exactly one file part."""
    files = [("image", ("a.png", PNG)), ("image", ("b.png", PNG))]
    assert error_of(await client.post(PATH, files=files), 400)["param"] == "image"


async def test_pixels_that_cannot_be_decoded(tmp_path: Path) -> None:
    """Only an engine that decodes them finds out, and it is the client's fault all the same."""
    async with connected(tmp_path, "local") as client:
        error = error_of(await client.post(PATH, files=picture(corrupt_png())), 400)
    assert error["code"] == "invalid_image_format"


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "application/json"}, b'{"image": "https://x"}'),
        ({"content-type": "application/x-www-form-urlencoded"}, b"n=1"),
        ({}, b""),
        ({"content-type": "multipart/form-data"}, b"x"),
        ({"content-type": "multipart/form-data; boundary="}, b"x"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--y\r\n\r\n"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\nno name\r\n--x--"),
        ({"content-type": "multipart/form-data; boundary=x; charset=rot13"}, b"--x--"),
    ],
)
async def test_a_body_that_is_no_form(
    client: httpx.AsyncClient, headers: dict[str, str], content: bytes
) -> None:
    """JSON, an empty body or a broken form: the error says what is needed."""
    error = error_of(await client.post(PATH, headers=headers, content=content), 400)
    assert "multipart" in error["message"] or "image is missing" in error["message"]


@pytest.mark.slow
@given(
    st.binary(max_size=300),
    st.sampled_from(["x", '"x"', "x; charset=utf-16", "ü", ""]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_answered_in_the_envelope(
    tmp_path: Path, junk: bytes, boundary: str, framed: bool
) -> None:
    """Whatever comes in, a 400 comes out."""
    if framed:
        junk = b'--x\r\nContent-Disposition: form-data; name="' + junk + b"\r\n--x--\r\n"

    async def post() -> httpx.Response:
        async with connected(tmp_path) as client:
            kind = f"multipart/form-data; boundary={boundary}".encode()
            return await client.post(PATH, content=junk, headers={b"content-type": kind})

    error_of(asyncio.run(post()), 400)


async def test_a_body_that_cannot_be_legal_is_cut_off(client: httpx.AsyncClient) -> None:
    """While it streams in, and after the answer only so much of it is dropped."""
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(1000):
            sent += 65536
            yield bytes(65536)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = error_of(await client.post(PATH, content=body(), headers=headers), 413)
    assert error["param"] == "image"
    assert sent < 8_000_000 + 34_000_000 + 500_000
    announced = {**headers, "content-length": "9" * 12}
    error_of(await client.post(PATH, content=b"--x", headers=announced), 413)


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80"])
async def test_text_that_no_answer_could_hold(client: httpx.AsyncClient, name: bytes) -> None:
    """Forms are in UTF-8; what is not could not be named in an answer."""
    body = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = error_of(await client.post(PATH, content=body, headers=headers), 400)
    assert "encoded in UTF-8" in error["message"]


async def test_a_file_name_of_another_form(client: httpx.AsyncClient) -> None:
    """Some clients send only the extended form of the name, though RFC 7578 forbids it."""
    body = (
        b"--x\r\nContent-Disposition: form-data; name=image; filename*=UTF-8''a.png\r\n\r\n"
        + PNG
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert (await client.post(PATH, content=body, headers=headers)).status_code == 200


async def test_a_picture_sent_as_text(client: httpx.AsyncClient) -> None:
    """However long it is, the error says what to do."""
    error = error_of(await client.post(PATH, files={"image": (None, "x" * 20_000)}), 400)
    assert "sent as a file" in error["message"]


async def test_unknown_addresses_and_methods(client: httpx.AsyncClient) -> None:
    """In the vendor's form; 405 says what is allowed."""
    error = error_of(await client.post("/v1/images/variation"), 404)
    assert error["message"] == "Invalid URL (POST /v1/images/variation)"
    error_of(await client.post(PATH + "/"), 404)
    response = await client.get(PATH)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


class Failing:
    """An engine that raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail."""
        raise self._error


async def test_a_failure_of_the_engine_shows_nothing_of_the_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """500, and the log says what it was, under the id; an error of the tree is itself."""
    engine = Failing(RuntimeError("/home/secret sk-123"))
    async with connected(tmp_path, engine) as client:
        response = await client.post(PATH, files=picture())
    assert error_of(response, 500)["type"] == "server_error"
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert f"{response.headers['x-request-id']} failed" in caplog.text
    assert "/home/secret" in caplog.text
    async with connected(tmp_path, Failing(ContentPolicyError("No."))) as client:
        error = error_of(await client.post(PATH, files=picture()), 400)
    assert error["code"] == "content_policy_violation"


async def test_a_store_that_is_gone_is_told_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What he can do is in the log; the client learns only that the fault is the server's."""
    async with connected(tmp_path) as client:
        shutil.rmtree(tmp_path / "store")
        response = await client.post(PATH, files=picture())
    message = error_of(response, 500)["message"]
    assert message.startswith("The server failed")
    assert "The image cannot be stored: No such file or directory." in caplog.text


class Drawing:
    """An engine that answers with a file of its own."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer with the file, whatever was asked."""
        return ImagesResponse.from_pngs([self._data], response_format="b64_json")


class DrawingLater(Drawing):
    """The async twin."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:  # type: ignore[override]  # its twin
        """Answer with the file, whatever was asked."""
        return super().create_variation(request)


@pytest.mark.parametrize("data", [jpeg(), square_png(300)])
@pytest.mark.parametrize("engine", [Drawing, DrawingLater])
async def test_an_engines_picture_comes_as_it_was_asked_for(
    tmp_path: Path, engine: Any, data: bytes
) -> None:
    """PNG of exactly the size, whatever the engine answered with."""
    async with connected(tmp_path, engine(data)) as client:
        form = {"size": "256x256", "response_format": "b64_json"}
        answer = await client.post(PATH, data=form, files=picture())
    assert SquarePNG(base64.b64decode(answer.json()["data"][0]["b64_json"])).side == 256


async def test_an_engine_that_answers_with_no_picture(tmp_path: Path) -> None:
    """Is a failure of the server."""
    async with connected(tmp_path, Drawing(b"no picture")) as client:
        error_of(await client.post(PATH, files=picture()), 500)


async def test_the_engines_own_key_is_not_the_clients(tmp_path: Path) -> None:
    """What a hosted engine's server refuses is no 401 of ours."""
    async with connected(tmp_path, Failing(AuthenticationError("Wrong key sk-ours."))) as client:
        response = await client.post(PATH, files=picture())
    error_of(response, 500)
    assert "sk-ours" not in response.text


async def test_a_form_with_hundreds_of_scans_is_refused(client: httpx.AsyncClient) -> None:
    """A form takes PNG alone, whatever the file is called, so nothing else is decoded."""
    for name, kind in (("a.png", "image/png"), ("a.jpg", "image/jpeg")):
        response = await client.post(PATH, files=picture(with_scans(300), name, kind))
        assert "not a PNG file" in error_of(response, 400)["message"]


async def test_a_result_with_hundreds_of_scans_is_a_failure(tmp_path: Path) -> None:
    """An engine that answers with one is at fault, and the server does not decode it."""

    class Scans(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            return ImagesResponse.from_pngs([with_scans(300)], response_format="b64_json")

    async with connected(tmp_path, Scans()) as client:
        error_of(await client.post(PATH, files=picture()), 500)


# Keys...


async def test_a_key_is_asked_for(tmp_path: Path) -> None:
    """Missing and wrong are told apart; with the right one all is well."""
    async with connected(tmp_path, api_key="sk-right") as client:
        for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer"}):
            response = await client.post(PATH, files=picture(), headers=headers)
            assert error_of(response, 401)["code"] is None
            assert response.headers["www-authenticate"].startswith("Bearer")
        for key in ("sk-wrong", "sk-rightx", "\u00e4"):
            header = f"Bearer {key}".encode("latin-1")
            response = await client.post(PATH, files=picture(), headers={b"authorization": header})
            error = error_of(response, 401)
            assert error["code"] == "invalid_api_key"
            assert key not in error["message"]
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        good = {"authorization": "Bearer sk-right"}
        response = await client.post(PATH, files=picture(), headers=good)
        assert response.status_code == 200
        assert (await client.get(response.json()["data"][0]["url"])).status_code == 200


async def test_a_page_of_a_stranger_may_not_call(tmp_path: Path) -> None:
    """Without a key any page in a browser could; the server's own page and programs may."""
    async with connected(tmp_path, public_url="https://img.example") as client:
        for origin in ("https://evil.example", "null", "http://pictures.example.evil"):
            response = await client.post(PATH, files=picture(), headers={"origin": origin})
            assert "of other origins" in error_of(response, 403)["message"]
        for origin in ("http://pictures.example", "https://img.example"):
            response = await client.post(PATH, files=picture(), headers={"origin": origin})
            assert response.status_code == 200
    async with connected(tmp_path, api_key="sk-right") as client:
        headers = {"origin": "https://my.example", "authorization": "Bearer sk-right"}
        assert (await client.post(PATH, files=picture(), headers=headers)).status_code == 200


# Addresses of results...


async def test_an_address_expires(tmp_path: Path) -> None:
    """With the vendor's storage's 403; so does one that was changed."""
    async with connected(tmp_path, url_ttl=0.5) as client:
        url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
        assert (await client.get(url)).status_code == 200
        changed = [
            url.replace("se=", "se=9"),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.partition("?")[0],
            url.replace("sig=", "sig=%C3%A4"),
            re.sub("files/.", "files/%2e%2e%2f", url),
        ]
        for address in changed:
            assert (await client.get(address)).status_code in (403, 404)
        await asyncio.sleep(0.6)
        response = await client.get(url)
        assert response.status_code == 403
        assert response.headers["content-type"].startswith("application/xml")
        assert "<Code>AuthenticationFailed</Code>" in response.text


async def test_what_has_expired_is_removed(tmp_path: Path) -> None:
    """From the disk too, when nothing else is asked for."""
    app = create_app("instant", store_dir=tmp_path, url_ttl=0.2)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        await client.post(PATH, files=picture())
        assert list(tmp_path.glob("*.png"))
        for _ in range(100):
            if not list(tmp_path.glob("*.png")):
                break
            await asyncio.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


async def test_an_address_survives_a_restart(tmp_path: Path) -> None:
    """The folder keeps the pictures and the key to their names."""
    async with connected(tmp_path) as client:
        url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
    async with connected(tmp_path) as client:
        assert (await client.get(url)).status_code == 200
    async with connected(tmp_path / "other") as client:
        assert (await client.get(url)).status_code == 403


async def test_head_and_range(client: httpx.AsyncClient) -> None:
    """As of any file on the web."""
    url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
    whole = (await client.get(url)).content
    head = await client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole))
    assert re.fullmatch(r"private, max-age=\d+, immutable", head.headers["cache-control"])
    length = len(whole)
    tag = head.headers["etag"]
    for asked, first, end in (
        ("bytes=1-3", 1, 4),
        ("BYTES=5-", 5, length),
        ("bytes=-7", length - 7, length),
        (f"bytes=-{length + 1}", 0, length),
        (f"bytes=2-{length * 2}", 2, length),
    ):
        part = await client.get(url, headers={"range": asked, "if-range": tag})
        assert (part.status_code, part.content) == (206, whole[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{length}"
        assert (await client.head(url, headers={"range": asked})).status_code == 200


@pytest.mark.parametrize(
    "asked", ["items=0-1", "bytes=a-b", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "x"]
)
async def test_a_range_that_is_none_is_ignored(client: httpx.AsyncClient, asked: str) -> None:
    """As RFC 9110 wants it; several ranges may be ignored too."""
    url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
    whole = await client.get(url)
    answer = await client.get(url, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, whole.content)


async def test_a_part_that_is_not_there(client: httpx.AsyncClient) -> None:
    """416 with the length, in the envelope."""
    url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
    length = len((await client.get(url)).content)
    for asked in (f"bytes={length}-", "bytes=-0"):
        answer = await client.get(url, headers={"range": asked})
        assert answer.headers["content-range"] == f"bytes */{length}"
        assert f"{length:,} bytes" in error_of(answer, 416)["message"]


async def test_a_picture_that_the_client_has_already(client: httpx.AsyncClient) -> None:
    """Is not sent again; its ETag stays the same when the same picture is made again."""
    first, again = [
        (await client.post(PATH, files=picture())).json()["data"][0]["url"] for _ in range(2)
    ]
    tag = (await client.get(first)).headers["etag"]
    for tags in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await client.get(again, headers={"if-none-match": tags})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for headers in ({"if-none-match": '"x"'}, {"range": "bytes=1-2", "if-range": '"x"'}):
        assert (await client.get(first, headers=headers)).status_code == 200


async def test_the_store_has_a_size_cap(tmp_path: Path) -> None:
    """The oldest pictures make room, and say so; the newest are there."""
    async with connected(tmp_path, store_max_bytes=2000) as client:
        urls = []
        for side in range(1, 30):
            form = {"size": "256x256"}
            answer = await client.post(PATH, data=form, files=picture(square_png(side)))
            urls.append(answer.json()["data"][0]["url"])
        assert (await client.get(urls[-1])).status_code == 200
        assert error_of(await client.get(urls[0]), 404)["message"].startswith(
            "This image was removed"
        )
    stored = [path for path in (tmp_path / "store").iterdir() if path.suffix == ".png"]
    assert sum(path.stat().st_size for path in stored) <= 2000


async def test_a_public_address(tmp_path: Path) -> None:
    """Behind a proxy, results are named as clients reach them."""
    async with connected(tmp_path, public_url="https://img.example/api/") as client:
        url = (await client.post(PATH, files=picture())).json()["data"][0]["url"]
    assert url.startswith("https://img.example/api/files/")


# Idempotency...


class Counting(InstantEngine):
    """Counts its calls, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.most = 0
        self.running = 0
        self._seconds = seconds

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Count, wait, answer."""
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(self._seconds)
        self.running -= 1
        return super().create_variation(request)


async def test_the_same_key_and_request_are_answered_once(tmp_path: Path) -> None:
    """At once or later. With another request the key is refused, another key is another answer."""
    engine = Counting(0.05)
    async with connected(tmp_path, engine) as client:
        key = {"idempotency-key": "k1"}
        posts = [client.post(PATH, files=picture(), headers=key) for _ in range(5)]
        bodies = {response.content for response in await asyncio.gather(*posts)}
        bodies.add((await client.post(PATH, files=picture(), headers=key)).content)
        assert len(bodies) == 1
        assert engine.calls == 1
        error_of(await client.post(PATH, data={"n": "2"}, files=picture(), headers=key), 409)
        await client.post(PATH, files=picture(), headers={"idempotency-key": "k2"})
        await client.post(PATH, files=picture())
        assert engine.calls == 3
        long = {"idempotency-key": "k" * 256}
        error_of(await client.post(PATH, files=picture(), headers=long), 400)


async def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    """The same key may try again."""
    engine = Failing(RuntimeError())
    async with connected(tmp_path, engine) as client:
        key = {"idempotency-key": "k1"}
        error_of(await client.post(PATH, files=picture(), headers=key), 500)
        engine.create_variation = InstantEngine().create_variation  # type: ignore[method-assign]  # it is mended
        assert (await client.post(PATH, files=picture(), headers=key)).status_code == 200


# Under load...


async def test_so_many_at_once_and_so_many_wait(tmp_path: Path) -> None:
    """One more is answered 429 at once, with the time to wait in the header and the text."""
    engine = Counting(0.1)
    async with connected(tmp_path, engine, workers=2, queue=3) as client:
        posts = [client.post(PATH, files=picture()) for _ in range(8)]
        answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 3
    assert engine.most == 2
    refused = next(answer for answer in answers if answer.status_code == 429)
    error = error_of(refused, 429)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert f"try again in {refused.headers['retry-after']}s" in error["message"]


async def test_slots_come_back(tmp_path: Path) -> None:
    """After failures and cancelled requests as after successes."""
    engine = Counting(0.1)
    async with connected(tmp_path, engine, workers=1, queue=10) as client:
        posts = [asyncio.create_task(client.post(PATH, files=picture())) for _ in range(6)]
        await asyncio.sleep(0.15)
        for post in posts[1:5]:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert (await client.post(PATH, files=picture())).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert engine.most == 1
    assert "image_variation_running 0.0" in metrics
    assert "image_variation_waiting 0.0" in metrics


class Deaf(InstantEngine):
    """Never notices that a call was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.finish = threading.Event()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Work until it may finish."""
        self.calls += 1
        self.finish.wait(60)
        return super().create_variation(request)


async def wait_for_calls(engine: Deaf, count: int) -> None:
    """Wait until the engine has been called that often."""
    async with asyncio.timeout(60):
        while engine.calls < count:
            await asyncio.sleep(0.01)


async def test_a_slot_is_taken_until_the_engine_ends(tmp_path: Path) -> None:
    """A cancelled request leaves at once, but its slot is free only when the engine has stopped."""
    engine = Deaf()
    async with connected(tmp_path, engine, workers=1, queue=0) as client:
        post = asyncio.create_task(client.post(PATH, files=picture()))
        await wait_for_calls(engine, 1)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(post, 60)
        assert "image_variation_running 1.0" in (await client.get("/metrics")).text
        error_of(await client.post(PATH, files=picture()), 429)
        engine.finish.set()
        async with asyncio.timeout(60):
            while "image_variation_running 0.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
        assert (await client.post(PATH, files=picture())).status_code == 200


async def test_a_retry_need_not_wait_for_the_engine(tmp_path: Path) -> None:
    """With the key of a request that was cancelled, it starts while the engine is still working."""
    engine = Deaf()
    async with connected(tmp_path, engine, workers=2) as client:
        headers = {"idempotency-key": "k1"}
        post = asyncio.create_task(client.post(PATH, files=picture(), headers=headers))
        await wait_for_calls(engine, 1)
        post.cancel()
        retry = asyncio.create_task(client.post(PATH, files=picture(), headers=headers))
        await wait_for_calls(engine, 2)
        engine.finish.set()
        assert (await retry).status_code == 200


async def test_a_draining_server_refuses_what_is_new(tmp_path: Path) -> None:
    """With 503, and says so to its load balancer."""
    app = create_app("instant", store_dir=tmp_path)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/healthz")).json() == {"status": "ready"}
        app.state.is_draining = True
        assert (await client.get("/healthz")).status_code == 503
        error_of(await client.post(PATH, files=picture()), 503)


async def test_one_line_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Method, path, status, milliseconds, id; never a key, a user or a query; JSON on request."""
    caplog.set_level(logging.INFO, "langchain_image_variation.server")
    async with connected(tmp_path, api_key="sk-right") as client:
        headers = {"authorization": "Bearer sk-right"}
        await client.post(PATH + "?q=1", data={"user": "u1"}, files=picture(), headers=headers)
    (record,) = [record for record in caplog.records if record.name.endswith(".server")]
    assert re.fullmatch(rf"POST '{PATH}' 200 [\d.]+ ms req_[0-9a-f]{{32}}", record.getMessage())
    line = JSONLines().format(record)
    assert list(json.loads(line)) == ["method", "path", "status", "ms", "request_id"]
    for text in (record.getMessage(), line):
        assert "sk-right" not in text
        assert "u1" not in text


async def test_a_failure_is_one_line_of_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; so is what others log."""
    async with connected(tmp_path, Failing(RuntimeError("two\nlines"))) as client:
        response = await client.post(PATH, files=picture())
    logging.getLogger("uvicorn.error").warning("odd %s", "request")
    lines = [JSONLines().format(record) for record in caplog.records if record.levelno > 20]
    assert "\n" not in "".join(lines)
    failure, odd = map(json.loads, lines)
    assert failure["level"] == "error"
    assert failure["request_id"] == response.headers["x-request-id"]
    assert "RuntimeError: two\nlines" in failure["traceback"]
    assert odd == {"level": "warning", "message": "odd request"}


async def test_metrics(client: httpx.AsyncClient) -> None:
    """Requests by address and status; what a stranger makes up counts as "other"."""
    await client.post(PATH, files=picture())
    await client.get("/nowhere")
    text = (await client.get("/metrics")).text
    assert f'image_variation_requests_total{{path="{PATH}",status="200"}} 1.0' in text
    assert 'image_variation_requests_total{path="other",status="404"} 1.0' in text


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"api_key": ""}, "api_key"),
        ({"url_ttl": 0}, "url_ttl"),
        ({"url_ttl": "x"}, "url_ttl"),
        ({"workers": 0}, "workers"),
        ({"queue": -1}, "queue"),
        ({"store_max_bytes": 1.5}, "store_max_bytes"),
        ({"upload_timeout": 0}, "upload_timeout"),
        ({"store_dir": ""}, "store_dir"),
        ({"api_key": "sk-1 "}, "api_key"),
        ({"public_url": "img.example"}, "public_url"),
        ({"public_url": "https://img.example?x=1"}, "public_url"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    tmp_path: Path, options: dict[str, Any], param: str
) -> None:
    """When the app is made."""
    with pytest.raises(InvalidRequestError) as caught:
        create_app("instant", **{"store_dir": tmp_path, **options})
    assert caught.value.param == param


def test_an_engine_or_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Is said when the app is made."""
    with pytest.raises(EngineNotFoundError):
        create_app("magic", store_dir=tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        create_app("instant", store_dir=tmp_path / "file")


@pytest.mark.parametrize(
    "statement",
    [
        "from langchain_image_variation import create_app",
        "from langchain_image_variation.server import create_app",
    ],
)
def test_without_the_extra(statement: str) -> None:
    """An ImportError names it, and the package can be imported all the same."""
    script = "import sys; sys.modules['starlette'] = None; import langchain_image_variation\n"
    done = subprocess.run(
        [sys.executable, "-c", script + statement], capture_output=True, text=True, timeout=60
    )
    assert "pip install 'langchain-image-variation[server]'" in done.stderr
    assert "MissingExtraError" in done.stderr
