"""HTTP headers that a caller adds to requests. Their values may be keys, so they stay hidden."""

import re
from collections.abc import Mapping
from urllib.parse import quote, quote_plus

import httpx
from pydantic import SecretStr

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = [
    "HeaderValues",
    "check_headers",
    "collect_secrets",
    "is_header_text",
    "is_secret",
    "reveal",
]

HeaderValues = Mapping[str, SecretStr]
"""Values by lower-case name."""

# A token of RFC 9110, section 5.6.2.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# These say how the body is framed, how the connection is used or which server is meant. With
# another value, the server would read a different request from the one that was sent.
_CLIENT_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_IDEMPOTENCY_KEY = "idempotency-key"
_SECRET_NAME = re.compile(r"auth|cookie|key|passw|secret|token|\bsig\b|signature|\bcode\b")


def check_headers(
    param: str, values: Mapping[str, str | SecretStr] | None, *, per_call: bool
) -> HeaderValues:
    """Return headers by lower-case name. If two names differ only in case, the last one wins.

    Args:
        param: The argument that contains them.
        values: Its value.
        per_call: Whether they are sent with one call alone, so that they may identify it.

    Raises:
        InvalidRequestError: If a name is not a token, a value is not printable ASCII, or the client
            sets the header itself.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"{param} must be a mapping of names to strings.", param=param)
    headers = {}
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequestError(
                f"{param} has the name {excerpt(name)}, which is not a header name.", param=param
            )
        lower_name = name.lower()
        if lower_name in _CLIENT_HEADERS:
            raise InvalidRequestError(
                f"{param} must not set {name}: the client sets it to match what it sends.",
                param=param,
            )
        if lower_name == _IDEMPOTENCY_KEY and not per_call:
            raise InvalidRequestError(
                f"{param} must not set {name}, which identifies one call; pass it to the call in "
                "extra_headers.",
                param=param,
            )
        if isinstance(value, str):
            value = SecretStr(value)
        if not isinstance(value, SecretStr) or not is_header_text(value.get_secret_value()):
            raise InvalidRequestError(
                f"{param} must give {name} as a string of printable ASCII characters without "
                "blanks at either end.",
                param=param,
            )
        headers[lower_name] = value
    return headers


def is_header_text(value: str) -> bool:
    """Return whether a header can carry a text: printable ASCII without blanks at either end."""
    return value.isascii() and value.isprintable() and value == value.strip()


def reveal(headers: HeaderValues) -> dict[str, str]:
    """Return headers as httpx takes them. Do not keep the result in a variable."""
    return {name: value.get_secret_value() for name, value in headers.items()}


def is_secret(name: str) -> bool:
    """Return whether a header or query parameter of this lower-case name usually carries a key."""
    return _SECRET_NAME.search(name) is not None and name != _IDEMPOTENCY_KEY


def collect_secrets(headers: HeaderValues, query: httpx.QueryParams) -> list[SecretStr]:
    """Return the values that no message may show, the longest first.

    A server may repeat a value of the query decoded or as it was sent. The longest come first: if
    one value begins with another, replacing the shorter one first would leave the rest visible.
    """
    secrets = []
    for name, value in headers.items():
        if is_secret(name):
            text = value.get_secret_value()
            # A server may repeat the key alone, out of "Bearer key" or "cookie=key; other=key".
            parts = [text.rpartition(" ")[2], *(pair.partition("=")[2] for pair in text.split(";"))]
            secrets += [SecretStr(text), *(SecretStr(part) for part in parts)]
    for name, text in query.multi_items():
        if is_secret(name.lower()):
            secrets += [SecretStr(form) for form in (text, quote(text, safe=""), quote_plus(text))]
    return sorted(secrets, key=len, reverse=True)
