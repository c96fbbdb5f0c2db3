"""Who may call: whoever sends the key; without one, no web page of a stranger."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import Request

from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
)

__all__ = ["Access"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Access:
    """What a request must bring along.

    Args:
        api_key: The key that clients must send, or None.
        public_url: What clients call the server, if that is not what they send as Host.

    Raises:
        InvalidRequestError: If the key cannot be sent as it is, or the address is none of the web.
    """

    def __init__(self, api_key: str | None, public_url: str | None) -> None:
        if api_key is not None and (not api_key or api_key != api_key.strip()):
            raise InvalidRequestError(
                "api_key is empty or has blanks at its ends; leave it out for no key.",
                param="api_key",
            )
        parts = urlsplit(public_url or "http://x")
        if public_url is not None and (
            parts.scheme not in ("http", "https") or not parts.netloc or parts.query
        ):
            raise InvalidRequestError(
                "public_url must be an address as https://example.org/images.", param="public_url"
            )
        self._api_key = api_key
        self.with_key = api_key is not None
        """Whether clients must send a key."""
        self._public_host = parts.netloc if public_url else None

    def check(self, request: Request) -> None:
        """Let a request pass.

        Raises:
            AuthenticationError: If the key is missing or wrong.
            PermissionDeniedError: If there is no key, and a web page that is not ours calls: any
                page may do so that the user of a browser on this machine looks at.
        """
        if self._api_key is None:
            self._check_page(request)
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

    def _check_page(self, request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        own = origin is None or origin.partition("://")[2] in (host, self._public_host)
        # A name of a stranger's that was made to mean this machine (DNS rebinding).
        local = getattr(request.app.state, "loopback", False) and self._public_host is None
        named = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if not own or (local and host and named.strip("[]").lower() not in _LOOPBACK):
            raise PermissionDeniedError(
                "A web page of another origin may not call this server while it has no key; start "
                "it with --api-key, or name its address with --public-url."
            )
