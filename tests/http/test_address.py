# ruff: noqa: RUF001  # The tests are about lookalike characters.
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.exceptions import DownloadError
from langchain_image_variation.http.address import CheckedURL, host_name, is_public, parse_url
from tests.http.hostile_urls import HOSTILE_ADDRESSES, HOSTILE_URLS


@pytest.mark.parametrize(
    ("url", "reason"), HOSTILE_URLS, ids=[ascii(u)[:60] for u, _ in HOSTILE_URLS]
)
def test_hostile_urls_are_refused(url: str, reason: str) -> None:
    """A hostile URL is refused with its reason, or parsed with the host that it really has."""
    if reason.startswith("The host"):
        assert parse_url(url).host != "images.example"
        return
    with pytest.raises(DownloadError) as caught:
        parse_url(url)
    assert caught.value.message.startswith(reason)
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("address", HOSTILE_ADDRESSES)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """No private, reserved, embedding or malformed address counts as public."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.1", "172.32.0.1"),
        *("168.63.129.17", "191.255.255.255", "198.20.0.1", "223.255.255.254"),
        *("2606:4700::1111", "2a00:1450:4001:80b::200e", "2001:4860:4860::8888", "2400:cb00::1"),
    ],
)
def test_public_addresses_are_public(address: str) -> None:
    """Addresses next to the refused ranges are public."""
    assert is_public(address)


@given(st.ip_addresses().map(str) | st.text(max_size=20))
def test_any_address_is_public_or_not(address: str) -> None:
    """No text raises an error, and no address is public that Python calls private."""
    if is_public(address):
        parsed = ipaddress.ip_address(address)
        assert parsed.is_global and not parsed.is_multicast


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://images.example", "images.example", "/"),
        ("HTTPS://Images.Example.:443/A%20b?q=%2F+#top", "images.example", "/A%20b?q=%2F+"),
        ("https://images.example?q", "images.example", "/?q"),
        ('https://images.example/ü|"?q={}', "images.example", "/%C3%BC%7C%22?q=%7B%7D"),
        ("https://images.example/a@b:80//c", "images.example", "/a@b:80//c"),
        ("https://Bücher.EXAMPLE/", "xn--bcher-kva.example", "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
        ("https://1e100.example/", "1e100.example", "/"),
        ("https://0x7f.example/", "0x7f.example", "/"),
    ],
)
def test_a_url_has_one_normal_form(url: str, host: str, target: str) -> None:
    """The host is lower-case ASCII without a final dot, the target encoded, without fragment."""
    assert parse_url(url) == CheckedURL(host, target)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("b.png?x", CheckedURL("images.example", "/a/b.png?x")),
        ("/b.png#y", CheckedURL("images.example", "/b.png")),
        ("//cdn.example/b", CheckedURL("cdn.example", "/b")),
        ("https://cdn.example/b", CheckedURL("cdn.example", "/b")),
    ],
)
def test_a_location_is_resolved(location: str, expected: CheckedURL) -> None:
    """Relative and absolute locations are resolved as RFC 9110 says."""
    assert parse_url("https://images.example/a/cat.png?z").follow(location) == expected


@pytest.mark.parametrize(
    "location",
    [
        *("http://images.example/", "//127.0.0.1/", "https:\\\\evil.example", "\\\\evil.example"),
        *(
            "//user@cdn.example/",
            "https://[",
            "//[",
            "file:///etc/passwd",
            "data:,x",
            "/\t/cdn.example/",
        ),
        *("//cdn.example:80/", "https://[::1]/", "javascript:x", "//localhost"),
    ],
)
def test_a_hostile_location_is_refused(location: str) -> None:
    """A hostile redirect is refused, and the message says that a redirect led to it."""
    with pytest.raises(DownloadError, match=r"'images\.example' redirects to"):
        parse_url("https://images.example/a/cat.png").follow(location)


def test_the_file_name_is_the_last_segment() -> None:
    """The last segment of a URL is the file name, which is decoded and may be empty."""
    assert parse_url("https://images.example/a/my%20cat.png?b/c").file_name == "my cat.png"
    assert parse_url("https://images.example").file_name == ""


@given(
    st.text(alphabet="https:/\\@[]#?%.0x7f1e images\n\t：／。ß", max_size=40).map(
        "https://".__add__
    )
)
def test_any_url_has_a_plain_host_or_is_refused(url: str) -> None:
    """A parsed host has only letters, digits, dashes and dots, in normal form."""
    try:
        parsed = parse_url(url)
    except DownloadError:
        return
    assert host_name(parsed.host) == parsed.host
    assert parsed.host.isascii() and "." in parsed.host
    assert not set(parsed.host) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert parsed.target.startswith(("/", "?")) and parsed.target.isascii()
    assert f"https://{parsed.host}" in url.lower() or not url.isascii()
