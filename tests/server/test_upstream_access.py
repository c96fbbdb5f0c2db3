"""Nobody reaches another server through this one, and no web page spends the upstream's key."""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from langchain_image_variation.server import create_app
from langchain_image_variation.server.upstream_address import UpstreamAddress
from tests.server.serving import serving
from tests.server.upstreams import FakeVendor, exchange, forwarding, forwarding_to_vendor

KEY = {"authorization": "Bearer sk-callers"}
TRICKS = [
    *("//evil.example/v1/chat", "/v1//evil.example/chat", "/v1/chat//x", "//v1/chat"),
    *("/v1/../admin", "/v1/..", "/v1/.", "/v1/./chat", "/v1/chat/../../../admin"),
    *("/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/.%2e/admin", "/v1/..%2f..%2fadmin"),
    *("/v1/%252e%252e/admin", "/v1/%252e%252e%252fadmin", "/v1/%25252e%25252e%25252fadmin"),
    *("/v1/..%5c..%5cadmin", "/v1/a%5cb", "/v1/..\\admin", "/v1/..;/admin", "/v1/..;a=b/admin"),
    *("/v1/%2f/evil.example", "/v1/%2fevil.example/x", "/v1/a%00b", "/v1/a%0d%0aHost:%20x"),
    *("/v1/%2525252525252e", "/v1%2fchat%2f..%2f..", "/%76%31/../x", "/v1@evil.example/chat"),
    *("/v1/%c0%ae%c0%ae/x", "/v1/%c0%ae%c0%ae%c0%afx", "/v1/a/%e0%80%ae%e0%80%ae/x"),
    *("/v1/%25c0%25ae%25c0%25ae/x", "/v1/%ff/x", "/v1/chat#/../../x", "/v1/chat?a#b", "/v1/#"),
    *("/v1.evil.example/chat", "/v1:80/chat", "/V1/chat"),
]
"""Targets with which clients have left the path, or the server, of other proxies."""


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeVendor]]:
    """The address of a server without a key, and its upstream."""
    with forwarding_to_vendor(tmp_path_factory.mktemp("open")) as (address, vendor):
        yield address, vendor


def send(address: str, method: str, target: str, *headers: str, host: str = "localhost") -> int:
    """Send a request whose target is not normalized, and return the status."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "Connection: close"]
    answer = exchange(address, "\r\n".join([*lines, "", ""]).encode())
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("target", TRICKS)
def test_tricks_with_paths_are_not_forwarded(
    open_door: tuple[str, FakeVendor], target: str
) -> None:
    """A path that some server could read as another one gets a 404 or a 400 here."""
    address, vendor = open_door
    vendor.requests.clear()
    assert send(address, "GET", target) in (400, 404)
    assert vendor.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/v1/chat",
        "https://evil.example:1/v1/chat",
        "http://localhost@evil.example/v1/chat",
        "//evil.example",
        "evil.example:443",
        "*",
    ],
)
def test_other_forms_of_targets_name_no_server(
    open_door: tuple[str, FakeVendor], target: str
) -> None:
    """A target that names a server is never sent there: it is refused, or its path is sent on."""
    address, vendor = open_door
    vendor.requests.clear()
    assert send(address, "GET", target) in (200, 400, 403, 404)
    assert set(vendor.targets) <= {"/base/v1/chat"}
    assert send(address, "CONNECT", target) in (400, 403, 404, 405)


PIECES = st.sampled_from(
    [
        *("/", "//", ".", "..", "%2e", "%2E%2e", "%252e", "%2f", "%2F", "%5c", "\\", ";", "%3b"),
        *("@", ":", "http:", "evil.example", "a", "%00", "%0a", "é", "%C3%A9", "%", "%25", "?"),
        *(" ", "#", "[", "\t", "v1", "base"),
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_path_never_leaves_the_upstream(text: str) -> None:
    """However a server decodes and normalizes a forwarded path, it stays below the upstream's."""
    address = UpstreamAddress("https://api.example:8443/base/v1")
    path, _, query = text.partition("?")
    scope = {
        "path": f"/v1/{path}",
        "raw_path": f"/v1/{path}".encode(),
        "query_string": query.encode(),
        "root_path": "",
    }
    url = address.for_scope(scope)
    if url is None:
        return
    assert (url.scheme, url.host, url.port) == (b"https", b"api.example", 8443)
    target = url.target.decode("ascii").partition("?")[0]
    for _ in range(6):
        plain = target.replace("\\", "/")
        without_parameters = "/".join(part.partition(";")[0] for part in plain.split("/"))
        for reading in (target, plain, without_parameters):
            normal = posixpath.normpath(reading)
            assert normal == "/base/v1" or normal.startswith("/base/v1/")
        target = unquote(target)


def test_the_host_of_a_request_does_not_count(tmp_path: Path) -> None:
    """With a key, a request may name any host, and the upstream gets its own name."""
    with forwarding_to_vendor(tmp_path, api_key="sk-1") as (address, vendor):
        header = "Authorization: Bearer sk-1"
        assert send(address, "GET", "/v1/chat", header, host="evil.example") == 200
        assert vendor.headers["host"].startswith("127.0.0.1:")
        assert vendor.headers["host"] != "evil.example"


def test_redirects_are_passed_back(open_door: tuple[str, FakeVendor]) -> None:
    """A redirect of the upstream is the client's to follow."""
    address, vendor = open_door
    vendor.requests.clear()
    answer = httpx.get(f"{address}/v1/elsewhere", headers=KEY)
    assert answer.status_code == 307
    assert answer.headers["location"] == "http://127.0.0.1:9/stolen"
    assert vendor.targets == ["/base/v1/elsewhere"]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "odd"])
def test_other_methods_are_not_forwarded(open_door: tuple[str, FakeVendor], method: str) -> None:
    """TRACE would show the upstream's key to the client, and nobody needs the others."""
    address, vendor = open_door
    vendor.requests.clear()
    assert send(address, method, "/v1/chat") == 405
    assert vendor.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: http://evil.example",),
        ("Origin: null",),
        ("Origin: http://localhost:3000", "Sec-Fetch-Site: same-site"),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
        ("Sec-Fetch-Site: same-site",),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
    ],
    ids=" ".join,
)
def test_web_pages_cannot_forward(
    open_door: tuple[str, FakeVendor], headers: tuple[str, ...]
) -> None:
    """Without a key, what pages of other sites send is not forwarded, nor are their preflights."""
    address, vendor = open_door
    vendor.requests.clear()
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
        for target in ("/v1/chat/completions", "/v1/models", "/v1/models/gpt-9"):
            if target != "/v1/models" or method == "GET":
                asked = "Access-Control-Request-Headers: authorization"
                assert send(address, method, target, asked, *headers) == 403
    assert vendor.requests == []


def test_rebound_names_cannot_forward(open_door: tuple[str, FakeVendor]) -> None:
    """Without a key, a name that was made to resolve to this machine is refused."""
    address, vendor = open_door
    vendor.requests.clear()
    for target in ("/v1/chat/completions", "/v1/models", "/v1/models/gpt-9"):
        for header in ("Origin: http://evil.example", "Sec-Fetch-Site: same-origin"):
            assert send(address, "GET", target, header, host="evil.example") == 403
            assert send(address, "POST", target, header, host="evil.example") == 403
    assert vendor.requests == []


def test_our_own_page_may_forward(open_door: tuple[str, FakeVendor]) -> None:
    """The server's own page and what a user types in may call the upstream."""
    address, _ = open_door
    host = address.removeprefix("http://")
    for headers in (
        ("Sec-Fetch-Site: none",),
        ("Sec-Fetch-Site: same-origin",),
        (f"Origin: {address}", "Sec-Fetch-Site: same-origin"),
    ):
        assert send(address, "GET", "/v1/chat", *headers, host=host) == 200


def test_pages_of_the_upstream_have_no_origin(open_door: tuple[str, FakeVendor]) -> None:
    """If a browser shows an answer as a page, the page is not of this server's origin."""
    address, _ = open_door
    for path in ("chat", "limited", "elsewhere"):
        headers = httpx.get(f"{address}/v1/{path}").headers
        assert headers["content-security-policy"] == "sandbox"
        assert headers.get_list("x-content-type-options") == ["nosniff"]
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/v1/realtime?model=gpt-9", "/v1/responses"])
def test_websockets_get_a_501(open_door: tuple[str, FakeVendor], path: str) -> None:
    """A request for a WebSocket is answered here, and says why."""
    address, vendor = open_door
    vendor.requests.clear()
    headers = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = httpx.get(f"{address}{path}", headers=headers)
    assert answer.status_code == 501
    assert answer.json()["error"]["message"].startswith("WebSockets are not forwarded.")
    assert vendor.requests == []
    assert httpx.post(f"{address}/v1/realtime/client_secrets").status_code == 200


def test_websockets_of_other_servers_get_a_501(tmp_path: Path) -> None:
    """An ASGI server that supports WebSockets sends the same answer, if it can."""
    app = create_app("instant", upstream="http://127.0.0.1:9/v1", store_dir=tmp_path)
    with (
        TestClient(app, base_url="http://localhost") as client,
        pytest.raises(WebSocketDisconnect) as caught,
        client.websocket_connect("/v1/realtime"),
    ):
        pass
    assert getattr(caught.value, "status_code", None) == 501


def test_without_an_upstream_nothing_changes(tmp_path: Path) -> None:
    """Without an upstream, other paths and WebSockets get a 404."""
    app = create_app("instant", store_dir=tmp_path)
    with serving(app) as address:
        for target in ("/v1/chat/completions", "/v1/realtime", "/v1/models/gpt-9"):
            assert send(address, "GET", target, "Upgrade: websocket") == 404
        assert send(address, "DELETE", "/v1/models/gpt-9") == 405
        assert send(address, "GET", "/v1/models", "Sec-Fetch-Site: cross-site") == 200


def test_a_loop_ends(tmp_path: Path) -> None:
    """If requests come back through another server, the loop ends at once, with an error."""
    addresses: list[str] = []

    async def send_back(request: Request) -> Response:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{addresses[0]}/v1/chat", headers={**request.headers})
        return Response(answer.content, answer.status_code)

    balancer = Starlette(routes=[Route("/v1/chat", send_back)])
    with serving(balancer) as upstream, forwarding(tmp_path, f"{upstream}/v1") as address:
        addresses.append(address)
        answer = httpx.get(f"{address}/v1/chat")
    assert answer.status_code == 508
    assert "forwards requests to itself" in answer.json()["error"]["message"]
