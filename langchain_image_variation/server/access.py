"""Access control: requests need the API key, or without one, must call the server by its own name.

Without a key, anyone who can reach the server may use it. A web page reaches it through the browser
of a user on this machine or in its network. Such a page has an origin that is not the server's, or
it made a name of its own resolve to this machine (DNS rebinding). The browser then treats the page
as same-origin, and only the `Host` header gives it away.
"""

import hmac
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
    shown,
)

__all__ = ["Access"]

Address = IPv4Address | IPv6Address

# RFC 9110, section 7.2: a name or an address, IPv6 in brackets, and perhaps a port.
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)


class Access:
    """Decides which requests may pass.

    Args:
        api_key: The key that clients must send, or None.
        public_url: The address by which clients call the server, if it is not what they send as
            `Host`, or None.
        hosts: Further names and IP addresses by which clients may call the server while it has no
            key.

    Raises:
        InvalidRequestError: If the key has blanks at its ends, the URL is not an http or https URL,
            or a host is not a full name or an IP address.
    """

    def __init__(
        self, api_key: str | None, public_url: str | None, hosts: Iterable[str] = ()
    ) -> None:
        if api_key is not None and (not api_key or api_key != api_key.strip()):
            raise InvalidRequestError(
                "api_key is empty or has blanks at its ends; leave it out for no key.",
                param="api_key",
            )
        self._api_key = api_key
        self.with_key = api_key is not None
        """Whether clients must send a key."""
        self._public_host = None if public_url is None else _host_of(public_url)
        self._hosts = set(_checked_hosts(hosts))
        if self._public_host is not None and (public := _parsed(self._public_host)) is not None:
            self._hosts.add(public)
        self._is_wildcard = False

    def listen_at(self, host: str) -> None:
        """Let clients call the server by the address or name at which it listens.

        Args:
            host: The name or IP address. At an address that stands for all of the machine, clients
                may use any IP address.
        """
        bound = _parsed(f"[{host}]" if ":" in host and not host.startswith("[") else host)
        if bound is not None:
            self._hosts.add(bound)
            self._is_wildcard = isinstance(bound, Address) and bound.is_unspecified

    def check(self, request: Request) -> None:
        """Raise unless a request may use the engine.

        Raises:
            AuthenticationError: If the key is missing or wrong.
            PermissionDeniedError: If there is no key, and the request names another host than this
                server, or comes from a web page of another origin.
        """
        if self._api_key is None:
            self.check_host(request)
            self._check_origin(request)
            return
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sent:
            error = AuthenticationError(
                "There is no API key in the request; send it in the header Authorization, as "
                "'Bearer KEY'."
            )
            error.code = None
            raise error
        # Headers are latin-1 (RFC 9110, section 5.5), and what is compared must be bytes.
        known = hmac.compare_digest(sent.strip().encode("latin-1"), self._api_key.encode())
        if not known:
            raise AuthenticationError("The API key in the request is not the one of this server.")

    def check_host(self, request: Request) -> None:
        """Raise if there is no key and `Host` is not one of this server's names.

        Only the header `Host` counts. Headers such as `X-Forwarded-Host` can be sent by anyone.

        Raises:
            PermissionDeniedError: If there is no key, and the request names another host, several
                or none.
        """
        if self._api_key is not None:
            return
        sent = request.headers.getlist("host")
        host = _parsed(sent[0]) if len(sent) == 1 else None
        if host is None or not self._is_ours(host, request):
            named = shown(sent[0]) if len(sent) == 1 else f"{len(sent)} Host headers"
            raise PermissionDeniedError(
                f"This server has no API key, so it answers only requests whose Host is one of its "
                f"own names; got {named}. Start it with an API key (--api-key), or if that name is "
                "yours, allow it: --allowed-host NAME, or create_app(hosts=[NAME])."
            )

    def _is_ours(self, host: str | Address, request: Request) -> bool:
        if host in self._hosts:
            return True
        if isinstance(host, str):
            # Nobody can register a name below localhost, and browsers resolve none by DNS (RFC
            # 6761, section 6.3).
            return host == "localhost" or host.endswith(".localhost")
        # Rebinding needs a name that the page's owner controls, so an address is always genuine. If
        # clients may reach the server through an address that this machine does not know, such as a
        # router's or a container host's, every address is allowed.
        return host.is_loopback or self._is_wildcard or _came_over_network(request)

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        own = (request.headers.get("host", ""), self._public_host)
        if origin is not None and origin.partition("://")[2] not in own:
            raise PermissionDeniedError(
                "This server has no API key, so web pages of other origins may not call it. Start "
                "it with an API key (--api-key). If the page is this server's own, behind a proxy, "
                "pass the server's public address as --public-url."
            )


def _came_over_network(request: Request) -> bool:
    """Return whether the connection came in at an address that is not loopback."""
    server = request.scope.get("server")
    local = _address(str(server[0])) if server else None
    # A server that listens on all interfaces may report the wildcard address.
    return local is not None and not local.is_loopback


def _parsed(host: str) -> str | Address | None:
    """Return the host in a `Host` header, without port and final dot, or None if it is not one."""
    match = _HOST.fullmatch(host.strip().lower())
    name = match["name"] if match is not None else ""
    if name.startswith("["):
        address = _address(name[1:-1])
        return address if ":" in name else None
    address = _address(name)
    if address is not None:
        return address
    name = name.removesuffix(".")
    return name if _NAME.fullmatch(name) else None


def _address(text: str) -> Address | None:
    """Return an IP address without its zone, and as IPv4 if it is that in IPv6 notation."""
    try:
        address = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _host_of(public_url: str) -> str:
    """Return the host of a URL as browsers send it: in lower case, without the default port."""
    try:
        parts = urlsplit(public_url)
        name = (parts.hostname or "").encode("idna").decode()
        host = f"[{name}]" if ":" in name else name
        if parts.port not in (None, _PORTS.get(parts.scheme)):
            host += f":{parts.port}"
        if parts.scheme in _PORTS and not parts.query and _parsed(host) is not None:
            return host
    except ValueError:
        pass
    raise InvalidRequestError(
        "public_url must be an address such as https://example.org/images.", param="public_url"
    )


def _checked_hosts(hosts: Iterable[str]) -> Iterable[str | Address]:
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise InvalidRequestError(
            f"hosts must be a list of names, such as ['images.example.org'], got {shown(hosts)}.",
            param="hosts",
        )
    for host in hosts:
        text = host if isinstance(host, str) else ""
        if "*" in text or text.startswith("."):
            raise InvalidRequestError(
                f"hosts holds the pattern {shown(host)}; list each host by its full name, or set "
                "an API key, which allows all hosts.",
                param="hosts",
            )
        bare = _address(text)
        known = _parsed(text) if bare is None else bare
        if known is None or (bare is None and ":" in text and not text.endswith("]")):
            raise InvalidRequestError(
                f"hosts holds {shown(host)}, which is not a host; pass a name or an IP address "
                "without scheme, port and path, such as 'images.example.org'.",
                param="hosts",
            )
        yield known
