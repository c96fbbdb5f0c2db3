"""Requests for other paths reach the upstream, and its answers reach the client."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount

from langchain_image_variation.cli import main
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.log import JSONLines
from pytest_image_variation.samples import square_png
from tests.server.serving import server_process, serving
from tests.server.upstreams import (
    HOST_HEADERS,
    UPSTREAM_HEADERS,
    FakeVendor,
    forwarding,
    forwarding_to_vendor,
    raw_upstream,
)

KEY = {"authorization": "Bearer sk-callers"}
CHAT = {"model": "gpt-9", "messages": [], "stream": True}


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeVendor]]:
    """The address of a server without a key, and its upstream."""
    with forwarding_to_vendor(tmp_path_factory.mktemp("open")) as (address, vendor):
        yield address, vendor


def test_other_paths_are_forwarded(open_door: tuple[str, FakeVendor]) -> None:
    """A path that is not ours is sent below the upstream's path, with its query unchanged."""
    address, _ = open_door
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for target in (
            "threads/t%C3%A9/runs?include%5B%5D=a&include[]=b&x=%2F%20",
            "models/meta%2Fllama",
            "",
            "files/a;b:c@d/",
        ):
            answer = httpx.request(method, f"{address}/v1/{target}", headers=KEY)
            assert answer.json() == {"method": method, "target": f"/base/v1/{target}"}
    assert httpx.head(f"{address}/v1/threads").status_code == 200


def test_our_paths_are_not_forwarded(open_door: tuple[str, FakeVendor]) -> None:
    """Our paths are answered here with every method, and so are paths outside of `/v1/`."""
    address, vendor = open_door
    vendor.requests.clear()
    url = f"{address}/v1/images/variations"
    answer = httpx.post(url, files={"image": ("a.png", square_png(8))}, headers=KEY)
    assert len(answer.json()["data"]) == 1
    assert httpx.get(url).status_code == 405
    assert httpx.post(f"{address}/v1/models").status_code == 405
    assert httpx.get(f"{address}/v1/models/dall-e-2").json()["owned_by"].startswith("langchain")
    assert httpx.delete(f"{address}/v1/models/dall-e-2").status_code == 405
    for path in ("/healthz", "/metrics", "/openapi.json", "/"):
        assert httpx.get(f"{address}{path}").status_code == 200
    for path in ("/v1", "/v2/chat", "/files/x", "/base/v1/embeddings"):
        assert httpx.post(f"{address}{path}").status_code in (404, 405)
    assert vendor.targets == []


def test_headers_are_passed_on(open_door: tuple[str, FakeVendor]) -> None:
    """The upstream gets the client's headers, except those of the connection and of browsers."""
    address, vendor = open_door
    kept = {
        **KEY,
        "openai-organization": "org-1",
        "openai-project": "proj-1",
        "x-stainless-lang": "python",
        "idempotency-key": "k",
        "content-type": "application/json",
        "accept-encoding": "br",
        "user-agent": "me",
    }
    dropped = {
        "connection": "close, X-Named",
        "x-named": "1",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "proxy-authorization": "Basic abc",
        "upgrade": "h2c",
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "evil.example",
        "forwarded": "for=10.0.0.1",
        "x-original-url": "/admin",
        "referer": f"{address}/",
        "origin": address,
        "sec-fetch-site": "same-origin",
        "expect": "100-continue",
    }
    httpx.post(f"{address}/v1/responses", headers=kept | dropped, content=b"{}")
    headers = dict(vendor.headers)
    host = headers.pop("host")
    assert host.startswith("127.0.0.1:")
    assert host != address.removeprefix("http://")
    assert headers.pop("via").startswith("1.1 image-variation-")
    assert headers == kept | {"content-length": "2", "accept": "*/*"}


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/images/variations/", "/v1//images/variations", "/v1/images/variations//"),
        *("/v1/v1/images/variations", "/v1/Images/Variations", "/v1/openai/images/variations"),
        *("/v1/images/variations%2F", "/v1%2Fimages/variations/"),
    ],
)
def test_almost_our_path_is_not_forwarded(open_door: tuple[str, FakeVendor], path: str) -> None:
    """An image sent to almost the right address stays here, and the error names the right one."""
    address, vendor = open_door
    vendor.requests.clear()
    files = {"image": ("a.png", square_png(8))}
    answer = httpx.post(f"{address}{path}", files=files, headers=KEY)
    assert answer.status_code == 404
    assert "Use /v1/images/variations: the base URL" in answer.json()["error"]["message"]
    assert vendor.requests == []


def test_answers_are_passed_back(open_door: tuple[str, FakeVendor]) -> None:
    """The upstream's own error comes back unchanged, without what is for its own host."""
    address, _ = open_door
    answer = httpx.post(f"{address}/v1/limited", json={})
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "too_fast"
    expected = {"retry-after": "9", "content-security-policy": "sandbox", **UPSTREAM_HEADERS}
    assert {name: answer.headers[name] for name in expected} == expected
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers.get_list("date") == [answer.headers["date"]]
    for name in (*HOST_HEADERS, "set-cookie", "alt-svc", "access-control-allow-origin", "x-hop"):
        assert name not in answer.headers


def test_compressed_answers_stay_compressed(tmp_path: Path) -> None:
    """A compressed answer keeps its bytes, its encoding and its length."""
    body = b"\x1f\x8b not really gzip"

    def answer(connection: Any) -> None:
        head = f"content-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head.encode() + body)

    with (
        raw_upstream(answer) as upstream,
        forwarding(tmp_path, upstream) as address,
        httpx.stream("GET", f"{address}/v1/files") as received,
    ):
        assert b"".join(received.iter_raw()) == body
        assert received.headers["content-encoding"] == "gzip"
        assert received.headers["content-length"] == str(len(body))


def test_answers_arrive_while_they_are_made(tmp_path: Path) -> None:
    """Each event arrives before the upstream sends the next one."""
    was_read = threading.Semaphore(0)

    def answer(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(5):
            connection.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
            assert was_read.acquire(timeout=20)
        connection.sendall(b"0\r\n\r\n")

    with (
        raw_upstream(answer) as upstream,
        forwarding(tmp_path, upstream) as address,
        httpx.stream("POST", f"{address}/v1/chat/completions", json=CHAT) as received,
    ):
        events = []
        for event in received.iter_raw():
            events.append(event)
            was_read.release()
    assert events == [b"data: %d\n\n" % number for number in range(5)]


@pytest.mark.parametrize("framing", ["chunks", "length"])
def test_bodies_are_sent_while_they_arrive(tmp_path: Path, framing: str) -> None:
    """The upstream gets the start of an upload before the client has sent the rest."""
    arrived = threading.Event()

    def answer(connection: Any) -> None:
        data = b""
        while b"first" not in data:
            data += connection.recv(100)
        arrived.set()
        while b"second" not in data:
            data += connection.recv(100)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def body() -> Iterator[bytes]:
        yield b"first"
        assert arrived.wait(20)
        yield b"second"

    headers = {"content-length": "11"} if framing == "length" else {}
    with raw_upstream(answer) as upstream, forwarding(tmp_path, upstream) as address:
        received = httpx.post(f"{address}/v1/files", content=body(), headers=headers)
    assert received.status_code == 200


def test_large_bodies_arrive_whole(open_door: tuple[str, FakeVendor]) -> None:
    """A body of several megabytes arrives whole, with its length or in chunks."""
    address, vendor = open_door
    content = bytes(range(256)) * 32_768
    for body in (content, (content[i : i + 65_536] for i in range(0, len(content), 65_536))):
        answer = httpx.post(f"{address}/v1/files", content=body, headers=KEY)
        assert answer.json()["bytes"] == len(content)
        assert vendor.requests[-1][2] == content
    vendor.requests.clear()


def test_a_closing_upstream_is_called_again(tmp_path: Path) -> None:
    """If the upstream closes each connection after its answer, the next request opens another."""

    def answer(connection: Any) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

    with raw_upstream(answer) as upstream, forwarding(tmp_path, upstream) as address:
        for _ in range(3):
            assert httpx.get(f"{address}/v1/files").text == "hello"


def test_models_are_merged(open_door: tuple[str, FakeVendor]) -> None:
    """The list of models has ours and then the upstream's, each name once."""
    address, vendor = open_door
    content = httpx.get(f"{address}/v1/models?limit=5", headers=KEY).json()
    assert content["object"] == "list"
    names = [model["id"] for model in content["data"]]
    assert names == ["dall-e-2", "instant", "gpt-9"]
    assert content["data"][0]["owned_by"] == "langchain-image-variation"
    assert vendor.targets[-1] == "/base/v1/models?limit=5"
    assert vendor.headers["authorization"] == "Bearer sk-callers"
    assert vendor.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_for_models_may_have_a_body(
    open_door: tuple[str, FakeVendor], framing: str
) -> None:
    """The body of a request for the list of models is not sent on, and the lists are merged."""
    address, vendor = open_door
    body = b"{}" if framing == "length" else iter([b"{}"])
    answer = httpx.request("GET", f"{address}/v1/models", content=body, headers=KEY)
    assert answer.status_code == 200
    assert "gpt-9" in [model["id"] for model in answer.json()["data"]]
    assert vendor.requests[-1][2] == b""
    assert not vendor.headers.keys() & {"content-length", "transfer-encoding"}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"data": [1]}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 5_000_000,
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": "a", "created": NaN}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": "a", "x": 1e400}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": "a"}], "x": [-1e400]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": "\\ud800"}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": ' + b"9" * 5000 + b"}]}",
        b'HTTP/1.1 200 OK\r\n\r\n{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=[
        *("reset", "401", "no data", "no object", "no names", "no JSON", "gzip", "redirect"),
        *("huge", "NaN", "infinite", "infinite field", "surrogate", "large number", "deep"),
    ],
)
def test_our_models_need_no_upstream(
    tmp_path: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """If the upstream's list cannot be had, our models are listed, and the log says why."""
    caplog.set_level(logging.WARNING)
    with (
        raw_upstream(lambda connection: connection.sendall(answer)) as upstream,
        forwarding(tmp_path, upstream) as address,
    ):
        content = httpx.get(f"{address}/v1/models").json()
    assert [model["id"] for model in content["data"]] == ["dall-e-2", "instant"]
    assert "no models of the upstream" in caplog.text


def test_our_models_need_no_reachable_upstream(tmp_path: Path) -> None:
    """If nothing listens at the upstream, our models are listed, and other paths get a 502."""
    with forwarding(tmp_path, "http://127.0.0.1:9/v1") as address:
        content = httpx.get(f"{address}/v1/models").json()
        assert [model["id"] for model in content["data"]] == ["dall-e-2", "instant"]
        assert httpx.get(f"{address}/v1/models/gpt-9").status_code == 502


def test_a_key_is_replaced(tmp_path: Path) -> None:
    """With a server's key, only that key passes, and the upstream gets its own."""
    account = {"openai-organization": "o", "openai-project": "p", "api-key": "k", "x-api-key": "k"}
    keys = {"api_key": "sk-ours", "upstream_api_key": "sk-upstreams"}
    with forwarding_to_vendor(tmp_path, **keys) as (address, vendor):
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer sk-upstreams"}, 401),
            ({"authorization": "Basic sk-ours"}, 401),
            ({"authorization": "Bearer sk-ours", **account}, 200),
        ):
            for path in ("chat", "models", "models/gpt-9"):
                answer = httpx.get(f"{address}/v1/{path}", headers=headers)
                assert answer.status_code == status
            assert len(vendor.requests) == (3 if status == 200 else 0)
        for _, sent, _ in vendor.requests:
            assert sent["authorization"] == "Bearer sk-upstreams"
            assert not sent.keys() & account.keys()


def test_our_key_is_not_passed_on(tmp_path: Path) -> None:
    """Without a key for the upstream, requests that had our key have none there."""
    with forwarding_to_vendor(tmp_path, api_key="sk-ours") as (address, vendor):
        headers = {"authorization": "Bearer sk-ours"}
        assert httpx.get(f"{address}/v1/chat", headers=headers).status_code == 200
    assert "authorization" not in vendor.headers


def test_the_log_has_no_keys_and_bodies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the level of the log, it shows no key, query or body of a forwarded request."""
    caplog.set_level(logging.DEBUG)
    keys = {"api_key": "sk-secret-ours", "upstream_api_key": "sk-secret-upstreams"}
    with forwarding_to_vendor(tmp_path, **keys) as (address, _):
        sent = f"{address}/v1/chat/completions?key=secret-query"
        headers = {"authorization": "Bearer sk-secret-ours"}
        with httpx.Client(headers=headers) as client:
            caplog.clear()
            client.post(sent, json={**CHAT, "model": "secret-model"})
    server_records = [
        record.getMessage() for record in caplog.records if not record.name.startswith("httpx")
    ]
    assert any("/v1/chat/completions" in message for message in server_records)
    assert [message for message in server_records if "secret" in message] == []


@pytest.mark.parametrize(
    ("sent_id", "is_logged"),
    [("req_upstream", True), ("r" * 129, False), ("two words", False), ("caf\xe9", False)],
)
def test_the_log_has_the_upstreams_id(
    tmp_path: Path, sent_id: str, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A forwarded request is logged with both its IDs, if the upstream's is short and plain."""
    caplog.set_level(logging.INFO, "langchain_image_variation.server")
    answer = Response(headers={"x-request-id": sent_id})
    with serving(answer) as upstream, forwarding(tmp_path, f"{upstream}/v1") as address:
        assert httpx.get(f"{address}/v1/files").headers["x-request-id"] == sent_id
    (record,) = [each for each in caplog.records if "/v1/files" in each.getMessage()]
    line = json.loads(JSONLines().format(record))
    assert line["request_id"].startswith("req_")
    assert line.get("upstream_request_id") == (sent_id if is_logged else None)
    assert record.getMessage().endswith(f" (upstream: {sent_id})") is is_logged


async def test_a_mounted_app_forwards(tmp_path: Path) -> None:
    """An app that is mounted below a path forwards what comes after that path."""
    with serving(FakeVendor().app) as upstream:
        app = create_app("instant", upstream=f"{upstream}/base/v1/", store_dir=tmp_path)
        transport = httpx.ASGITransport(Starlette(routes=[Mount("/my img", app)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/my%20img/v1/a%2Fb?c=%20")
            assert answer.json()["target"] == "/base/v1/a%2Fb?c=%20"
            assert (await client.get("/my%20img/v2/a")).status_code == 404
        await app.state.upstream.aclose()


@pytest.mark.parametrize(
    ("settings", "param", "message"),
    [
        ({"upstream": "api.openai.com/v1"}, "upstream", "such as https://api.openai.com/v1"),
        ({"upstream": "ftp://api.example/v1"}, "upstream", "must be a URL"),
        ({"upstream": "https://"}, "upstream", "must be a URL"),
        ({"upstream": "https://me:hunter2@api.example/v1"}, "upstream", "without a user name"),
        ({"upstream": "https://api.example/v1?key=hunter2"}, "upstream", "must be a URL"),
        ({"upstream": "https://api.example/v1#hunter2"}, "upstream", "must be a URL"),
        ({"upstream": "https://api.example:99999/"}, "upstream", "must be a URL"),
        ({"upstream": "https://exa mple/"}, "upstream", "must be a URL"),
        ({"upstream": ""}, "upstream", "must be a URL"),
        ({"upstream_api_key": "sk-1", "api_key": "k"}, "upstream_api_key", "needs an upstream"),
        (
            {"upstream": "https://api.example", "upstream_api_key": "hunter2"},
            "upstream_api_key",
            "needs api_key",
        ),
        (
            {"upstream": "https://api.example", "api_key": "k", "upstream_api_key": "hunter2\n"},
            "upstream_api_key",
            "printable ASCII",
        ),
        (
            {"upstream": "https://api.example", "upstream_timeout": 0},
            "upstream_timeout",
            "positive number of seconds",
        ),
    ],
)
def test_invalid_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], param: str, message: str
) -> None:
    """An upstream without a plain URL, or a key that anyone could spend, is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        create_app("instant", store_dir=tmp_path, **settings)
    assert caught.value.param == param
    assert message in caught.value.message
    assert "hunter2" not in json.dumps(str(caught.value))


def test_serve_has_the_options(tmp_path: Path) -> None:
    """`serve` takes the upstream and its key, also from the environment, and says what it does."""
    vendor = FakeVendor()
    keys = {
        "IMAGE_VARIATION_API_KEY": "sk-ours",
        "IMAGE_VARIATION_UPSTREAM_API_KEY": "sk-upstreams",
    }
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--engine", "instant"]
    options = ["--port", "0", "--store-dir", str(tmp_path), "--upstream-timeout", "30"]
    with serving(vendor.app) as upstream:
        url = f"{upstream}/base/v1"
        with server_process(*command, *options, "--upstream", url, settings=keys) as (
            process,
            line,
        ):
            address = line.partition(" at ")[2].partition("/v1.")[0]
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            assert lines[2] == "  OPENAI_API_KEY=the key\n"
            assert (
                lines[3]
                == f"Requests below {address}/v1 that it does not answer itself go to {url}.\n"
            )
            headers = {"authorization": "Bearer sk-ours"}
            assert httpx.get(f"{address}/v1/chat", headers=headers).status_code == 200
    assert vendor.headers["authorization"] == "Bearer sk-upstreams"


@pytest.mark.mostly_slow("/")
@pytest.mark.parametrize("path", ["", "/", "/v1"])
def test_serve_notes_an_upstream_without_a_path(tmp_path: Path, path: str) -> None:
    """`serve` says so at its start if the URL of the upstream has no path, which is often `/v1`."""
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--engine", "instant"]
    options = ["--port", "0", "--store-dir", str(tmp_path)]
    url = f"http://127.0.0.1:9{path}"
    with server_process(*command, *options, "--upstream", url) as (process, _):
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
    assert lines[3].endswith(f" go to {url}.\n")
    note = (
        "That URL has no path. If clients of the upstream use http://127.0.0.1:9/v1, "
        "pass --upstream http://127.0.0.1:9/v1.\n"
    )
    assert (lines[4] == note) == (path != "/v1")


def test_serve_refuses_a_key_that_anyone_could_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` does not start with a key for the upstream, but none for itself."""
    monkeypatch.setenv("IMAGE_VARIATION_API_KEY", "")
    options = ["--upstream", "https://api.example/v1", "--upstream-api-key", "hunter2"]
    assert main(["serve", "--engine", "instant", *options, "--store-dir", str(tmp_path)]) != 0
    printed = capsys.readouterr()
    assert "--upstream-api-key needs --api-key" in printed.err
    assert "hunter2" not in printed.err + printed.out
