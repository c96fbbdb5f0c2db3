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
from langchain_image_variation.http.fetch import fetch
from langchain_image_variation.http.flow import AsyncDriver, Driver, Flow
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.source import MAX_SOURCE_BYTES
from pytest_image_variation.samples import square_png

PUBLIC, PUBLIC_V6 = "93.184.215.14", "2606:4700::1111"
URL = "https://images.example/a/cat.png?sig=secret"
PNG = square_png()

Handler = Callable[[httpx.Request], httpx.Response]
Drive = Callable[[Flow[bytes]], bytes]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    """Return in which mode flows are driven."""
    return str(request.param)


@pytest.fixture
def drive(mode: str) -> Drive:
    """Return what drives a flow to its end."""
    if mode == "sync":
        return Driver(None).run
    driver = AsyncDriver(None)
    return lambda flow: anyio.run(driver.run, flow)


class Names:
    """A resolver with answers prepared, one a call, the last again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        """Resolve a name."""
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Web:
    """A transport that records requests and answers them by the handler, sync and async."""

    def __init__(self, handler: Handler = lambda request: httpx.Response(200, content=PNG)) -> None:
        self.requests: list[httpx.Request] = []
        self._handler = handler
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)


def policy(web: Web, *hosts: str, **options: Any) -> URLPolicy:
    """Return a policy under which a web is fetched from without a network."""
    options.setdefault("resolve", Names([PUBLIC]))
    return URLPolicy(hosts=hosts or ["images.example"], transport=web.transport, **options)


# What is asked...


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (PUBLIC, f"https://{PUBLIC}/a/cat.png?sig=secret"),
        (PUBLIC_V6, f"https://[{PUBLIC_V6}]/a/cat.png?sig=secret"),
    ],
)
def test_the_request_goes_to_the_address_and_names_the_host(
    drive: Drive, address: str, url: str
) -> None:
    """The connection is to the address that was checked; Host header and TLS name the host."""
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
    assert names.asked == [("images.example", 443)]


def test_an_answer_of_dns_that_changes_is_not_seen(drive: Drive) -> None:
    """The name is resolved once, and the connection goes to what was checked then."""
    web, names = Web(), Names([PUBLIC], ["127.0.0.1"])
    assert drive(fetch(URL, policy(web, resolve=names))) == PNG
    assert [request.url.host for request in web.requests] == [PUBLIC]
    assert len(names.asked) == 1


def test_dns_that_changes_before_a_redirect_is_refused(drive: Drive) -> None:
    """A redirect to the same host resolves it anew, and checks what it finds."""
    web = Web(lambda request: httpx.Response(302, headers={"location": "/b"}))
    with pytest.raises(DownloadError, match="not public"):
        drive(fetch(URL, policy(web, resolve=Names([PUBLIC], ["127.0.0.1"]))))
    assert [request.url.host for request in web.requests] == [PUBLIC]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1", PUBLIC_V6]])
def test_one_bad_address_refuses_a_host(drive: Drive, addresses: list[str]) -> None:
    """A host that has a private address beside public ones is not fetched from at all."""
    web = Web()
    with pytest.raises(DownloadError, match=r"'images\.example' has an address that is not public"):
        drive(fetch(URL, policy(web, resolve=Names(addresses))))
    assert web.requests == []


def test_the_next_address_is_tried_where_one_takes_no_connection(drive: Drive) -> None:
    """Only a connection that was not made is tried elsewhere, and only where it was checked."""

    def refuse_v6(request: httpx.Request) -> httpx.Response:
        if request.url.host == PUBLIC_V6:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=PNG)

    web, names = Web(refuse_v6), Names([PUBLIC_V6, PUBLIC])
    assert drive(fetch(URL, policy(web, resolve=names))) == PNG
    assert [request.url.host for request in web.requests] == [PUBLIC_V6, PUBLIC]
    assert len(names.asked) == 1


def fails(error: Exception) -> Callable[[str, int], list[str]]:
    """Return a resolver that raises an error."""

    def resolve(host: str, port: int) -> list[str]:
        raise error

    return resolve


@pytest.mark.parametrize(
    "resolve", [fails(socket.gaierror(-2, "unknown")), fails(UnicodeError()), Names([])]
)
def test_a_name_that_does_not_resolve_is_our_error(drive: Drive, resolve: Any) -> None:
    """Whether the resolver raises or finds nothing, the message names the host."""
    with pytest.raises(DownloadError, match=r"host 'images\.example' does not exist"):
        drive(fetch(URL, policy(Web(), resolve=resolve)))


def test_an_error_of_one_s_own_resolver_is_not_hidden(drive: Drive) -> None:
    """A mistake in a resolver comes out as it is."""
    with pytest.raises(ZeroDivisionError):
        drive(fetch(URL, policy(Web(), resolve=fails(ZeroDivisionError()))))


def test_a_resolver_that_hangs_is_left_behind(drive: Drive) -> None:
    """Resolving counts towards the time that fetching may take."""
    done = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        done.wait(30)
        return [PUBLIC]

    start = time.monotonic()
    with pytest.raises(DownloadError, match="not resolved in time"):
        drive(fetch(URL, policy(Web(), resolve=hang, timeout=0.1)))
    done.set()
    assert time.monotonic() - start < 4


def test_names_are_resolved_by_the_system_by_default() -> None:
    """The default resolver gives bare IP addresses."""
    resolve = URLPolicy(hosts=None).resolve
    assert set(resolve("localhost", 443)) <= {"127.0.0.1", "::1"}


# Where it may go...


def test_without_a_list_every_public_host_is_allowed(drive: Drive) -> None:
    """Hosts of None leave only the check of addresses."""
    web = Web()
    names = Names([PUBLIC])
    allowed = URLPolicy(hosts=None, resolve=names, transport=web.transport)
    assert drive(fetch("https://anywhere.example/x", allowed)) == PNG
    names.answers = [["192.168.1.1"]]
    with pytest.raises(DownloadError, match="not public"):
        drive(fetch("https://anywhere.example/x", allowed))
    assert len(web.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_within_the_list(drive: Drive, status: int) -> None:
    """A redirect to another allowed host is followed, with that host's name and address."""

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
def test_redirects_are_checked_as_the_url_was(drive: Drive, location: str, message: str) -> None:
    """No redirect leads where the URL itself could not have led."""
    web = Web(lambda request: httpx.Response(302, headers={"location": location}))
    with pytest.raises(DownloadError) as caught:
        drive(fetch(URL, policy(web)))
    assert message in caught.value.message
    assert "secret" not in caught.value.message
    assert len(web.requests) == 1


@pytest.mark.parametrize("most", [0, 1, 3])
def test_redirects_are_counted(drive: Drive, most: int) -> None:
    """A loop, as any chain that is too long, ends at the limit."""
    web = Web(lambda request: httpx.Response(302, headers={"location": "/a/cat.png"}))
    with pytest.raises(DownloadError, match=f"more than {most} times"):
        drive(fetch(URL, policy(web, max_redirects=most)))
    assert len(web.requests) == most + 1


# What comes back...


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/png", "IMAGE/JPEG", "image/webp; q=1", "application/octet-stream"),
        *("binary/octet-stream", ""),
    ],
)
def test_pictures_and_plain_bytes_are_taken(drive: Drive, content_type: str) -> None:
    """Object stores call files just bytes, and some servers say nothing."""
    web = Web(lambda r: httpx.Response(200, content=PNG, headers={"content-type": content_type}))
    assert drive(fetch(URL, policy(web))) == PNG


AZURE = (
    "\ufeff<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server failed to "
    "authenticate the request.\nTime:x</Message><AuthenticationErrorDetail>Signature not valid in "
    "the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail></Error>"
)
S3 = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


@pytest.mark.parametrize("text", [AZURE, S3])
def test_a_signed_url_that_expired_has_its_own_error(drive: Drive, text: str) -> None:
    """The two ways in which object stores say so are told from other refusals."""
    web = Web(lambda request: httpx.Response(403, text=text + " " * 10**6))
    with pytest.raises(ExpiredURLError, match=r"URL at 'images\.example' has expired") as caught:
        drive(fetch(URL, policy(web)))
    assert "secret" not in caught.value.message


def endless(request: httpx.Request) -> httpx.Response:
    """Answer with a body that has no end."""
    return httpx.Response(200, stream=Endless())


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body without end."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def answer(status: int, content: bytes = PNG, **headers: str) -> Handler:
    """Return a handler that always answers the same."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, content=content, headers=named)


def broken(request: httpx.Request) -> httpx.Response:
    """Break off."""
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
    (answer(200, content_length="20001"), "more than 20,000 bytes"),
    (answer(200, bytes(20_001)), "more than 20,000 bytes"),
    (answer(200, bytes(20_001), content_length="9" * 5000), "more than 20,000 bytes"),
    (answer(200, bytes(20_001), content_length="-1"), "more than 20,000 bytes"),
    (endless, "more than 20,000 bytes"),
    (broken, "broke; try again"),
]


@pytest.mark.parametrize(("handler", "message"), BAD_ANSWERS)
def test_an_answer_that_is_no_picture_is_refused(
    drive: Drive, handler: Handler, message: str
) -> None:
    """Other statuses, types and encodings, and what is too long, are refused; the host is named."""
    with pytest.raises(DownloadError) as caught:
        drive(fetch(URL, policy(Web(handler), max_bytes=20_000)))
    assert type(caught.value) is DownloadError
    assert message in caught.value.message
    assert "'images.example'" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_picture_may_have_as_many_bytes_as_the_limit(drive: Drive) -> None:
    """The limit itself is allowed; by default it is that of every source."""
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
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    """Limits out of range and hosts that are no names are found when the policy is made."""
    with pytest.raises(InvalidRequestError) as caught:
        URLPolicy(**{"hosts": ["images.example"], **options})
    assert caught.value.param == "urls"


def test_one_name_is_no_list_of_hosts() -> None:
    """A string, which is a collection too, is refused with a message of its own."""
    with pytest.raises(InvalidRequestError, match="must be a list of host names"):
        URLPolicy(hosts="images.example")


def test_the_hosts_of_a_policy_are_compared_in_normal_form(drive: Drive) -> None:
    """Case, a final dot and the encoding of other letters make no difference."""
    allowed = policy(Web(), "Images.EXAMPLE.", "bücher.example")
    assert drive(fetch("https://images.example./x", allowed)) == PNG
    assert drive(fetch("https://xn--bcher-kva.example/x", allowed)) == PNG


# Real sockets and TLS...


class Server:
    """A TLS server on the loopback device, which answers each connection as it is told.

    Args:
        certificate: What it shows.
        serve: Called with each connection once a request came in.
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
                    with self._context.wrap_socket(plain, server_side=True) as secure:
                        self.heads.append(secure.recv(65536))
                        self._serve(secure)
                except OSError:
                    continue  # The client hung up, as it should in some tests.

    def close(self) -> None:
        """Stop."""
        self._closed = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(5)
        self._listener.close()


class Rerouted(httpcore.NetworkBackend):
    """Connects to the loopback device instead, and records where it was to connect to."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: list[tuple[str, int]] = []

    def connect_tcp(self, host: str, port: int, *options: Any, **named: Any) -> Any:
        """Connect."""
        self.connected.append((host, port))
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, *options, **named)


class AsyncRerouted(httpcore.AsyncNetworkBackend):
    """The same, async."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *options: Any, **named: Any) -> Any:
        """Connect."""
        self.connected.append((host, port))
        backend = httpcore.AnyIOBackend()
        return await backend.connect_tcp("127.0.0.1", self.port, *options, **named)


AUTHORITY = trustme.CA()
Serve = Callable[..., tuple[Server, URLPolicy, list[tuple[str, int]]]]


@pytest.fixture
def served(mode: str) -> Generator[Serve]:
    """Return what starts a server, and gives a policy that reaches it by a public address."""
    servers: list[Server] = []
    trusted = ssl.create_default_context()
    AUTHORITY.configure_trust(trusted)

    def start(
        serve: Callable[[ssl.SSLSocket], None], *names: str, **options: Any
    ) -> tuple[Server, URLPolicy, list[tuple[str, int]]]:
        server = Server(AUTHORITY.issue_cert(*names), serve)
        servers.append(server)
        options.setdefault("resolve", Names([PUBLIC]))
        if mode == "sync":
            backend = Rerouted(server.port)
            transport = DeadlineTransport(ssl_context=trusted, backend=backend)
            return server, URLPolicy(transport=transport, **options), backend.connected
        async_backend = AsyncRerouted(server.port)
        async_transport = httpx.AsyncHTTPTransport(verify=trusted)
        async_transport._pool = httpcore.AsyncConnectionPool(
            ssl_context=trusted, network_backend=async_backend
        )
        return server, URLPolicy(transport=async_transport, **options), async_backend.connected

    yield start
    for server in servers:
        server.close()


def whole(connection: ssl.SSLSocket) -> None:
    """Serve a picture, and keep the connection open for more."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n"
    connection.sendall(head.encode() + PNG)


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_V6])
def test_tls_verifies_the_name_over_a_pinned_connection(
    drive: Drive, served: Serve, address: str
) -> None:
    """The certificate is the name's; the address is not in it, and is what is connected to."""
    server, allowed, connected = served(
        whole, "images.example", hosts=["images.example"], resolve=Names([address])
    )
    assert drive(fetch(URL, allowed)) == PNG
    assert connected == [(address, 443)]
    assert server.names == ["images.example"]
    (head,) = server.heads
    assert head.startswith(b"GET /a/cat.png?sig=secret HTTP/1.1\r\nHost: images.example\r\n")


@pytest.mark.parametrize("name", ["other.example", PUBLIC])
def test_a_certificate_of_another_name_is_refused(drive: Drive, served: Serve, name: str) -> None:
    """A certificate for another host, or for the address alone, does not do."""
    server, allowed, _ = served(whole, name, hosts=["images.example"])
    with pytest.raises(DownloadError, match="no valid certificate"):
        drive(fetch(URL, allowed))
    assert not any(server.heads)


def test_a_connection_is_not_used_for_another_host(drive: Drive, served: Serve) -> None:
    """A transport that is shared verifies each host, though both have one address."""
    server, allowed, connected = served(
        whole, "images.example", hosts=["images.example", "b.example"]
    )
    assert drive(fetch(URL, allowed)) == PNG
    with pytest.raises(DownloadError, match=r"'b\.example' cannot be reached, or has no valid"):
        drive(fetch("https://b.example/", allowed))
    assert len(connected) == 2
    assert [head for head in server.heads if head][1:] == []


def trickle(connection: ssl.SSLSocket) -> None:
    """Serve a picture a byte at a time, never late by itself, and never done."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def trickled_head(connection: ssl.SSLSocket) -> None:
    """Serve headers without end, one now and then."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        connection.sendall(b"x: y\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize("serve", [trickle, trickled_head])
def test_a_server_that_trickles_is_cut_off(
    drive: Drive, served: Serve, serve: Callable[[ssl.SSLSocket], None]
) -> None:
    """The limit is on the whole, not on each read."""
    _, allowed, _ = served(serve, "images.example", hosts=["images.example"], timeout=0.3)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"took too long; the limit is 0\.3 seconds"):
        drive(fetch(URL, allowed))
    assert 0.25 < time.monotonic() - start < 4


def test_a_caller_s_deadline_counts_if_it_is_earlier(drive: Drive, served: Serve) -> None:
    """A fetch that is part of something longer ends with it."""
    _, allowed, _ = served(trickle, "images.example", hosts=["images.example"])
    start = time.monotonic()
    with pytest.raises(DownloadError, match="took too long"):
        drive(fetch(URL, allowed, deadline=start + 0.3))
    assert 0.25 < time.monotonic() - start < 4


def truncated(connection: ssl.SSLSocket) -> None:
    """Serve less than was announced."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")


def garbage(connection: ssl.SSLSocket) -> None:
    """Serve what is not HTTP."""
    connection.sendall(b"SSH-2.0-x\r\n\r\n")


@pytest.mark.parametrize("serve", [truncated, garbage, ssl.SSLSocket.close])
def test_a_connection_that_breaks_off_is_our_error(
    drive: Drive, served: Serve, serve: Callable[[ssl.SSLSocket], None]
) -> None:
    """Half a picture, another protocol and nothing at all have one message."""
    _, allowed, _ = served(serve, "images.example", hosts=["images.example"])
    with pytest.raises(DownloadError, match="broke; try"):
        drive(fetch(URL, allowed))


def moved(connection: ssl.SSLSocket) -> None:
    """Redirect with a body that never ends."""
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n")
    connection.recv(1)


def test_the_body_of_a_redirect_is_not_read(drive: Drive, served: Serve) -> None:
    """A redirect is followed at once, over a connection of its own."""
    server, allowed, connected = served(moved, "images.example", hosts=["images.example"])
    with pytest.raises(DownloadError, match="more than 3 times"):
        drive(fetch(URL, allowed))
    assert len(connected) == 4 == len(server.heads)
    assert server.heads[1].startswith(b"GET /b HTTP/1.1\r\nHost: images.example\r\n")
