"""Which web pages of other origins may call the server (the Fetch standard's CORS protocol)."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.cli import main
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.access import Access
from pytest_image_variation.samples import square_png
from tests.server.serving import serving

PATH = "/v1/images/variations"
PAGE = "http://localhost:5173"
OTHER = "https://evil.example"
KEY = {"authorization": "Bearer sk-1"}
SMALL = {"size": "256x256", "response_format": "b64_json"}


class FaultyEngine(InstantEngine):
    """Has a bug."""

    def create_variation(self, request: Any) -> Any:
        """Fail."""
        raise RuntimeError


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    """Clients of servers on sockets, by what the servers allow."""
    settings: dict[str, dict[str, Any]] = {
        "page": {"cors_origins": [PAGE]},
        "nobody": {},
        "page with key": {"cors_origins": [PAGE, "https://app.example.org"], "api_key": "sk-1"},
        "all with key": {"cors_origins": ["*"], "api_key": "sk-1"},
        "faulty": {"engine": FaultyEngine(), "cors_origins": [PAGE]},
    }
    with ExitStack() as stack:
        clients = {}
        for name, options in settings.items():
            app = create_app(
                options.pop("engine", "instant"),
                store_dir=tmp_path_factory.mktemp("store"),
                **options,
            )
            url = stack.enter_context(serving(app))
            clients[name] = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        yield clients


def preflight(
    client: httpx.Client, origin: str, path: str = PATH, **headers: str
) -> httpx.Response:
    """Ask as a browser does before a POST of the vendor's SDK."""
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-lang,x-stainless-os",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return client.options(path, headers=asked)


def post(client: httpx.Client, origin: str | None, **options: Any) -> httpx.Response:
    """Send a form as a page of this origin does."""
    headers = {**options.pop("headers", {}), **({} if origin is None else {"origin": origin})}
    options = {"files": {"image": square_png(8)}, "data": SMALL, **options}
    return client.post(PATH, headers=headers, **options)


@pytest.mark.parametrize(
    ("server", "origin", "allowed"),
    [
        ("page", PAGE, PAGE),
        ("page with key", PAGE, PAGE),
        ("page with key", "https://app.example.org", "https://app.example.org"),
        ("all with key", PAGE, "*"),
        ("all with key", "null", "*"),
    ],
)
def test_a_page_may_call(
    servers: dict[str, httpx.Client], server: str, origin: str, allowed: str
) -> None:
    """A page of an allowed origin may send a request, with any header, and read the answer."""
    asked = preflight(servers[server], origin, access_control_request_private_network="true")
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == allowed
    assert "POST" in asked.headers["access-control-allow-methods"]
    # A browser does not take * for Authorization.
    assert asked.headers["access-control-allow-headers"] == (
        "authorization,x-stainless-lang,x-stainless-os"
    )
    assert asked.headers["access-control-allow-private-network"] == "true"
    # An answer that is the same for all pages need not vary.
    assert allowed == "*" or "Origin" in asked.headers["vary"]
    assert "x-request-id" in asked.headers
    answer = post(servers[server], origin, headers=KEY)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == allowed
    assert answer.headers["access-control-expose-headers"] == "*"
    assert allowed == "*" or "Origin" in answer.headers["vary"]
    assert not any("credentials" in name for name in (*asked.headers, *answer.headers))


def test_the_files_can_be_read(servers: dict[str, httpx.Client]) -> None:
    """A page can fetch the URLs that it gets, whole, in part, and when they have expired."""
    client, origin = servers["page"], {"origin": PAGE}
    (entry,) = post(client, PAGE, data={"size": "256x256"}).json()["data"]
    url = entry["url"]
    answers = [
        client.get(url, headers=origin),
        client.get(url, headers={**origin, "range": "bytes=0-7"}),
        client.get(url.replace("sig=", "sig=0"), headers=origin),
        client.get(url, headers={**origin, "range": "bytes=999999999-"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 206, 403, 416]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {PAGE}
    assert answers[1].content == square_png(8)[:8]


def test_errors_can_be_read(servers: dict[str, httpx.Client]) -> None:
    """A page can read each error, also of a bug and of a key, an address or a method."""
    answers = [
        post(servers["page"], PAGE, data={"n": "11"}),
        post(servers["page with key"], PAGE),
        servers["page"].post("/images/variations", headers={"origin": PAGE}),
        servers["page"].get(PATH, headers={"origin": PAGE}),
        post(servers["faulty"], PAGE),
    ]
    assert [answer.status_code for answer in answers] == [400, 401, 404, 405, 500]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {PAGE}
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert all("x-request-id" in answer.headers for answer in answers)


def test_retry_after_can_be_read(tmp_path: Path) -> None:
    """A page can read the 429 of a full queue, and when to try again."""
    is_called, may_answer = threading.Event(), threading.Event()

    class SlowEngine(InstantEngine):
        def create_variation(self, request: Any) -> Any:
            is_called.set()
            assert may_answer.wait(30)
            return super().create_variation(request)

    app = create_app(SlowEngine(), workers=1, queue=0, cors_origins=[PAGE], store_dir=tmp_path)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        first = threading.Thread(target=post, args=(client, PAGE))
        first.start()
        try:
            assert is_called.wait(30)
            answer = post(client, PAGE)
        finally:
            may_answer.set()
            first.join(30)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    [
        *(OTHER, "null", "http://localhost", "https://localhost:5173", "http://localhost:51730"),
        *("http://localhost:5173.evil.example", "http://LOCALHOST:5173", "http://localhost:5173/"),
        *("http://evil.example@localhost:5173", "", "*"),
    ],
)
@pytest.mark.parametrize("server", ["page", "nobody"])
def test_other_pages_may_not_call(
    servers: dict[str, httpx.Client], server: str, origin: str
) -> None:
    """Without a key, a page of any other origin gets a 403 that it cannot read."""
    for answer in (preflight(servers[server], origin), post(servers[server], origin)):
        assert answer.status_code in (403, 405)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.json()["error"]["message"]
    assert servers[server].get("/v1/models", headers={"origin": origin}).status_code == 403


def test_a_key_does_not_replace_the_list(servers: dict[str, httpx.Client]) -> None:
    """With a key, other pages cannot read answers either. A program that sends a key is served."""
    asked = preflight(servers["page with key"], OTHER)
    assert asked.status_code == 403
    assert "--cors-origin ORIGIN" in asked.json()["error"]["message"]
    assert "access-control-allow-origin" not in asked.headers
    answer = post(servers["page with key"], OTHER, headers=KEY)
    assert "access-control-allow-origin" not in answer.headers
    assert post(servers["page with key"], None, headers=KEY).status_code == 200


def test_all_pages_still_need_the_key(servers: dict[str, httpx.Client]) -> None:
    """With *, a page that has no key gets nothing but the error."""
    assert post(servers["all with key"], OTHER).status_code == 401
    assert post(servers["all with key"], OTHER, headers=KEY).status_code == 200


@pytest.mark.parametrize("path", [PATH, "/", "/files/x.png", "/healthz", "/unknown"])
def test_a_rebound_name_learns_nothing(servers: dict[str, httpx.Client], path: str) -> None:
    """Under another name, allowed pages get the 403 of the `Host`, and no CORS headers."""
    for origin in (PAGE, OTHER, "http://evil.example"):
        asked = preflight(servers["page"], origin, path, host="evil.example")
        got = servers["page"].get(path, headers={"origin": origin, "host": "evil.example"})
        for answer in (asked, got):
            assert answer.status_code == 403
            assert "got 'evil.example'" in answer.text
            assert not any(name.startswith("access-control") for name in answer.headers)


def test_programs_and_the_own_page_see_no_difference(servers: dict[str, httpx.Client]) -> None:
    """A request without `Origin` or from the server's own page is served as before."""
    for server in ("page", "nobody"):
        own = str(servers[server].base_url).rstrip("/")
        for origin in (None, own):
            answer = post(servers[server], origin)
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers


def test_without_origins_nothing_is_added(servers: dict[str, httpx.Client]) -> None:
    """A server that allows no origin sends no CORS headers, and `Vary` is not needed."""
    answer = post(servers["nobody"], None)
    assert "vary" not in answer.headers
    assert preflight(servers["nobody"], PAGE).status_code == 405


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        ("https://app.example", "cors_origins must be a list of origins"),
        (7, "cors_origins must be a list of origins"),
        (["*"], r"contains '\*', but the server has no API key"),
        (["https://*.example"], r"contains 'https://\*\.example', which is not an origin"),
        (["app.example"], "which is not an origin. Pass a scheme, a host and"),
        (["https://app.example/page"], "which is not an origin"),
        (["https://app.example?a"], "which is not an origin"),
        (["https://me@app.example"], "which is not an origin"),
        (["https://app.example:x"], "which is not an origin"),
        (["https://"], "which is not an origin"),
        (["null"], "contains 'null', which is not an origin"),
        ([""], "which is not an origin"),
        ([None], "which is not an origin"),
        (["https://a.example\nb: c"], "which is not an origin"),
    ],
)
def test_invalid_origins_are_refused(tmp_path: Path, origins: Any, message: str) -> None:
    """`create_app` refuses what is not an origin, and * without a key."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        create_app("instant", cors_origins=origins, store_dir=tmp_path)
    assert caught.value.param == "cors_origins"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example/", "https://app.example"),
        ("HTTPS://App.Example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:8080", "http://app.example:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[2001:DB8::5]:8000", "http://[2001:db8::5]:8000"),
        ("chrome-extension://ABCdef", "chrome-extension://abcdef"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(text: str, origin: str) -> None:
    """An origin may be written in other ways than the one in which browsers send it."""
    assert Access(None, None, cors_origins=[text]).cors_origins == {origin}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cors-origin", "*"], "--cors-origin contains '*', but the server has no API key"),
        (["--cors-origin", "app.example"], "--cors-origin contains 'app.example', which is not"),
    ],
)
def test_serve_names_its_option(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` refuses an invalid origin before it listens, and names the option."""
    command = ["serve", "--engine", "instant", "--store-dir", str(tmp_path)]
    assert main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err
