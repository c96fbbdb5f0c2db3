"""What real clients send, over a socket: each of these requests was refused for no good reason."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.multipart import MAX_PREAMBLE_BYTES
from pytest_image_variation.forms import Form, Part
from pytest_image_variation.samples import jpeg, square_png
from tests.server.serving import serving

PATH = "/v1/images/variations"
KIND = "multipart/form-data; boundary=x"
IMAGE = Part("image", square_png(8), "a.png", "image/png")
SMALL = (Part("response_format", b"b64_json"), Part("size", b"256x256"))
CLOSED = Form((IMAGE, *SMALL)).encode("x")


class Answer(NamedTuple):
    """A server's answer to one request."""

    status: int
    head: str
    body: Any

    @property
    def message(self) -> str:
        """The message of an error."""
        message: str = self.body["error"]["message"]
        return message


class Server(NamedTuple):
    """A server on a socket."""

    url: str

    @property
    def host(self) -> str:
        """What clients send as `Host`."""
        return urlsplit(self.url).netloc

    def send(
        self,
        target: str = PATH,
        body: bytes = CLOSED,
        *headers: str,
        method: str = "POST",
        host: str | None = None,
        kind: str | None = KIND,
    ) -> Answer:
        """Send a request with exactly this target and return the answer."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host if host is None else host}"]
        lines += [f"Content-Type: {kind}"] if kind else []
        lines += [f"Content-Length: {len(body)}", *headers, "Connection: close", "", ""]
        return self.send_bytes("\r\n".join(lines).encode("latin-1") + body)

    def exchange(self, data: bytes) -> str:
        """Send bytes and return what the server answers until it closes the connection."""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as client:
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(65536), b"")).decode("latin-1")

    def send_bytes(self, data: bytes) -> Answer:
        """Send the bytes of one request and return the answer."""
        head, _, content = self.exchange(data).partition("\r\n\r\n")
        is_json = "application/json" in head
        return Answer(int(head.split(" ")[1]), head, json.loads(content) if is_json else content)


class RecordingEngine(InstantEngine):
    """Keeps the requests that it gets."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def create_variation(self, request: Any) -> Any:
        """Answer with flat images."""
        self.requests.append(request)
        return super().create_variation(request)


ENGINE = RecordingEngine()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a key."""
    with serving(create_app(ENGINE, store_dir=tmp_path_factory.mktemp("store"))) as url:
        yield Server(url)


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the key `sk-1`."""
    app = create_app("instant", api_key="sk-1", store_dir=tmp_path_factory.mktemp("store"))
    with serving(app) as url:
        yield Server(url)


# Fields...


@pytest.mark.parametrize("field", ["model", "n", "response_format", "size"])
def test_the_text_null_is_absent(server: Server, field: str) -> None:
    """Some SDKs send the text `null` for a nullable field that is null, which counts as absent."""
    parts = {
        part.name: part for part in (IMAGE, *SMALL, Part("n", b"1"), Part("model", b"dall-e-2"))
    }
    parts[field] = Part(field, b"null")
    answer = server.send(body=Form(tuple(parts.values())).encode("x"))
    assert answer.status == 200
    request = ENGINE.requests[-1]
    assert (
        getattr(request, field)
        == {
            "model": "dall-e-2",
            "n": 1,
            # The server asks the engine for base64, whatever the client wants.
            "response_format": "b64_json",
            "size": "1024x1024",
        }[field]
    )
    assert ("url" in answer.body["data"][0]) == (field == "response_format")


def test_null_is_a_name_of_a_user(server: Server) -> None:
    """`user` is not nullable, so `null` is an ID like any other."""
    server.send(body=Form((IMAGE, *SMALL, Part("user", b"null"))).encode("x"))
    assert ENGINE.requests[-1].user == "null"


@pytest.mark.parametrize("text", [b"NULL", b"None", b" null", b"nil", b'"null"'])
def test_only_null_itself_is_absent(server: Server, text: bytes) -> None:
    """Only JSON's word `null` counts as absent."""
    answer = server.send(body=Form((IMAGE, *SMALL, Part("n", text))).encode("x"))
    assert (answer.status, answer.body["error"]["param"]) == (400, "n")


# The image...


@pytest.mark.parametrize(
    "kind", ["image/png", "IMAGE/PNG", "image/x-icon; a=b", "application/octet-stream"]
)
def test_an_image_needs_no_file_name(server: Server, kind: str) -> None:
    """A part without a file name is the image if its type is that of an image or of any bytes."""
    part = Part("image", square_png(8), None, kind)
    assert server.send(body=Form((part, *SMALL)).encode("x")).status == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json", "imagery/png", "image"])
def test_an_image_is_no_text_field(server: Server, kind: str | None) -> None:
    """A text field `image` is refused, and the error shows how to name a file."""
    answer = server.send(body=Form((Part("image", b"photo.png", None, kind),)).encode("x"))
    assert answer.message == (
        "image must be sent as a file. Give the part a file name, as in "
        '\'Content-Disposition: form-data; name="image"; filename="image.png"\', or the type '
        "image/png. With curl, write -F image=@image.png."
    )
    assert (answer.status, answer.body["error"]["param"]) == (400, "image")


@pytest.mark.parametrize("name", ["n", "size", "user"])
def test_other_fields_are_text_of_any_type(server: Server, name: str) -> None:
    """The type of another field does not make it a file."""
    values = {"n": b"1", "size": b"256x256", "user": b"me"}
    part = Part(name, values[name], None, "application/octet-stream")
    assert server.send(body=Form((IMAGE, part)).encode("x")).status == 200


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (jpeg(), "it is a JPEG file; convert it to PNG first."),
        (b"photo.png", "it is text; pass the bytes of a PNG file."),
        ("Größe: 熊\n".encode() * 200, "it is text; pass the bytes of a PNG file."),
        (b'{"error": "not found"}', "it is text; pass the bytes of a PNG file."),
        (b"iVBORw0KGgoAAAANSUhEUg==", "it is an image in base64; pass the bytes of a PNG file."),
        (b"<!doctype html><p>Hi", "it is an HTML page; pass the bytes of a PNG file."),
        (b"%PDF-1.7\n%\xe2\xe3", "it is a PDF document; pass the bytes of a PNG file."),
        (b"\x00\x01\x02\x03", "the PNG signature is missing."),
        (b"text\x00\xff", "the PNG signature is missing."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_says_what_the_image_is(server: Server, content: bytes, what: str) -> None:
    """If the image is no PNG, the error says what it is, whatever the file is called."""
    part = Part("image", content, "photo.png", "image/png")
    assert server.send(body=Form((part,)).encode("x")).message == f"image is not a PNG file: {what}"


# The form...


@pytest.mark.parametrize(
    "preamble",
    [
        b"This is a multi-part message in MIME format.\r\n",
        b"\r\n- a list\r\n- of lines\r\n",
        b"\r\n\r\n",
        b"--xyz\r\n",
        b"--x-\r\n",
        b"a --x\r\n",
        b"a" * 5000 + b"\r\n",
    ],
)
def test_a_form_may_have_a_preamble(server: Server, preamble: bytes) -> None:
    """Text before the first delimiter is ignored, as RFC 2046, section 5.1.1, demands."""
    assert server.send(body=preamble + CLOSED).status == 200


def test_a_preamble_has_a_limit(server: Server) -> None:
    """A preamble may be 16 KiB long, so that a wrong boundary is noticed early."""
    preamble = b"a" * (MAX_PREAMBLE_BYTES - 2) + b"\r\n"
    assert server.send(body=preamble + CLOSED).status == 200
    answer = server.send(body=b"a" + preamble + CLOSED)
    assert "It must use the boundary that its Content-Type names" in answer.message


@pytest.mark.parametrize("padding", [b" ", b"\t \t", b" " * 70])
def test_white_space_may_follow_a_delimiter(server: Server, padding: bytes) -> None:
    """White space may follow any delimiter, as RFC 2046, section 5.1.1, demands."""
    for body in (
        CLOSED.replace(b"--x\r\n", b"--x" + padding + b"\r\n"),
        CLOSED.replace(b"--x\r\n", b"--x" + padding + b"\r\n", 1),
        b"preamble\r\n" + CLOSED.replace(b"--x--", b"--x--" + padding),
    ):
        assert server.send(body=body).status == 200


@pytest.mark.parametrize("kind", [KIND, None, "text/plain"])
def test_an_empty_body_has_its_own_message(server: Server, kind: str | None) -> None:
    """The error for a body without a byte names the likely cause: a retry of some SDKs."""
    message = (
        "The body is empty. It must be multipart/form-data, with the image as the file part "
        "'image'. Some SDK releases send no body when they retry: then send the request again."
    )
    assert server.send(body=b"", kind=kind).message == message
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: {KIND}\r\n"
    chunked += "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    assert server.send_bytes(chunked.encode()).message == message
    bare = f"POST {PATH} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
    assert server.send_bytes(bare.encode()).message == message


# The address...


@pytest.mark.parametrize(
    "path",
    [
        "/images/variations",
        "/v1//images/variations",
        "//v1/images/variations",
        "/v1/images/variations/",
        "/v1/v1/images/variations",
        "/openai/images/variations",
        "/openai/deployments/dall-e-2/images/variations",
        "/v1/Images/Variations",
    ],
)
def test_a_near_miss_gets_the_right_address(server: Server, path: str) -> None:
    """An address that is almost right gets a 404 that names the right one."""
    answer = server.send(path)
    assert answer.status == 404
    assert answer.message == (
        f"Invalid URL (POST {path}). Use /v1/images/variations: the base URL of a client ends in "
        "/v1."
    )


@pytest.mark.parametrize("path", ["/variations", "/x", "/v1"])
def test_other_addresses_get_the_vendors_404(server: Server, path: str) -> None:
    """Any other address gets the vendor's answer and no advice."""
    assert server.send(path).message == f"Invalid URL (POST {path})"


@pytest.mark.parametrize(
    "path", ["/v1/images/edits", "/v1/images/variation", "/v1/chat/completions"]
)
def test_other_paths_of_the_api_get_advice(server: Server, path: str) -> None:
    """Another path of the vendor's API gets a 404 that names the option for it."""
    assert server.send(path).message == (
        f"Invalid URL (POST {path}). This server answers image variations. Its option --upstream "
        "sends other requests on."
    )


@pytest.mark.parametrize(
    "form", ["http://{}", "HTTP://{}", "https://{}"], ids=["http", "capitals", "https"]
)
def test_a_target_may_be_absolute(server: Server, form: str) -> None:
    """A request target may be an absolute URL, as clients send it to proxies (RFC 9112, 3.2.2)."""
    address = form.format(server.host)
    assert server.send(f"{address}{PATH}").status == 200
    (entry,) = server.send(f"{address}{PATH}", Form((IMAGE,)).encode("x")).body["data"]
    assert entry["url"].startswith(f"{server.url}/files/")
    file = entry["url"].removeprefix(server.url)
    for target in (f"{address}{file}", f"{address}/v1/models?limit=1", address, f"{address}?a=b"):
        assert server.send(target, b"", method="GET").status == 200
    assert server.send(f"{address}/x", method="PUT").message == "Invalid URL (PUT /x)"


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("evil.example:80", 403),
        ("localhost@evil.example", 400),
        ("evil.example@localhost", 400),
        ("localhost:99999a", 400),
        ("", 400),
        (":80", 400),
        ("[::1", 400),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/", PATH, "/unknown", "//evil.example/"])
def test_an_absolute_target_names_the_host(
    server: Server, authority: str, status: int, path: str
) -> None:
    """The host in a target is checked, whatever the path and the `Host` header are."""
    answer = server.send(f"http://{authority}{path}", b"", method="GET")
    assert answer.status == status
    expected = f"got {authority!r}" if status == 403 else "target must have a host"
    assert expected in answer.message


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "LOCALHOST"])
def test_an_absolute_target_replaces_the_host(server: Server, host: str) -> None:
    """If a target has a host, the `Host` header is ignored (RFC 9112, section 3.2.2)."""
    target = f"http://{server.host}"
    assert server.send(f"{target}/v1/models", b"", method="GET", host=host).status == 200
    answer = server.send(f"{target}{PATH}", Form((IMAGE,)).encode("x"), host=host)
    assert answer.body["data"][0]["url"].startswith(f"{server.url}/files/")


def test_the_host_of_a_target_has_no_case(server: Server) -> None:
    """A target in capital letters, or with another name of this server, is accepted."""
    port = server.host.rpartition(":")[2]
    for host in ("LOCALHOST", "localhost", "[::1]"):
        assert server.send(f"HTTP://{host}:{port}/v1/models", b"", method="GET").status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/", "/files/x.png", "/unknown", "//"])
def test_absolute_targets_reveal_nothing(server: Server, path: str) -> None:
    """Under another name, an absolute target gets the 403 that any target gets."""
    for target in (f"http://evil.example{path}", path):
        answer = server.send(target, b"", method="GET", host="evil.example")
        assert answer.status == 403
        assert "got 'evil.example'" in answer.message


def test_an_absolute_target_has_an_origin(server: Server) -> None:
    """A page of another origin cannot use an absolute target, and the server's own page can."""
    target = f"http://{server.host}{PATH}"
    assert server.send(target, CLOSED, "Origin: http://evil.example").status == 403
    assert server.send(target, CLOSED, f"Origin: {server.url}").status == 200


def test_an_absolute_target_needs_the_key(locked_server: Server) -> None:
    """With a key, an absolute target needs it too, and may name any host."""
    host, key = locked_server.host, "Authorization: Bearer sk-1"
    assert locked_server.send(f"http://{host}{PATH}").status == 401
    assert locked_server.send(f"http://{host}{PATH}", CLOSED, key).status == 200
    # With a key, the server has any name, for example that of the vendor behind a proxy.
    vendor = {"host": "api.example.com"}
    assert locked_server.send(f"http://api.example.com{PATH}", CLOSED, key, **vendor).status == 200
    assert (
        locked_server.send(f"http://api.example.com:80{PATH}", CLOSED, key, **vendor).status == 200
    )
    assert locked_server.send(f"http://evil@example{PATH}", CLOSED, key, **vendor).status == 400


@pytest.mark.parametrize("target", ["/http://{}/v1/models", "http%3A//{}/v1/models", "ftp://{}/x"])
def test_other_targets_are_not_absolute(server: Server, target: str) -> None:
    """A path that contains a URL is a path, and so is a URL of another scheme."""
    answer = server.send(target.format(server.host), b"", method="GET")
    assert answer.status == 404


def test_one_connection_serves_both_forms(server: Server) -> None:
    """Absolute targets on one connection with others do not change which bytes are a request."""
    head = f"Host: {server.host}\r\nContent-Type: {KIND}\r\nContent-Length: {len(CLOSED)}\r\n\r\n"
    posts = [
        f"POST {target}{PATH} HTTP/1.1\r\n{head}".encode() + CLOSED
        for target in ("", f"http://{server.host}", "")
    ]
    last = f"GET http://{server.host}/v1/models HTTP/1.1\r\nHost: {server.host}\r\n"
    text = server.exchange(b"".join(posts) + f"{last}Connection: close\r\n\r\n".encode())
    assert re.findall(r"HTTP/1\.1 \d+", text) == ["HTTP/1.1 200"] * 4


# The queue...


class SlowEngine(InstantEngine):
    """Answers once it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.is_called = threading.Event()

    def create_variation(self, request: Any) -> Any:
        """Wait, then answer."""
        self.is_called.set()
        assert self.may_answer.wait(30)
        return super().create_variation(request)


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        (0, "The server is busy, and queues no requests. Please try again in 1s."),
        (1, "The queue is full: 1 request is waiting, which is the maximum. Please"),
    ],
)
def test_a_full_queue_is_explained_in_plain_english(
    tmp_path: Path, queue: int, message: str
) -> None:
    """The 429 of a server with a queue of none or one is a proper sentence."""
    engine = SlowEngine()
    app = create_app(engine, workers=1, queue=queue, store_dir=tmp_path)
    with serving(app) as url, ThreadPoolExecutor() as pool:
        server = Server(url)
        try:
            requests = [pool.submit(server.send)]
            assert engine.is_called.wait(30)
            for _ in range(queue):
                requests.append(pool.submit(server.send))
            deadline = time.monotonic() + 30
            while app.state.turns.waiting_count < queue and time.monotonic() < deadline:
                time.sleep(0.01)
            answer = server.send()
        finally:
            engine.may_answer.set()
        assert answer.message.startswith(message)
        assert answer.status == 429
        assert [request.result().status for request in requests] == [200] * (queue + 1)
