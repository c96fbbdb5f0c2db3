"""Access control: by API key or, if none is set, by the `Host` and `Origin` that a request names.

Without a key, anyone who can reach the server may use it. That includes web pages in the browser of
a user on this machine or in its network. Such a page has a different origin, or its own name
resolves to this machine (DNS rebinding). In the latter case the browser treats the page as
same-origin, and only the `Host` header gives it away.
"""

import hmac
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
    excerpt,
)

__all__ = ["Access", "is_same_token", "read_bearer_token"]

_Address = IPv4Address | IPv6Address

# RFC 9110, section 7.2: a name or an address, IPv6 in brackets, and perhaps a port.
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/?#@*\s]+)/?")
_PORTS = {"http": 80, "https": 443}
_SET_KEY = "Set an API key (--api-key, or IMAGE_VARIATION_API_KEY)"
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)


def read_bearer_token(headers: Headers) -> str | None:
    """Return the token that a request sends as "Bearer TOKEN", or None if it sends none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def is_same_token(token: str, expected: str) -> bool:
    """Return whether a token from `read_bearer_token` is the expected one, in constant time."""
    # Headers are latin-1 (RFC 9110, section 5.5), and `compare_digest` needs bytes.
    return hmac.compare_digest(token.encode("latin-1"), expected.encode())


class Access:
    """Decides which requests may pass.

    Args:
        api_key: The key that clients must send, or None.
        public_url: The server's public address, if it differs from the `Host` that requests name,
            or None.
        hosts: More names and IP addresses that clients may use for the server while it has no key.
        cors_origins: The origins whose web pages may call the server, or "*" for all. "*" needs a
            key.

    Raises:
        InvalidRequestError: If the key is empty or has blanks at either end, the URL is not an http
            or https URL, a host is not a full name or an IP address, or an origin is invalid.
    """

    def __init__(
        self,
        api_key: str | None,
        public_url: str | None,
        hosts: Iterable[str] = (),
        cors_origins: Iterable[str] = (),
    ) -> None:
        if api_key is not None and (not api_key or api_key != api_key.strip()):
            raise InvalidRequestError(
                "api_key must not be empty or have blanks at either end. Leave it out for no key.",
                param="api_key",
            )
        self._api_key = api_key
        self.requires_key = api_key is not None
        """Whether clients must send a key."""
        self._public_host = None if public_url is None else _url_host(public_url)
        self._hosts = set(_parse_hosts(hosts))
        if self._public_host is not None and (host := _parse_host(self._public_host)) is not None:
            self._hosts.add(host)
        self.cors_origins = frozenset(_parse_origins(cors_origins, has_key=self.requires_key))
        """The origins whose web pages may call the server, as browsers send them, or "*"."""
        self._is_wildcard = False

    def listen_at(self, host: str) -> None:
        """Let clients call the server by the name or address on which it listens.

        Args:
            host: The name or IP address. If it stands for all addresses of the machine, clients may
                use any IP address.
        """
        name = _parse_host(f"[{host}]" if ":" in host and not host.startswith("[") else host)
        if name is not None:
            self._hosts.add(name)
            self._is_wildcard = isinstance(name, _Address) and name.is_unspecified

    def check(self, request: Request) -> None:
        """Check that a request may use the engine. `check_host` must have allowed it.

        Raises:
            AuthenticationError: If the key is missing or wrong.
            PermissionDeniedError: If there is no key, and the request comes from a web page of
                another origin.
        """
        if self._api_key is None:
            self._check_origin(request)
            return
        api_key = read_bearer_token(request.headers)
        if api_key is None:
            error = AuthenticationError(
                "The request has no API key. Send it in the Authorization header, as 'Bearer KEY'."
            )
            error.code = None
            raise error
        if not is_same_token(api_key, self._api_key):
            raise AuthenticationError("The API key in the request is incorrect.")

    def check_site(self, request: Request) -> None:
        """If there is no key, check that no web page of another site caused a request.

        Browsers send no `Origin` with links, images and scripts, but `Sec-Fetch-Site`, which pages
        cannot set (the standard "Fetch Metadata Request Headers"). Our own endpoints need no such
        check: what they do without a body has no effect. Other servers may be different.

        Raises:
            PermissionDeniedError: If such a page caused the request. Requests with an `Origin` are
                left to `check`.
        """
        site = request.headers.get("sec-fetch-site", "none")
        if self._api_key is None and site not in ("none", "same-origin"):
            if "origin" not in request.headers:
                raise PermissionDeniedError(
                    "This server has no API key, so web pages of other sites cannot make it "
                    f"forward requests. {_SET_KEY}."
                )

    def check_host(self, request: Request) -> None:
        """If there is no key, check that `Host` is one of this server's names.

        This comes before everything else, so that a page under another name cannot find out which
        paths the server has, or whether it is healthy.

        Only the `Host` header counts. Anyone can send a header such as `X-Forwarded-Host`.

        Raises:
            PermissionDeniedError: If there is no key, and the request names a different host,
                several hosts or none.
        """
        if self._api_key is not None:
            return
        headers = request.headers.getlist("host")
        host = _parse_host(headers[0]) if len(headers) == 1 else None
        if host is None or not self._is_allowed(host, request):
            value = excerpt(headers[0]) if len(headers) == 1 else f"{len(headers)} Host headers"
            raise PermissionDeniedError(
                f"This server has no API key, so it only accepts requests whose Host is one of its "
                f"names, got {value}. {_SET_KEY}. If the name is yours, allow it: --allowed-host "
                "NAME, or hosts=[NAME]."
            )

    def _is_allowed(self, host: str | _Address, request: Request) -> bool:
        if host in self._hosts:
            return True
        if isinstance(host, str):
            # Nobody can register a name below localhost, and browsers do not look it up in DNS
            # (RFC 6761, section 6.3).
            return host == "localhost" or host.endswith(".localhost")
        # Rebinding needs a name that the owner of the page controls, so addresses are safe. All are
        # allowed if clients may use one that this machine does not know, such as the address of a
        # router or of a container's host.
        return host.is_loopback or self._is_wildcard or _is_remote(request)

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        hosts = (request.headers.get("host", ""), self._public_host)
        if origin is None or origin in self.cors_origins:
            return
        if origin.partition("://")[2] not in hosts:
            raise PermissionDeniedError(
                "This server has no API key, so web pages of other origins cannot call it. "
                f"{_SET_KEY}, or allow the page's origin: --cors-origin ORIGIN, or "
                "cors_origins=[ORIGIN]. If this is the server's own page behind a proxy, pass the "
                "public address: --public-url URL, or public_url=URL."
            )


def _is_remote(request: Request) -> bool:
    """Return whether the connection came in at an address that is not loopback."""
    server = request.scope.get("server")
    local = _parse_address(str(server[0])) if server else None
    # A server that listens on all interfaces may report the wildcard address.
    return local is not None and not local.is_loopback


def _parse_host(host: str) -> str | _Address | None:
    """Return the host in a `Host` header, without port and final dot, or None if it is invalid."""
    match = _HOST.fullmatch(host.strip().lower())
    name = match["name"] if match is not None else ""
    if name.startswith("["):
        address = _parse_address(name[1:-1])
        return address if ":" in name else None
    address = _parse_address(name)
    if address is not None:
        return address
    name = name.removesuffix(".")
    return name if _NAME.fullmatch(name) else None


def _parse_address(text: str) -> _Address | None:
    """Return an IP address without its zone, as IPv4 if it is an IPv4 address in IPv6 notation."""
    try:
        address = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _url_host(public_url: str) -> str:
    """Return the host of the public URL as browsers send it."""
    host = _browser_host(public_url)
    if host is None:
        raise InvalidRequestError(
            "public_url must be a URL such as https://example.org/images, without a user name, a "
            "query or a fragment.",
            param="public_url",
        )
    return host


def _browser_host(url: str) -> str | None:
    """Return the host of an http or https URL as browsers send it, or None if the URL is invalid.

    They send it in lower case, without the default port.
    """
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").encode("idna").decode()
        host = f"[{name}]" if ":" in name else name
        if parts.port not in (None, _PORTS.get(parts.scheme)):
            host += f":{parts.port}"
        is_plain = "@" not in parts.netloc and "?" not in url and "#" not in url
        if parts.scheme in _PORTS and is_plain and _parse_host(host) is not None:
            return host
    except ValueError:
        pass
    return None


def _parse_hosts(hosts: Iterable[str]) -> Iterable[str | _Address]:
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise InvalidRequestError(
            f"hosts must be a list of names, such as ['images.example.org'], got {excerpt(hosts)}.",
            param="hosts",
        )
    for host in hosts:
        text = host if isinstance(host, str) else ""
        if "*" in text or text.startswith("."):
            raise InvalidRequestError(
                f"hosts contains the pattern {excerpt(host)}. List each host by its full name, or "
                "set an API key, which allows all hosts.",
                param="hosts",
            )
        address = _parse_address(text)
        host_or_address = _parse_host(text) if address is None else address
        if host_or_address is None or (address is None and ":" in text and not text.endswith("]")):
            raise InvalidRequestError(
                f"hosts contains {excerpt(host)}, which is not a host. Pass a name or an IP "
                "address without a scheme, port or path, such as 'images.example.org'.",
                param="hosts",
            )
        yield host_or_address


def _parse_origins(origins: Iterable[str], *, has_key: bool) -> Iterable[str]:
    if isinstance(origins, str) or not isinstance(origins, Iterable):
        raise InvalidRequestError(
            "cors_origins must be a list of origins, such as ['https://app.example.org'], got "
            f"{excerpt(origins)}.",
            param="cors_origins",
        )
    for text in origins:
        if text == "*" and not has_key:
            raise InvalidRequestError(
                "cors_origins contains '*', but the server has no API key, so any web page could "
                "use it. Set an API key, or list the origins.",
                param="cors_origins",
            )
        origin = "*" if text == "*" else _parse_origin(text)
        if origin is None:
            raise InvalidRequestError(
                f"cors_origins contains {excerpt(text)}, which is not an origin. Pass a scheme, a "
                "host and, if it is not the default one, a port, such as "
                "'https://app.example.org' or 'http://localhost:5173'.",
                param="cors_origins",
            )
        yield origin


def _parse_origin(text: object) -> str | None:
    """Return an origin as browsers send it, or None if it is invalid."""
    match = _ORIGIN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    scheme = match["scheme"].lower()
    # Extensions and apps have their own schemes.
    host = _browser_host(match[0]) if scheme in _PORTS else match["host"].lower()
    return None if host is None else f"{scheme}://{host}"
