"""Proxies and certificates from the environment, and certificates of servers."""

import datetime
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import (
    EngineConnectionError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.hosted.variations import VariationsEngine
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.source import load_source
from tests.calling import PNG, Caller, success
from tests.extras import skip_without
from tests.http.raw_server import raw_server, response

skip_without("trustme")
import trustme  # noqa: E402  # after the check that it is installed

GOOD = response(200, success(), content_type="application/json")
ENGINES: dict[str, Callable[[str], object]] = {
    "sync": lambda url: ImageVariationClient(base_url=url),
    "async": lambda url: AsyncImageVariationClient(base_url=url),
    "variations": lambda url: VariationsEngine(base_url=url),
    "gpt-image": lambda url: GptImageEngine(base_url=url, api_key="k"),
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's proxies and certificates out of the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("open_engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("HTTP_PROXY", "foo://user:hunter2@proxy.example"),
        ("HTTP_PROXY", "http://"),
        ("http_proxy", "http://user:hunter2@[::1"),
        ("HTTP_PROXY", "http://proxy.example:99999999"),
        ("ALL_PROXY", "socks4://user:hunter2@proxy.example"),
        ("all_proxy", "http://xn--a"),
        ("ALL_PROXY", "http://\u2028"),
        ("HTTP_PROXY", "http://u\nser:hunter2@proxy.example"),
    ],
)
def test_an_invalid_proxy_is_named(
    monkeypatch: pytest.MonkeyPatch, open_engine: Callable[[str], object], name: str, address: str
) -> None:
    """The error names the variable, but not its value, which may contain a password."""
    monkeypatch.setenv(name, address)
    with pytest.raises(InvalidRequestError, match=f"{name} must be the address of") as caught:
        open_engine("http://pictures.invalid/v1")
    assert caught.value.param == name
    assert "hunter2" not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("open_engine", ENGINES.values(), ids=ENGINES)
def test_a_socks_proxy_needs_a_package(
    monkeypatch: pytest.MonkeyPatch, open_engine: Callable[[str], object]
) -> None:
    """Without the package for SOCKS, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1")
    with pytest.raises(MissingExtraError, match=r"SOCKS proxy in ALL_PROXY.*'httpx\[socks\]'"):
        open_engine("http://pictures.invalid/v1")


@pytest.mark.parametrize("no_proxy", ["[::1", "a:b:c:d, x://y://", "\u2028", "*,,,.."])
def test_an_odd_no_proxy_does_no_harm(
    call: Caller, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    """Entries of NO_PROXY that name no host are ignored."""
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with raw_server(GOOD) as server:
        assert call(base_url=server.base_url).data[0].read() == PNG


def test_a_proxy_for_other_servers_is_not_checked(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is used only for its own scheme, and for hosts that need it."""
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy.example")
    monkeypatch.setenv("HTTP_PROXY", "ftp://proxy.example")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with raw_server(GOOD) as server:
        assert call(base_url=server.base_url).data[0].read() == PNG


def test_a_broken_netrc_does_no_harm(
    call: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client does not read netrc, which belongs to other programs."""
    (tmp_path / ".netrc").write_bytes(b"machine \xff login")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with raw_server(GOOD) as server:
        assert call(base_url=server.base_url).data[0].read() == PNG


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named(
    call: Caller, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """If a proxy needs a password, the error does not say that the server is down."""
    with raw_server(response(407)) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://user:hunter2@127.0.0.1:{proxy.port}")
        with pytest.raises(ImageVariationError) as caught:
            call(base_url=f"{scheme}://pictures.invalid/v1", max_retries=0)
        assert proxy.requests
    assert "hunter2" not in caught.value.message
    message = (
        "The proxy in ALL_PROXY does not connect to"
        if scheme == "https"
        else "The proxy needs a user"
    )
    assert message in caught.value.message


@pytest.mark.parametrize("address", ["proxy.invalid", "http://proxy.invalid:8080"])
def test_a_proxy_that_does_not_exist_is_named(
    call: Caller, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """If the proxy cannot be reached, the error does not blame only the server."""
    monkeypatch.setenv("HTTP_PROXY", address)
    message = r"cannot be reached through the proxy in HTTP_PROXY; is that address right"
    with pytest.raises(EngineConnectionError, match=message):
        call(base_url="http://127.0.0.1/v1", max_retries=0)


def _serve_through_socks(listener: socket.socket) -> None:
    """Answer one request through the SOCKS 5 protocol (RFC 1928), whatever its target is."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        connection.recv(1024)
        connection.sendall(b"\x05\x00")
        connection.recv(1024)
        connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        request = b""
        while not request.endswith(b"--\r\n"):
            request += connection.recv(65536)
        connection.sendall(GOOD)


def test_a_socks_proxy_is_used(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package for SOCKS, the client goes through such a proxy."""
    skip_without("socksio")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_serve_through_socks, args=(listener,), daemon=True)
        thread.start()
        assert call(base_url="http://pictures.invalid/v1").data[0].read() == PNG
        thread.join(10)


AUTHORITY = trustme.CA()
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def tls_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the context of a server with a self-signed certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "own.pem")
    authority.private_key_pem.write_to_path(folder / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem", folder / "key.pem")
    return context


CERTIFICATES: list[tuple[str, Callable[[Path], ssl.SSLContext]]] = [
    (
        "has expired; ask its operators",
        lambda _: tls_context(
            AUTHORITY.issue_cert("127.0.0.1", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
        ),
    ),
    (
        "not valid yet; check the clock",
        lambda _: tls_context(AUTHORITY.issue_cert("127.0.0.1", not_before=NOW + DAY)),
    ),
    (
        "for another name; check the host",
        lambda _: tls_context(AUTHORITY.issue_cert("other.example")),
    ),
    (
        "issuer is not trusted.*SSL_CERT_FILE",
        lambda _: tls_context(trustme.CA().issue_cert("127.0.0.1")),
    ),
    ("a self-signed certificate.*SSL_CERT_FILE", self_signed),
]


@pytest.mark.parametrize(("message", "make_context"), CERTIFICATES)
def test_a_bad_certificate_is_described(
    call: Caller,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    message: str,
    make_context: Callable[[Path], ssl.SSLContext],
) -> None:
    """The error for a certificate says what is wrong with it, and what to do."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "trusted.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    with raw_server(GOOD, tls=make_context(tmp_path)) as server:
        with pytest.raises(EngineConnectionError, match=rf"^127\.0\.0\.1 has .*{message}"):
            call(base_url=server.base_url, max_retries=0)
        assert server.requests == []


def test_a_trusted_certificate_is_accepted(
    call: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`SSL_CERT_FILE` names the certificates to trust."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "trusted.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    with raw_server(GOOD, tls=tls_context(AUTHORITY.issue_cert("127.0.0.1"))) as server:
        assert call(base_url=server.base_url).data[0].read() == PNG


@pytest.mark.mostly_slow("sync")
def test_a_server_may_pause_over_tls(
    call: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pause in an answer over TLS, longer than a thread waits at a time, loses no byte of it."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "trusted.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))

    def pause(connection: socket.socket) -> None:
        for piece in (GOOD[:20], GOOD[20:-20], GOOD[-20:]):
            time.sleep(0.3)
            connection.sendall(piece)

    with raw_server(pause, tls=tls_context(AUTHORITY.issue_cert("127.0.0.1"))) as server:
        assert call(base_url=server.base_url).data[0].read() == PNG


def test_a_server_without_tls_is_described(call: Caller) -> None:
    """If the server does not speak TLS, the error asks about https."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_refuse_in_plain_text, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(EngineConnectionError, match=r"does not speak TLS.*https"):
            call(base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1", max_retries=0)
        thread.join(10)


def _refuse_in_plain_text(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(response(400))


def test_a_server_that_hangs_up_is_not_blamed_for_tls(call: Caller) -> None:
    """If a connection ends before TLS begins, the error says that the server is down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True)
        thread.start()
        with pytest.raises(EngineConnectionError, match="is the server running"):
            call(base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1", max_retries=0)
        thread.join(10)


def _fetch_source(url: str) -> object:
    policy = URLPolicy(hosts=["pictures.invalid"], resolve=lambda host, port: ["93.184.216.34"])
    return load_source(f"{url}/a.png", urls=policy)


@pytest.mark.parametrize("use", [*ENGINES.values(), _fetch_source], ids=[*ENGINES, "source"])
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_unusable_certificates_are_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    use: Callable[[str], object],
    name: str,
    content: bytes | None,
) -> None:
    """If a variable does not name certificates, the error shows its name, but not the path."""
    path = tmp_path / "missing" / "file.pem"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
        if name == "SSLKEYLOGFILE":
            path = path.parent  # Any file could be written to.
    monkeypatch.setenv(name, str(path))
    with pytest.raises(InvalidRequestError, match=f"variable {name} must name") as caught:
        use("https://pictures.invalid/v1")
    assert caught.value.param == name
    assert "file.pem" not in caught.value.message


@pytest.mark.parametrize("open_engine", ENGINES.values(), ids=ENGINES)
def test_http_needs_no_certificates(
    monkeypatch: pytest.MonkeyPatch, open_engine: Callable[[str], object]
) -> None:
    """A variable for certificates is not read for a server without TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", "missing.pem")
    open_engine("http://pictures.invalid/v1")
