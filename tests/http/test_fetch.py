import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import trustme

from langchain_image_variation.exceptions import (
    DownloadError,
    ExpiredURLError,
    InvalidRequestError,
)
from langchain_image_variation.http.deadline import DeadlineTransport
from langchain_image_variation.http.fetch import OutageError, fetch
from langchain_image_variation.http.flow import AsyncDriver, Driver, Flow
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.source.read import MAX_SOURCE_BYTES
from pytest_image_variation.samples import square_png

PUBLIC, PUBLIC_V6 = "93.184.215.14", "2606:4700::1111"
URL = "https://images.example/a/cat.png?sig=secret"
PNG = square_png()

Handler = Callable[[httpx.Request], httpx.Response]
Drive = Callable[[Flow[bytes]], bytes]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    """The mode in which flows run."""
    return str(request.param)


@pytest.fixture
def drive(mode: str) -> Drive:
    """Return a function that runs a flow to its end."""
    if mode == "sync":
        return Driver(None).run
    driver = AsyncDriver(None)
    return lambda flow: anyio.run(driver.run, flow)


class Names:
    """A resolver that gives its answers in turn, and repeats the last one."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.queries: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        """Resolve a name."""
        self.queries.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Web:
    """A transport, sync and async, that records requests and answers by a handler."""

    def __init__(self, handler: Handler = lambda request: httpx.Response(200, content=PNG)) -> None:
        self.requests: list[httpx.Request] = []
        self._handler = handler
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)


def policy(web: Web, *hosts: str, **options: Any) -> URLPolicy:
    """Return a policy that fetches from a web without a network."""
    options.setdefault("resolve", Names([PUBLIC]))
    return URLPolicy(hosts=hosts or ["images.example"], transport=web.transport, **options)


# Requests...


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (PUBLIC, f"https://{PUBLIC}/a/cat.png?sig=secret"),
        (PUBLIC_V6, f"https://[{PUBLIC_V6}]/a/cat.png?sig=secret"),
    ],
)
def test_the_request_goes_to_a_checked_address(drive: Drive, address: str, url: str) -> None:
    """A request goes to the checked address, and Host header and TLS name the host."""
    web, names = Web(), Names([address])
    assert drive(fetch(URL, policy(web, resolve=names))) == PNG
    (request,) = web.requests
    assert str(request.url) == url
    assert request.extensions["sni_hostname"] == "images.example"
    assert dict(request.headers) == {
        "host": "images.example",
        "user-agent": request.headers["user-agent"],
        "accept": "image/*",
        "accept-encoding": "identity",
        "connection": "close",
    }
    assert names.queries == [("images.example", 443)]


def test_a_changed_dns_answer_is_not_used(drive: Drive) -> None:
    """A name is resolved once, and the connection goes to the checked address."""
    web, names = Web(), Names([PUBLIC], ["127.0.0.1"])
    assert drive(fetch(URL, policy(web, resolve=names))) == PNG
    assert [request.url.host for request in web.requests] == [PUBLIC]
    assert len(names.queries) == 1


def test_dns_that_changes_before_a_redirect_is_refused(drive: Drive) -> None:
    """A redirect resolves and checks the host again, even if it is the same one."""
    web = Web(lambda request: httpx.Response(302, headers={"location": "/b"}))
    with pytest.raises(DownloadError, match="not public"):
        drive(fetch(URL, policy(web, resolve=Names([PUBLIC], ["127.0.0.1"]))))
    assert [request.url.host for request in web.requests] == [PUBLIC]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1", PUBLIC_V6]])
def test_one_private_address_refuses_a_host(drive: Drive, addresses: list[str]) -> None:
    """A host with a private address among public ones is not fetched from."""
    web = Web()
    with pytest.raises(DownloadError, match=r"'images\.example' has an address that is not public"):
        drive(fetch(URL, policy(web, resolve=Names(addresses))))
    assert web.requests == []


def test_the_next_address_is_tried(drive: Drive) -> None:
    """After a failed connection, the next address is checked and tried."""

    def refuse_v6(request: httpx.Request) -> httpx.Response:
        if request.url.host == PUBLIC_V6:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=PNG)

    web, names = Web(refuse_v6), Names([PUBLIC_V6, PUBLIC])
    assert drive(fetch(URL, policy(web, resolve=names))) == PNG
    assert [request.url.host for request in web.requests] == [PUBLIC_V6, PUBLIC]
    assert len(names.queries) == 1


def failing_resolver(error: Exception) -> Callable[[str, int], list[str]]:
    """Return a resolver that raises an error."""

    def resolve(host: str, port: int) -> list[str]:
        raise error

    return resolve


@pytest.mark.parametrize(
    "resolve",
    [failing_resolver(socket.gaierror(-2, "unknown")), failing_resolver(UnicodeError()), Names([])],
)
def test_an_unknown_host_is_our_error(drive: Drive, resolve: Any) -> None:
    """The error for an unknown host names it, even if the resolver returns nothing."""
    with pytest.raises(DownloadError, match=r"host 'images\.example' does not exist"):
        drive(fetch(URL, policy(Web(), resolve=resolve)))


def test_a_bug_in_a_resolver_is_not_hidden(drive: Drive) -> None:
    """The exception of a resolver with a bug comes out unchanged."""
    with pytest.raises(ZeroDivisionError):
        drive(fetch(URL, policy(Web(), resolve=failing_resolver(ZeroDivisionError()))))


def test_a_hanging_resolver_is_abandoned(drive: Drive) -> None:
    """A resolver that hangs is abandoned at the time limit of the fetch."""
    finish = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        finish.wait(30)
        return [PUBLIC]

    start = time.monotonic()
    with pytest.raises(DownloadError, match="not resolved in time"):
        drive(fetch(URL, policy(Web(), resolve=hang, timeout=0.1)))
    finish.set()
    assert time.monotonic() - start < 4


def test_the_default_resolver_is_the_systems() -> None:
    """The system's resolver is the default, and returns bare IP addresses."""
    resolve = URLPolicy(hosts=None).resolve
    assert set(resolve("localhost", 443)) <= {"127.0.0.1", "::1"}


# Redirects...


def test_without_a_list_every_public_host_is_allowed(drive: Drive) -> None:
    """If hosts is None, only the addresses are checked."""
    web = Web()
    names = Names([PUBLIC])
    url_policy = URLPolicy(hosts=None, resolve=names, transport=web.transport)
    assert drive(fetch("https://anywhere.example/x", url_policy)) == PNG
    names.answers = [["192.168.1.1"]]
    with pytest.raises(DownloadError, match="not public"):
        drive(fetch("https://anywhere.example/x", url_policy))
    assert len(web.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_within_the_list(drive: Drive, status: int) -> None:
    """A redirect to another allowed host uses that host's name and address."""

    def redirect(request: httpx.Request) -> httpx.Response:
        if request.headers["host"] == "cdn.example":
            return httpx.Response(200, content=PNG)
        return httpx.Response(status, headers={"location": "//CDN.example./cat.png"})

    web, names = Web(redirect), Names([PUBLIC], [PUBLIC_V6])
    assert drive(fetch(URL, policy(web, "images.example", "cdn.example", resolve=names))) == PNG
    assert [request.url.host for request in web.requests] == [PUBLIC, PUBLIC_V6]
    assert web.requests[1].extensions["sni_hostname"] == "cdn.example"
    assert "referer" not in web.requests[1].headers


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://evil.example/", "'evil.example' is not allowed"),
        ("http://images.example/", "redirects to a URL that is not allowed. Only https"),
        ("https://127.0.0.1/", "never by IP address"),
        ("https://[::1]/", "never by IP address"),
        ("https://images.example:8080/", "Only port 443"),
        ("https://user@images.example/", "user name"),
        ("//images.example\\@evil.example/", "backslash"),
        ("//[", "redirects to an invalid URL"),
        ("file:///etc/passwd", "Only https"),
    ],
)
def test_redirects_are_checked_like_urls(drive: Drive, location: str, message: str) -> None:
    """No redirect leads to a place that a URL could not lead to."""
    web = Web(lambda request: httpx.Response(302, headers={"location": location}))
    with pytest.raises(DownloadError) as caught:
        drive(fetch(URL, policy(web)))
    assert message in caught.value.message
    assert "secret" not in caught.value.message
    assert len(web.requests) == 1


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_redirects_are_counted(drive: Drive, limit: int) -> None:
    """A chain of redirects that is too long, such as a loop, ends at the limit."""
    web = Web(lambda request: httpx.Response(302, headers={"location": "/a/cat.png"}))
    with pytest.raises(DownloadError, match=f"more than {limit} times"):
        drive(fetch(URL, policy(web, max_redirects=limit)))
    assert len(web.requests) == limit + 1


# Responses...


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/png", "IMAGE/JPEG", "image/webp; q=1", "application/octet-stream"),
        *("binary/octet-stream", ""),
    ],
)
def test_images_and_plain_bytes_are_accepted(drive: Drive, content_type: str) -> None:
    """Object stores declare files as plain bytes, and some servers declare nothing."""
    web = Web(
        lambda request: httpx.Response(200, content=PNG, headers={"content-type": content_type})
    )
    assert drive(fetch(URL, policy(web))) == PNG


AZURE = (
    "\ufeff<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server failed to "
    "authenticate the request.\nTime:x</Message><AuthenticationErrorDetail>Signature not valid in "
    "the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail></Error>"
)
S3 = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


@pytest.mark.parametrize("text", [AZURE, S3])
def test_an_expired_signed_url_has_its_error(drive: Drive, text: str) -> None:
    """An expired signed URL has its own error for both wordings of object stores."""
    web = Web(lambda request: httpx.Response(403, text=text + " " * 10**6))
    with pytest.raises(ExpiredURLError, match=r"URL at 'images\.example' has expired") as caught:
        drive(fetch(URL, policy(web)))
    assert "secret" not in caught.value.message


def endless_response(request: httpx.Request) -> httpx.Response:
    """Answer with a body that never ends."""
    return httpx.Response(200, stream=Endless())


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def answer(status: int, content: bytes = PNG, **headers: str) -> Handler:
    """Return a handler that always gives the same answer."""
    header_values = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, content=content, headers=header_values)


def break_off(request: httpx.Request) -> httpx.Response:
    """Break the connection."""
    raise httpx.RemoteProtocolError("peer closed connection")


BAD_ANSWERS: list[tuple[Handler, str]] = [
    (answer(404), "status 404"),
    (answer(500), "status 500"),
    (answer(204, b""), "status 204"),
    (answer(206), "status 206"),
    (answer(302), "status 302"),
    (answer(403), "status 403"),
    (answer(403, S3.encode().replace(b"expired", b"a wrong signature")), "status 403"),
    (answer(403, b"expired"), "status 403"),
    (answer(403, gzip.compress(S3.encode()), content_encoding="gzip"), "status 403"),
    (lambda request: httpx.Response(403, stream=Endless()), "status 403"),
    (answer(200, content_type="text/html; charset=utf-8"), "sent 'text/html' instead of an image"),
    (answer(200, content_type="image/png, text/html"), "instead of an image"),
    (answer(200, content_type="application/json"), "instead of an image"),
    (answer(200, b"", content_encoding="gzip"), "compressed"),
    (answer(200, b"", content_encoding="identity, br"), "compressed"),
    (answer(200, content_length="20001"), "limit of 20,000 bytes"),
    (answer(200, bytes(20_001)), "limit of 20,000 bytes"),
    (answer(200, bytes(20_001), content_length="9" * 5000), "limit of 20,000 bytes"),
    (answer(200, bytes(20_001), content_length="-1"), "limit of 20,000 bytes"),
    (endless_response, "limit of 20,000 bytes"),
    (break_off, "broke; try again"),
]
OUTAGES = ("status 500", "broke; try again")
"""The messages of failures that may pass."""


@pytest.mark.parametrize(("handler", "message"), BAD_ANSWERS)
def test_a_response_without_an_image_is_refused(
    drive: Drive, handler: Handler, message: str
) -> None:
    """A response without an image is refused, and the message names the host and the reason."""
    with pytest.raises(DownloadError) as caught:
        drive(fetch(URL, policy(Web(handler), max_bytes=20_000)))
    assert type(caught.value) is (OutageError if message in OUTAGES else DownloadError)
    assert message in caught.value.message
    assert "'images.example'" in caught.value.message
    assert "secret" not in caught.value.message


def test_an_image_may_be_as_long_as_the_limit(drive: Drive) -> None:
    """An image may be as long as the limit, which by default is that of every source."""
    assert drive(fetch(URL, policy(Web(), max_bytes=len(PNG)))) == PNG
    assert URLPolicy(hosts=[]).max_bytes == MAX_SOURCE_BYTES


# The policy...


@pytest.mark.parametrize(
    "options",
    [
        *({"max_bytes": 0}, {"max_bytes": 1.5}, {"max_bytes": "1"}, {"timeout": -1}),
        *({"timeout": float("nan")}, {"timeout": float("inf")}, {"timeout": None}),
        *({"max_redirects": -1}, {"max_redirects": 21}, {"hosts": "images.example"}),
        *({"hosts": ["*.example"]}, {"hosts": ["https://images.example"]}, {"hosts": ["::1"]}),
        *({"hosts": ["127.0.0.1"]}, {"hosts": [""]}, {"hosts": [None]}, {"hosts": 5}),
    ],
)
def test_a_policy_out_of_range_is_refused(options: dict[str, Any]) -> None:
    """The constructor refuses limits out of range and hosts that are not names."""
    with pytest.raises(InvalidRequestError) as caught:
        URLPolicy(**{"hosts": ["images.example"], **options})
    assert caught.value.param == "urls"


def test_a_string_is_not_a_list_of_hosts() -> None:
    """A string as `hosts` has its own message, since a string is a collection, too."""
    with pytest.raises(InvalidRequestError, match="must be a list of host names"):
        URLPolicy(hosts="images.example")


def test_hosts_are_compared_in_normal_form(drive: Drive) -> None:
    """Case, a final dot and the encoding of other letters make no difference."""
    url_policy = policy(Web(), "Images.EXAMPLE.", "bücher.example")
    assert drive(fetch("https://images.example./x", url_policy)) == PNG
    assert drive(fetch("https://xn--bcher-kva.example/x", url_policy)) == PNG


# Real sockets and TLS...


class Server:
    """A TLS server on loopback that answers each connection by a function.

    Args:
        certificate: The server's certificate.
        serve: Called with each connection after a request has arrived.
    """

    def __init__(
        self, certificate: trustme.LeafCert, serve: Callable[[ssl.SSLSocket], None]
    ) -> None:
        self.heads: list[bytes] = []
        self.names: list[str | None] = []
        self._serve = serve
        self._closed = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            with closing(plain):
                if self._closed:
                    return
                plain.settimeout(5)
                try:
                    with self._context.wrap_socket(plain, server_side=True) as tls_socket:
                        self.heads.append(tls_socket.recv(65536))
                        self._serve(tls_socket)
                except OSError:
                    continue  # Some tests expect the client to hang up.

    def close(self) -> None:
        """Stop."""
        self._closed = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(5)
        self._listener.close()


class LoopbackBackend(httpcore.NetworkBackend):
    """Connects to loopback instead, and records the requested address."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[tuple[str, int]] = []

    def connect_tcp(self, host: str, port: int, *options: Any, **header_values: Any) -> Any:
        """Connect."""
        self.connections.append((host, port))
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, *options, **header_values)


class AsyncLoopbackBackend(httpcore.AsyncNetworkBackend):
    """The async twin of `LoopbackBackend`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *options: Any, **header_values: Any) -> Any:
        """Connect."""
        self.connections.append((host, port))
        backend = httpcore.AnyIOBackend()
        return await backend.connect_tcp("127.0.0.1", self.port, *options, **header_values)


AUTHORITY = trustme.CA()
Serve = Callable[..., tuple[Server, URLPolicy, list[tuple[str, int]]]]


@pytest.fixture
def start_server(mode: str) -> Generator[Serve]:
    """Return a function that starts a server and makes a policy that reaches it."""
    servers: list[Server] = []
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)

    def start(
        serve: Callable[[ssl.SSLSocket], None], *names: str, **options: Any
    ) -> tuple[Server, URLPolicy, list[tuple[str, int]]]:
        server = Server(AUTHORITY.issue_cert(*names), serve)
        servers.append(server)
        options.setdefault("resolve", Names([PUBLIC]))
        if mode == "sync":
            backend = LoopbackBackend(server.port)
            transport = DeadlineTransport(ssl_context=context, backend=backend)
            return server, URLPolicy(transport=transport, **options), backend.connections
        async_backend = AsyncLoopbackBackend(server.port)
        async_transport = httpx.AsyncHTTPTransport(verify=context)
        async_transport._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, network_backend=async_backend
        )
        return server, URLPolicy(transport=async_transport, **options), async_backend.connections

    yield start
    for server in servers:
        server.close()


def serve_image(connection: ssl.SSLSocket) -> None:
    """Serve an image, and keep the connection open."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n"
    connection.sendall(head.encode() + PNG)


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_V6])
def test_tls_verifies_the_name_of_the_host(drive: Drive, start_server: Serve, address: str) -> None:
    """The connection goes to the address, which is not in the certificate."""
    server, url_policy, connections = start_server(
        serve_image, "images.example", hosts=["images.example"], resolve=Names([address])
    )
    assert drive(fetch(URL, url_policy)) == PNG
    assert connections == [(address, 443)]
    assert server.names == ["images.example"]
    (head,) = server.heads
    assert head.startswith(b"GET /a/cat.png?sig=secret HTTP/1.1\r\nHost: images.example\r\n")


@pytest.mark.parametrize("name", ["other.example", PUBLIC])
def test_a_certificate_of_another_name_is_refused(
    drive: Drive, start_server: Serve, name: str
) -> None:
    """A certificate for another host, or only for the address, is not valid."""
    server, url_policy, _ = start_server(serve_image, name, hosts=["images.example"])
    with pytest.raises(DownloadError, match=r"example' has a certificate for another name"):
        drive(fetch(URL, url_policy))
    assert not any(server.heads)


def test_a_connection_is_not_used_for_another_host(drive: Drive, start_server: Serve) -> None:
    """A shared transport verifies each host, even if both have the same address."""
    server, url_policy, connections = start_server(
        serve_image, "images.example", hosts=["images.example", "b.example"]
    )
    assert drive(fetch(URL, url_policy)) == PNG
    with pytest.raises(DownloadError, match=r"'b\.example' has a certificate for another"):
        drive(fetch("https://b.example/", url_policy))
    assert len(connections) == 2
    assert [head for head in server.heads if head][1:] == []


def trickle_body(connection: ssl.SSLSocket) -> None:
    """Serve an image byte by byte, so that no single read is late."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def trickle_head(connection: ssl.SSLSocket) -> None:
    """Serve headers one by one without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        connection.sendall(b"x: y\r\n")
        time.sleep(0.05)


@pytest.mark.mostly_slow("sync-trickle_body", "async-trickle_head")
@pytest.mark.parametrize("serve", [trickle_body, trickle_head])
def test_a_server_that_trickles_is_cut_off(
    drive: Drive, start_server: Serve, serve: Callable[[ssl.SSLSocket], None]
) -> None:
    """The time limit is for the whole fetch, not for each read."""
    _, url_policy, _ = start_server(serve, "images.example", hosts=["images.example"], timeout=0.3)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"took too long; the limit is 0\.3 seconds"):
        drive(fetch(URL, url_policy))
    assert 0.25 < time.monotonic() - start < 4


def test_an_earlier_deadline_counts(drive: Drive, start_server: Serve) -> None:
    """A fetch that is part of a longer call ends with that call."""
    _, url_policy, _ = start_server(trickle_body, "images.example", hosts=["images.example"])
    start = time.monotonic()
    with pytest.raises(DownloadError, match="took too long"):
        drive(fetch(URL, url_policy, deadline=start + 0.3))
    assert 0.25 < time.monotonic() - start < 4


def serve_truncated(connection: ssl.SSLSocket) -> None:
    """Serve less than the content length."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")


def serve_garbage(connection: ssl.SSLSocket) -> None:
    """Serve something other than HTTP."""
    connection.sendall(b"SSH-2.0-x\r\n\r\n")


@pytest.mark.parametrize("serve", [serve_truncated, serve_garbage, ssl.SSLSocket.close])
def test_a_broken_connection_is_our_error(
    drive: Drive, start_server: Serve, serve: Callable[[ssl.SSLSocket], None]
) -> None:
    """Half an image, another protocol and no response are errors with the same message."""
    _, url_policy, _ = start_server(serve, "images.example", hosts=["images.example"])
    with pytest.raises(DownloadError, match="broke; try"):
        drive(fetch(URL, url_policy))


def serve_redirect(connection: ssl.SSLSocket) -> None:
    """Redirect with a body that never ends."""
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n")
    connection.recv(1)


def test_the_body_of_a_redirect_is_not_read(drive: Drive, start_server: Serve) -> None:
    """A redirect is followed at once over a new connection, without reading its body."""
    server, url_policy, connections = start_server(
        serve_redirect, "images.example", hosts=["images.example"]
    )
    with pytest.raises(DownloadError, match="more than 3 times"):
        drive(fetch(URL, url_policy))
    assert len(connections) == 4 == len(server.heads)
    assert server.heads[1].startswith(b"GET /b HTTP/1.1\r\nHost: images.example\r\n")
