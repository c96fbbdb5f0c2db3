import asyncio
import base64
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
    install_command,
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
    """A client of an app with the engine `instant`, without a socket."""
    async with new_client(tmp_path) as client:
        yield client


def new_client(tmp_path: Path, engine: Any = "instant", **options: Any) -> httpx.AsyncClient:
    """Return a client of a new app. The app allows the host that the client sends."""
    options.setdefault("hosts", ["images.example"])
    app = create_app(engine, store_dir=tmp_path / "store", **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://images.example")


def image_part(data: bytes = PNG, name: str = "a.png", kind: str = "image/png") -> Form:
    """Return the file part of a form."""
    return {"image": (name, data, kind)}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error in a response, after checking its envelope."""
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
async def test_b64_json_returns_exact_images(client: httpx.AsyncClient, n: int, size: str) -> None:
    """The response has exactly n images of exactly the size, and otherwise only `created`."""
    form = {"n": str(n), "size": size, "response_format": "b64_json"}
    response = await client.post(PATH, data=form, files=image_part())
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
    """The response has one image of 1024 pixels, as a URL that works without a key."""
    response = await client.post(PATH, files=image_part())
    (entry,) = response.json()["data"]
    assert list(entry) == ["url"]
    assert entry["url"].startswith("http://images.example/files/")
    file = await client.get(entry["url"])
    assert file.headers["content-type"] == "image/png"
    assert SquarePNG(file.content).side == 1024


async def test_responses_have_the_vendors_headers(client: httpx.AsyncClient) -> None:
    """Responses have an id, their duration in milliseconds and the version."""
    response = await client.post(PATH, files=image_part())
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.headers["openai-processing-ms"].isdecimal()
    assert response.headers["openai-version"] == "2020-10-01"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "files",
    [
        image_part(kind="application/octet-stream"),
        image_part(name="no-suffix"),
        image_part(name="ä ü.jpeg", kind="text/plain"),
        image_part(kind=""),
    ],
)
async def test_any_file_name_and_type_is_accepted(client: httpx.AsyncClient, files: Form) -> None:
    """A file may have any name and type, since only the content of the image counts."""
    assert (await client.post(PATH, files=files)).status_code == 200


async def test_any_order_of_parts_is_accepted(client: httpx.AsyncClient) -> None:
    """The parts may have any order, since some clients send the image first."""
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
    """Empty optional fields count as absent, since web forms send them."""
    form = dict.fromkeys(("model", "n", "response_format", "size", "user"), "")
    response = await client.post(PATH, data=form, files=image_part())
    assert list(response.json()["data"][0]) == ["url"]


async def test_every_listed_model_works(client: httpx.AsyncClient) -> None:
    """Requests may name each listed model, and each can be retrieved."""
    models = (await client.get("/v1/models")).json()
    assert models["object"] == "list"
    names = [model["id"] for model in models["data"]]
    assert names == ["dall-e-2", "instant"]
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        response = await client.post(PATH, data={"model": name}, files=image_part())
        assert response.status_code == 200
    assert error_of(await client.get("/v1/models/x/y"), 404)["code"] == "model_not_found"


# Errors...

ERRORS: list[tuple[str, Form, Form, int, str | None, str]] = [
    ("missing image", {"n": "1"}, {}, 400, "image", "must be multipart"),
    ("empty form", {}, {"user": (None, "u")}, 400, "image", "image is missing"),
    ("text image", {}, {"image": (None, "abc")}, 400, "image", "sent as a file"),
    ("not PNG", {}, image_part(jpeg()), 400, "image", "not a PNG"),
    ("empty", {}, image_part(b""), 400, "image", "PNG"),
    ("truncated", {}, image_part(truncated_png()), 400, "image", "PNG"),
    ("not square", {}, image_part(non_square_png()), 400, "image", "square"),
    ("too large", {}, image_part(oversized_png()), 400, "image", "4"),
    ("n 0", {"n": "0"}, image_part(), 400, "n", "got 0"),
    ("n 11", {"n": "11"}, image_part(), 400, "n", "got 11"),
    ("n -1", {"n": "-1"}, image_part(), 400, "n", "got -1"),
    ("n 1.0", {"n": "1.0"}, image_part(), 400, "n", "got '1.0'"),
    ("n two", {"n": "two"}, image_part(), 400, "n", "got 'two'"),
    ("n huge", {"n": "9" * 5000}, image_part(), 400, "n", "whole number"),
    ("n ten in Arabic digits", {"n": "\u0661"}, image_part(), 400, "n", "whole number"),
    ("size", {"size": "1024x1536"}, image_part(), 400, "size", "1024x1024"),
    ("response_format", {"response_format": "URL"}, image_part(), 400, "response_format", "'url'"),
    ("model", {"model": "gpt-9"}, image_part(), 400, "model", "does not exist here"),
    ("unknown field", {"prompt": "x"}, image_part(), 400, "prompt", "not a field"),
    ("image[]", {}, {"image[]": ("a.png", PNG)}, 400, "image[]", "not a field"),
    ("a file as n", {}, {**image_part(), "n": ("n.txt", b"1")}, 400, "n", "plain field"),
    ("a field twice", {"n": ["1", "2"]}, image_part(), 400, "n", "more than once"),
]


@pytest.mark.parametrize(
    ("data", "files", "status", "param", "message"),
    [row[1:] for row in ERRORS],
    ids=[row[0] for row in ERRORS],
)
async def test_invalid_fields_are_named(
    client: httpx.AsyncClient,
    data: Form,
    files: Form,
    status: int,
    param: str | None,
    message: str,
) -> None:
    """The error for an invalid field names it, in the vendor's envelope."""
    error = error_of(await client.post(PATH, data=data, files=files), status)
    assert error["type"] == "invalid_request_error"
    if "multipart" not in message:
        assert error["param"] == param
    assert message in error["message"]


async def test_two_images_are_refused(client: httpx.AsyncClient) -> None:
    """A form must have exactly one file part."""
    files = [("image", ("a.png", PNG)), ("image", ("b.png", PNG))]
    assert error_of(await client.post(PATH, files=files), 400)["param"] == "image"


async def test_undecodable_pixels_are_refused(tmp_path: Path) -> None:
    """Pixels that cannot be decoded are the client's error, though only the engine notices."""
    async with new_client(tmp_path, "local") as client:
        error = error_of(await client.post(PATH, files=image_part(corrupt_png())), 400)
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
async def test_a_body_must_be_a_form(
    client: httpx.AsyncClient, headers: dict[str, str], content: bytes
) -> None:
    """For JSON, an empty body or an invalid form, the error says what to send."""
    error = error_of(await client.post(PATH, headers=headers, content=content), 400)
    assert "multipart" in error["message"] or "image is missing" in error["message"]


@pytest.mark.slow
@given(
    st.binary(max_size=300),
    st.sampled_from(["x", '"x"', "x; charset=utf-16", "ü", ""]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_gets_an_error_envelope(
    tmp_path: Path, junk: bytes, boundary: str, framed: bool
) -> None:
    """Any invalid body gets a 400 with the error envelope."""
    if framed:
        junk = b'--x\r\nContent-Disposition: form-data; name="' + junk + b"\r\n--x--\r\n"

    async def post() -> httpx.Response:
        async with new_client(tmp_path) as client:
            kind = f"multipart/form-data; boundary={boundary}".encode()
            return await client.post(PATH, content=junk, headers={b"content-type": kind})

    error_of(asyncio.run(post()), 400)


async def test_a_body_that_is_too_long_is_cut_off(client: httpx.AsyncClient) -> None:
    """A body that is too long is answered while it arrives, and only a part is read."""
    sent_bytes = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent_bytes
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(1000):
            sent_bytes += 65536
            yield bytes(65536)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = error_of(await client.post(PATH, content=body(), headers=headers), 413)
    assert error["param"] == "image"
    assert sent_bytes < 8_000_000 + 34_000_000 + 500_000
    long_headers = {**headers, "content-length": "9" * 12}
    error_of(await client.post(PATH, content=b"--x", headers=long_headers), 413)


async def test_no_temporary_folder_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload of unknown length, with the answer as a URL, works without a temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        yield square_png(400)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    async with new_client(tmp_path) as client:
        response = await client.post(PATH, content=body(), headers=headers)
        assert (await client.get(response.json()["data"][0]["url"])).status_code == 200


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80"])
async def test_a_form_must_be_in_utf_8(client: httpx.AsyncClient, name: bytes) -> None:
    """A form in another encoding is refused, since the error could not name its text."""
    body = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = error_of(await client.post(PATH, content=body, headers=headers), 400)
    assert "encoded in UTF-8" in error["message"]


async def test_an_extended_file_name_is_accepted(client: httpx.AsyncClient) -> None:
    """A file name only in the extended form is accepted, although RFC 7578 forbids it."""
    body = (
        b"--x\r\nContent-Disposition: form-data; name=image; filename*=UTF-8''a.png\r\n\r\n"
        + PNG
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert (await client.post(PATH, content=body, headers=headers)).status_code == 200


async def test_an_image_sent_as_text_is_explained(client: httpx.AsyncClient) -> None:
    """The error for an image sent as text, however long, says what to do."""
    error = error_of(await client.post(PATH, files={"image": (None, "x" * 20_000)}), 400)
    assert "sent as a file" in error["message"]


async def test_unknown_paths_and_methods_get_the_vendors_errors(client: httpx.AsyncClient) -> None:
    """Unknown paths and methods get errors like the vendor's, and a 405 names the methods."""
    error = error_of(await client.post("/v1/images/variation"), 404)
    assert error["message"].startswith("Invalid URL (POST /v1/images/variation)")
    error_of(await client.post(PATH + "/"), 404)
    response = await client.get(PATH)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


class FailingEngine:
    """An engine that raises a given error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail."""
        raise self._error


async def test_an_engine_failure_shows_no_internals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine's failure is a 500, and only the log has its cause, unless it is our own error."""
    engine = FailingEngine(RuntimeError("/home/secret sk-123"))
    async with new_client(tmp_path, engine) as client:
        response = await client.post(PATH, files=image_part())
    assert error_of(response, 500)["type"] == "server_error"
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert f"{response.headers['x-request-id']} failed" in caplog.text
    assert "/home/secret" in caplog.text
    async with new_client(tmp_path, FailingEngine(ContentPolicyError("No."))) as client:
        error = error_of(await client.post(PATH, files=image_part()), 400)
    assert error["code"] == "content_policy_violation"


async def test_a_removed_store_is_created_again(tmp_path: Path) -> None:
    """If somebody removes the store while the server runs, the next answer creates it again."""
    async with new_client(tmp_path) as client:
        for _ in range(2):
            shutil.rmtree(tmp_path / "store")
            url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
            assert (await client.get(url)).status_code == 200


async def test_an_unusable_store_costs_one_engine_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failed write, answers with URLs are refused early, until a write succeeds.

    The engine is not called. Only the log shows the cause. Answers in base64 need no store.
    """
    engine, store = CountingEngine(), tmp_path / "store"
    form = {"response_format": "b64_json"}
    async with new_client(tmp_path, engine) as client:
        store.rename(tmp_path / "moved")
        store.write_bytes(b"a file in place of the folder")
        for _ in range(5):
            response = await client.post(PATH, files=image_part())
            message = error_of(response, 503)["message"]
            assert f"try again in {response.headers['retry-after']}s" in message
            assert "response_format=b64_json" in message
        assert engine.calls == 1
        assert "cannot keep images: Not a directory" in caplog.text
        assert (await client.post(PATH, data=form, files=image_part())).status_code == 200
        health = await client.get("/healthz")
        assert (health.status_code, health.json()) == (503, {"status": "cannot store images"})
        store.unlink()
        async with asyncio.timeout(60):
            while (await client.get("/healthz")).status_code != 200:
                await asyncio.sleep(0.05)
        assert (await client.post(PATH, files=image_part())).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")
@pytest.mark.parametrize("kind", ["link", "fifo", "content"])
async def test_a_replaced_image_is_not_sent(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If an image's file is replaced, it is not sent: the client gets a 404, the log a line."""
    async with new_client(tmp_path) as client:
        url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
        (path,) = (tmp_path / "store").glob("*.png")
        path.unlink()
        if kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(square_png(9))
        error_of(await client.get(url), 404)
        assert f"was replaced: {path.name}" in caplog.text.replace(" by something else", "")
        again = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
        for address in (url, again):
            assert SquarePNG((await client.get(address)).content).side == 1024


class FileEngine:
    """A hosted engine that returns a given file."""

    base_url = "http://127.0.0.1:8000/v1"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the file, whatever the request."""
        return ImagesResponse.from_pngs([self._data], response_format="b64_json")


class AsyncFileEngine(FileEngine):
    """The async twin of `FileEngine`."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:  # type: ignore[override]  # its twin
        """Return the file, whatever the request."""
        return super().create_variation(request)


@pytest.mark.parametrize("data", [jpeg(), square_png(300)])
@pytest.mark.parametrize("engine", [FileEngine, AsyncFileEngine])
async def test_images_of_engines_are_converted(tmp_path: Path, engine: Any, data: bytes) -> None:
    """The client gets a PNG of the requested size, whatever the engine returned."""
    async with new_client(tmp_path, engine(data)) as client:
        form = {"size": "256x256", "response_format": "b64_json"}
        answer = await client.post(PATH, data=form, files=image_part())
    assert SquarePNG(base64.b64decode(answer.json()["data"][0]["b64_json"])).side == 256


async def test_an_engine_must_return_an_image(tmp_path: Path) -> None:
    """An engine that returns no image is a failure of the server."""
    async with new_client(tmp_path, FileEngine(b"not an image")) as client:
        error_of(await client.post(PATH, files=image_part()), 500)


async def test_images_that_are_paid_for_are_sent(tmp_path: Path) -> None:
    """If a hosted engine makes one of two images, the client gets that one instead of an error."""
    async with new_client(tmp_path, FileEngine(square_png(256))) as client:
        form = {"n": "2", "size": "256x256", "response_format": "b64_json"}
        answer = await client.post(PATH, data=form, files=image_part())
    assert [SquarePNG(base64.b64decode(i["b64_json"])).side for i in answer.json()["data"]] == [256]


async def test_an_engines_key_is_not_the_clients(tmp_path: Path) -> None:
    """If the server of a hosted engine refuses its key, the client does not get a 401."""
    async with new_client(
        tmp_path, FailingEngine(AuthenticationError("Wrong key sk-ours."))
    ) as client:
        response = await client.post(PATH, files=image_part())
    error_of(response, 500)
    assert "sk-ours" not in response.text


async def test_a_jpeg_with_many_scans_is_refused(client: httpx.AsyncClient) -> None:
    """A form takes only PNG, whatever the name of the file, so nothing else is decoded."""
    for name, kind in (("a.png", "image/png"), ("a.jpg", "image/jpeg")):
        response = await client.post(PATH, files=image_part(with_scans(300), name, kind))
        assert "not a PNG file" in error_of(response, 400)["message"]


async def test_a_result_with_many_scans_is_a_failure(tmp_path: Path) -> None:
    """A result with many scans is a failure of the engine, and is not decoded."""

    class Scans(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            return ImagesResponse.from_pngs([with_scans(300)], response_format="b64_json")

    async with new_client(tmp_path, Scans()) as client:
        error_of(await client.post(PATH, files=image_part()), 500)


# Keys...


async def test_a_key_is_required(tmp_path: Path) -> None:
    """A missing key and an incorrect one are different errors."""
    async with new_client(tmp_path, api_key="sk-right") as client:
        for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer"}):
            response = await client.post(PATH, files=image_part(), headers=headers)
            assert error_of(response, 401)["code"] is None
            assert response.headers["www-authenticate"].startswith("Bearer")
        for key in ("sk-wrong", "sk-rightx", "\u00e4"):
            header = f"Bearer {key}".encode("latin-1")
            response = await client.post(
                PATH, files=image_part(), headers={b"authorization": header}
            )
            error = error_of(response, 401)
            assert error["code"] == "invalid_api_key"
            assert key not in error["message"]
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        headers = {"authorization": "Bearer sk-right"}
        response = await client.post(PATH, files=image_part(), headers=headers)
        assert response.status_code == 200
        assert (await client.get(response.json()["data"][0]["url"])).status_code == 200


async def test_pages_of_other_origins_are_refused(tmp_path: Path) -> None:
    """Without a key, only programs and the server's own page may call."""
    async with new_client(tmp_path, public_url="https://img.example") as client:
        for origin in ("https://evil.example", "null", "http://images.example.evil"):
            response = await client.post(PATH, files=image_part(), headers={"origin": origin})
            assert "of other origins" in error_of(response, 403)["message"]
        for origin in ("http://images.example", "https://img.example"):
            response = await client.post(PATH, files=image_part(), headers={"origin": origin})
            assert response.status_code == 200
    async with new_client(tmp_path, api_key="sk-right") as client:
        headers = {"origin": "https://my.example", "authorization": "Bearer sk-right"}
        assert (await client.post(PATH, files=image_part(), headers=headers)).status_code == 200


# URLs of images...


async def test_a_url_expires(tmp_path: Path) -> None:
    """An expired URL, or one that was changed, gets the 403 of the vendor's storage."""
    async with new_client(tmp_path, url_ttl=0.5) as client:
        url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
        assert (await client.get(url)).status_code == 200
        changed_urls = [
            url.replace("se=", "se=9"),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.partition("?")[0],
            url.replace("sig=", "sig=%C3%A4"),
            re.sub("files/.", "files/%2e%2e%2f", url),
        ]
        for address in changed_urls:
            assert (await client.get(address)).status_code in (403, 404)
        await asyncio.sleep(0.6)
        response = await client.get(url)
        assert response.status_code == 403
        assert response.headers["content-type"].startswith("application/xml")
        assert "<Code>AuthenticationFailed</Code>" in response.text


async def test_expired_images_are_removed(tmp_path: Path) -> None:
    """Expired images are removed from the disk even if there are no requests."""
    app = create_app("instant", store_dir=tmp_path, url_ttl=0.2)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        await client.post(PATH, files=image_part())
        assert list(tmp_path.glob("*.png"))
        for _ in range(100):
            if not list(tmp_path.glob("*.png")):
                break
            await asyncio.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


async def test_a_url_survives_a_restart(tmp_path: Path) -> None:
    """The folder keeps the images and the key that signs their names."""
    async with new_client(tmp_path) as client:
        url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
    async with new_client(tmp_path) as client:
        assert (await client.get(url)).status_code == 200
    async with new_client(tmp_path / "other") as client:
        assert (await client.get(url)).status_code == 403


async def test_head_and_ranges_are_supported(client: httpx.AsyncClient) -> None:
    """An image supports HEAD and ranges of bytes."""
    url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
    whole = (await client.get(url)).content
    head = await client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole))
    assert re.fullmatch(r"private, max-age=\d+, immutable", head.headers["cache-control"])
    length = len(whole)
    tag = head.headers["etag"]
    for range_header, first, end in (
        ("bytes=1-3", 1, 4),
        ("BYTES=5-", 5, length),
        ("bytes=-7", length - 7, length),
        (f"bytes=-{length + 1}", 0, length),
        (f"bytes=2-{length * 2}", 2, length),
    ):
        part = await client.get(url, headers={"range": range_header, "if-range": tag})
        assert (part.status_code, part.content) == (206, whole[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{length}"
        assert (await client.head(url, headers={"range": range_header})).status_code == 200


@pytest.mark.parametrize(
    "range_header",
    ["items=0-1", "bytes=a-b", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "x"],
)
async def test_an_invalid_range_is_ignored(client: httpx.AsyncClient, range_header: str) -> None:
    """An invalid range is ignored, as RFC 9110 requires, and several ranges are too."""
    url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
    whole = await client.get(url)
    answer = await client.get(url, headers={"range": range_header})
    assert (answer.status_code, answer.content) == (200, whole.content)


async def test_a_range_beyond_the_end_gets_a_416(client: httpx.AsyncClient) -> None:
    """A range beyond the end gets a 416 with the length, in the envelope."""
    url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
    length = len((await client.get(url)).content)
    for range_header in (f"bytes={length}-", "bytes=-0"):
        answer = await client.get(url, headers={"range": range_header})
        assert answer.headers["content-range"] == f"bytes */{length}"
        assert f"{length:,} bytes" in error_of(answer, 416)["message"]


async def test_a_cached_image_is_not_sent_again(client: httpx.AsyncClient) -> None:
    """A cached image is not sent again, even if the same image was made again."""
    first_response, second_response = [
        (await client.post(PATH, files=image_part())).json()["data"][0]["url"] for _ in range(2)
    ]
    tag = (await client.get(first_response)).headers["etag"]
    for tags in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await client.get(second_response, headers={"if-none-match": tags})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for headers in ({"if-none-match": '"x"'}, {"range": "bytes=1-2", "if-range": '"x"'}):
        assert (await client.get(first_response, headers=headers)).status_code == 200


async def test_the_store_has_a_size_limit(tmp_path: Path) -> None:
    """At the size limit, the oldest images make room for the newest, and get a 404."""
    async with new_client(tmp_path, store_max_bytes=2000) as client:
        urls = []
        for side in range(1, 30):
            form = {"size": "256x256"}
            answer = await client.post(PATH, data=form, files=image_part(square_png(side)))
            urls.append(answer.json()["data"][0]["url"])
        assert (await client.get(urls[-1])).status_code == 200
        assert error_of(await client.get(urls[0]), 404)["message"].startswith(
            "This image was removed"
        )
    paths = [path for path in (tmp_path / "store").iterdir() if path.suffix == ".png"]
    assert sum(path.stat().st_size for path in paths) <= 2000


async def test_a_public_url_begins_the_urls(tmp_path: Path) -> None:
    """Behind a proxy, the URLs of images are those that clients can reach."""
    async with new_client(tmp_path, public_url="https://img.example/api/") as client:
        url = (await client.post(PATH, files=image_part())).json()["data"][0]["url"]
    assert url.startswith("https://img.example/api/files/")


# Idempotency...


class CountingEngine(InstantEngine):
    """Counts its calls, and takes some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.max_running = 0
        self.running = 0
        self._seconds = seconds

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Count the call, wait and answer."""
        self.calls += 1
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        time.sleep(self._seconds)
        self.running -= 1
        return super().create_variation(request)


async def test_a_repeated_key_is_answered_once(tmp_path: Path) -> None:
    """Requests with one key get one answer, and a different request with it gets a 409."""
    engine = CountingEngine(0.05)
    async with new_client(tmp_path, engine) as client:
        key = {"idempotency-key": "k1"}
        posts = [client.post(PATH, files=image_part(), headers=key) for _ in range(5)]
        bodies = {response.content for response in await asyncio.gather(*posts)}
        bodies.add((await client.post(PATH, files=image_part(), headers=key)).content)
        assert len(bodies) == 1
        assert engine.calls == 1
        error_of(await client.post(PATH, data={"n": "2"}, files=image_part(), headers=key), 409)
        await client.post(PATH, files=image_part(), headers={"idempotency-key": "k2"})
        await client.post(PATH, files=image_part())
        assert engine.calls == 3
        long_key = {"idempotency-key": "k" * 256}
        error_of(await client.post(PATH, files=image_part(), headers=long_key), 400)


async def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    """After a failure, a request with the same key may try again."""
    engine = FailingEngine(RuntimeError())
    async with new_client(tmp_path, engine) as client:
        key = {"idempotency-key": "k1"}
        error_of(await client.post(PATH, files=image_part(), headers=key), 500)
        engine.create_variation = InstantEngine().create_variation  # type: ignore[method-assign]  # it works again
        assert (await client.post(PATH, files=image_part(), headers=key)).status_code == 200


# Under load...


async def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    """A full queue gives a 429 with the time to wait in its header and its text."""
    engine = CountingEngine(0.1)
    async with new_client(tmp_path, engine, workers=2, queue=3) as client:
        posts = [client.post(PATH, files=image_part()) for _ in range(8)]
        answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 3
    assert engine.max_running == 2
    refusal = next(answer for answer in answers if answer.status_code == 429)
    error = error_of(refusal, 429)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert f"try again in {refusal.headers['retry-after']}s" in error["message"]


async def test_slots_are_given_back(tmp_path: Path) -> None:
    """Slots are freed after failures and cancelled requests as well as after successes."""
    engine = CountingEngine(0.1)
    async with new_client(tmp_path, engine, workers=1, queue=10) as client:
        posts = [asyncio.create_task(client.post(PATH, files=image_part())) for _ in range(6)]
        await asyncio.sleep(0.15)
        for post in posts[1:5]:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert (await client.post(PATH, files=image_part())).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert engine.max_running == 1
    assert "image_variation_running 0.0" in metrics
    assert "image_variation_waiting 0.0" in metrics


class DeafEngine(InstantEngine):
    """Does not notice that a call was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.finish = threading.Event()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Work until it may finish."""
        self.calls += 1
        self.finish.wait(60)
        return super().create_variation(request)


async def wait_for_calls(engine: DeafEngine, count: int) -> None:
    """Wait until the engine has been called that often."""
    async with asyncio.timeout(60):
        while engine.calls < count:
            await asyncio.sleep(0.01)


async def test_a_slot_is_taken_until_the_engine_ends(tmp_path: Path) -> None:
    """The slot of a cancelled request is free only when the engine has stopped."""
    engine = DeafEngine()
    async with new_client(tmp_path, engine, workers=1, queue=0) as client:
        post = asyncio.create_task(client.post(PATH, files=image_part()))
        await wait_for_calls(engine, 1)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(post, 60)
        assert "image_variation_running 1.0" in (await client.get("/metrics")).text
        error_of(await client.post(PATH, files=image_part()), 429)
        engine.finish.set()
        async with asyncio.timeout(60):
            while "image_variation_running 0.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
        assert (await client.post(PATH, files=image_part())).status_code == 200


async def test_a_retry_need_not_wait_for_the_engine(tmp_path: Path) -> None:
    """A retry with the key of a cancelled request starts while the engine is still working."""
    engine = DeafEngine()
    async with new_client(tmp_path, engine, workers=2) as client:
        headers = {"idempotency-key": "k1"}
        post = asyncio.create_task(client.post(PATH, files=image_part(), headers=headers))
        await wait_for_calls(engine, 1)
        post.cancel()
        retry = asyncio.create_task(client.post(PATH, files=image_part(), headers=headers))
        await wait_for_calls(engine, 2)
        engine.finish.set()
        assert (await retry).status_code == 200


async def test_a_draining_server_refuses_requests(tmp_path: Path) -> None:
    """A draining server answers requests and the load balancer's health check with a 503."""
    app = create_app("instant", store_dir=tmp_path)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/healthz")).json() == {"status": "ready"}
        app.state.is_draining = True
        assert (await client.get("/healthz")).status_code == 503
        error_of(await client.post(PATH, files=image_part()), 503)


async def test_each_request_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is logged in a line without key, user or query, which can be JSON."""
    caplog.set_level(logging.INFO, "langchain_image_variation.server")
    async with new_client(tmp_path, api_key="sk-right") as client:
        headers = {"authorization": "Bearer sk-right"}
        await client.post(PATH + "?q=1", data={"user": "u1"}, files=image_part(), headers=headers)
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
    """A failure and its traceback are one line of JSON, and other loggers' records are too."""
    async with new_client(tmp_path, FailingEngine(RuntimeError("two\nlines"))) as client:
        response = await client.post(PATH, files=image_part())
    logging.getLogger("uvicorn.error").warning("odd %s", "request")
    lines = [JSONLines().format(record) for record in caplog.records if record.levelno > 20]
    assert "\n" not in "".join(lines)
    failure, warning = map(json.loads, lines)
    assert failure["level"] == "error"
    assert failure["request_id"] == response.headers["x-request-id"]
    assert "RuntimeError: two\nlines" in failure["traceback"]
    assert warning == {"level": "warning", "message": "odd request"}


async def test_metrics_count_requests(client: httpx.AsyncClient) -> None:
    """Requests are counted by path and status, and unknown paths count as "other"."""
    await client.post(PATH, files=image_part())
    await client.get("/nowhere")
    text = (await client.get("/metrics")).text
    assert f'image_variation_requests_total{{path="{PATH}",status="200"}} 1.0' in text
    assert 'image_variation_requests_total{path="other",status="404"} 1.0' in text


async def test_metrics_count_the_playground(client: httpx.AsyncClient) -> None:
    """The page, its photo and its polls for progress count under their own paths."""
    for path in ("/", "/sample.jpg", "/progress/unknown", "/nowhere"):
        await client.get(path)
    text = (await client.get("/metrics")).text
    for path, status in (("/", 200), ("/sample.jpg", 200), ("/progress", 404), ("other", 404)):
        labels = f'path="{path}",status="{status}"'
        assert f"image_variation_requests_total{{{labels}}} 1.0" in text


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
def test_settings_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], param: str
) -> None:
    """`create_app` raises an error that names the setting."""
    with pytest.raises(InvalidRequestError) as caught:
        create_app("instant", **{"store_dir": tmp_path, **options})
    assert caught.value.param == param


def test_a_missing_engine_or_folder_is_refused(tmp_path: Path) -> None:
    """`create_app` raises an error for a missing engine or folder."""
    with pytest.raises(EngineNotFoundError):
        create_app("magic", store_dir=tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        create_app("instant", store_dir=tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "from langchain_image_variation import create_app",
        "from langchain_image_variation.server import create_app",
    ],
)
def test_a_missing_extra_is_named(statement: str) -> None:
    """Without the extra, an ImportError names it, and the package itself can be imported."""
    script = "import sys; sys.modules['starlette'] = None; import langchain_image_variation\n"
    done = subprocess.run(
        [sys.executable, "-c", script + statement], capture_output=True, text=True, timeout=60
    )
    assert install_command("langchain-image-variation[server]") in done.stderr
    assert "MissingExtraError" in done.stderr
