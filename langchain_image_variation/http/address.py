"""Which URLs may be fetched, and which IP addresses are public.

Every URL is read by one narrow grammar, and requests are built from its result. So no second parser
can interpret the same URL differently.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from string import ascii_lowercase, ascii_uppercase
from urllib.parse import quote, unquote, urljoin

from langchain_image_variation.exceptions import DownloadError, excerpt

__all__ = ["MAX_URL_LENGTH", "CheckedURL", "host_name", "is_public", "parse_url"]

MAX_URL_LENGTH = 8192
"""The maximum length of a URL, in characters. RFC 9110, section 4.1, recommends supporting at least
8000."""


@dataclass(frozen=True, slots=True)
class CheckedURL:
    """A URL that follows the rules of `parse_url`. Its port is 443."""

    host: str
    """The host, as returned by `host_name`."""
    target: str
    """The path and query, percent-encoded."""

    @property
    def file_name(self) -> str:
        """The last segment of the path, decoded. It is not safe to show or to open."""
        return unquote(self.target.partition("?")[0].rpartition("/")[2])

    def follow(self, location: str) -> "CheckedURL":
        """Return the target of a `Location` header (RFC 9110, section 10.2.2) in a response.

        Raises:
            DownloadError: See `parse_url`.
        """
        try:
            # `urljoin` drops some of the forbidden characters.
            _check_characters(location)
            return parse_url(urljoin(f"https://{self.host}{self.target}", location))
        except ValueError:
            raise DownloadError(f"{excerpt(self.host)} redirects to an invalid URL.") from None
        except DownloadError as error:
            message = f"{excerpt(self.host)} redirects to a URL that is not allowed. {error}"
            raise DownloadError(message) from None


def parse_url(url: str) -> CheckedURL:
    """Check a URL and return its parts, without the fragment.

    Raises:
        DownloadError: If the URL is too long, does not begin with "https://", contains a backslash,
            white space or a control character, names a user or a port other than 443, or has a
            host that `host_name` refuses. The message shows only the host of the URL.
    """
    if len(url) > MAX_URL_LENGTH:
        raise DownloadError(f"The URL is longer than {MAX_URL_LENGTH:,} characters.")
    _check_characters(url)
    parts = _HTTPS.fullmatch(url)
    if parts is None:
        raise DownloadError("Only https URLs are fetched, such as https://host/path.")
    authority, path, query = parts.groups(default="")
    if "@" in authority:
        raise DownloadError("The URL contains a user name or password; remove it.")
    target = quote((path or "/") + query, safe=_SAFE_CHARACTERS)
    if len(target) > MAX_URL_LENGTH:
        raise DownloadError(f"The encoded URL is longer than {MAX_URL_LENGTH:,} characters.")
    host, colon, port = authority.partition(":")
    if colon and port != "443" and not authority.startswith("["):
        raise DownloadError("Only port 443 is allowed; remove the port from the URL.")
    return CheckedURL(host_name(host), target)


def host_name(host: str) -> str:
    """Return a host name in its normal form: lower case, ASCII, without the final dot.

    A name that is not ASCII is encoded with IDNA (RFC 3490), but only if decoding gives the same
    name. This rejects lookalike digits, dots and letters, and letters such as "ß", whose encoding
    differs between versions of IDNA.

    Raises:
        DownloadError: If the host is an IP address in any spelling (its last label is a number, as
            in "127.1", "0x7f.1" or "2130706433"), has a single label, like "localhost", or is not a
            host name by RFC 1123, section 2.1.
    """
    name = host.removesuffix(".").translate(_LOWER_CASE)
    if len(name) <= _MAX_HOST_LENGTH and not name.isascii():
        name = _encode(name)
    if len(name) <= _MAX_HOST_LENGTH and _NAME.fullmatch(name):
        if _NUMBER.fullmatch(name.rpartition(".")[2]):
            raise DownloadError("Images are fetched by host name, never by IP address.")
        if "." in name:
            return name
    if _IPV6.fullmatch(name):
        raise DownloadError("Images are fetched by host name, never by IP address.")
    raise DownloadError(f"{excerpt(host)} is not a full host name, such as 'www.example.com'.")


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    `ipaddress.is_global` is not enough: it differs between versions of Python, and it accepts IPv6
    addresses that embed a private IPv4 address. This function refuses all addresses that embed
    another one, the ranges of the IANA special-purpose registries (RFC 6890) that are not global,
    and everything other than unicast.

    Args:
        address: An IPv4 address in four decimal parts, or an IPv6 address. One with a zone is
            refused.
    """
    try:
        ip = ip_address(address) if isinstance(address, str) else None
    except ValueError:
        return False
    if ip is None:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _REFUSED_V4)
    if ip.scope_id is not None or ip not in _GLOBAL_UNICAST:
        return False
    interface = int(ip) >> 32 & 0xFFFF_FFFF
    return interface not in _ISATAP and not any(ip in network for network in _REFUSED_V6)


_HTTPS = re.compile(r"https://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.ASCII)
# Characters that a path or query may contain unencoded (RFC 3986, sections 2 and 3.3). "%" is among
# them because the URL may already be encoded.
_SAFE_CHARACTERS = "%/?:@!$&'()*+,;=-._~[]"
_FORBIDDEN = re.compile("[\\s\\x00-\\x1f\\x7f-\\x9f\\\\\ud800-\udfff]")

_MAX_HOST_LENGTH = 253
# ASCII only: other letters may share their lower case with a different letter.
_LOWER_CASE = str.maketrans(ascii_uppercase, ascii_lowercase)
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Resolvers take a host whose last label is a number for an IPv4 address, in short and hexadecimal
# forms, too (inet_aton; also the WHATWG URL standard, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_IPV6 = re.compile(r"\[.*|[0-9a-f.]*:[0-9a-f:.]*")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The range from which IANA assigns addresses. Outside of it are ::/8 with mapped, compatible and
NAT64 addresses, and unique local, link-local, site-local and multicast addresses."""

_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, Teredo (RFC 4380), benchmarking and ORCHID among them
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056)
        "3ffe::/16",  # 6bone, returned to IANA (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The first half of an ISATAP interface identifier (RFC 5214); the second is an IPv4 address."""

_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared behind carriers' NAT (RFC 6598); a cloud's metadata service
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # the host that runs a virtual machine in Azure
        "169.254.0.0/16",  # link-local (RFC 3927); the metadata service of most clouds
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocols (RFC 6890); a cloud's metadata service
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), broadcast
    )
)


def _check_characters(url: str) -> None:
    if _FORBIDDEN.search(url):
        raise DownloadError(
            "The URL contains a backslash, white space or a control character; percent-encode it."
        )


def _encode(name: str) -> str:
    """Return a name in ASCII, or the name itself if decoding does not give it back."""
    try:
        encoded = name.encode("idna")
        return encoded.decode("ascii") if encoded.decode("idna") == name else name
    except UnicodeError:
        return name
