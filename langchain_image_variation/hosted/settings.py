"""Settings of a client, checked when it is made: each function returns a setting or refuses it."""

import os
import re
from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    shown,
)
from langchain_image_variation.numbers import check_seconds

__all__ = [
    "FormValue",
    "base_url",
    "environment",
    "flag",
    "form_fields",
    "header_text",
    "model_name",
    "request_timeout",
    "secret",
]

FormValue = str | int | float | bool

_CONNECT_TIMEOUT = 10.0
# The labels of a name (RFC 1123, section 2.1, and underscores, which container hosts have), or the
# address in brackets that httpx has checked.
_HOST = re.compile(
    r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|[0-9a-f.]*:[0-9a-f:.]+", re.IGNORECASE
)
_PATH = "/images/variations"


def environment(name: str) -> str | None:
    """Return an environment variable without surrounding blanks; an empty one is unset."""
    return os.environ.get(name, "").strip() or None


def secret(api_key: str | SecretStr | None, variable: str | None) -> SecretStr:
    """Return the key, by default that of an environment variable; an empty one means none.

    Raises:
        InvalidRequestError: If it is no text.
        AuthenticationError: If it has a character that no header takes.
    """
    if api_key is None:
        api_key = environment(variable) if variable is not None else ""
    kind = type(api_key).__name__
    # From here on, no variable holds it as it is: tracebacks may be recorded with variables.
    api_key = SecretStr(api_key or "") if isinstance(api_key, str | None) else api_key
    if not isinstance(api_key, SecretStr):
        api_key = None
        raise InvalidRequestError(f"api_key must be a text, got a {kind}.", param="api_key")
    if not _sendable(api_key.get_secret_value()):
        raise AuthenticationError("api_key has a character that no header takes.")
    return api_key


def header_text(param: str, value: str | None, variable: str) -> str | None:
    """Return what a header says, by default what an environment variable does; "" is nothing.

    Raises:
        InvalidRequestError: If it is no text, or has a character that no header takes.
    """
    value = environment(variable) if value is None else value
    if value is not None and (not isinstance(value, str) or not _sendable(value)):
        raise InvalidRequestError(f"{param} must be a text that a header takes.", param=param)
    return value or None


def base_url(value: str) -> httpx.URL:
    """Return the address of a server, up to and without the path of the call.

    Raises:
        InvalidRequestError: If it is no http or https address, or holds a user name.
    """
    failure = InvalidRequestError(
        "base_url must be an http or https address, such as 'http://127.0.0.1:8000/v1'.",
        param="base_url",
    )
    try:
        url = httpx.URL(value.strip() if isinstance(value, str) else value)
        port = url.port
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, TypeError, UnicodeError):
        raise failure from None
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise failure
    if port is not None and not 0 < port < 65536:
        raise failure
    if url.userinfo:
        raise InvalidRequestError(
            "base_url must not hold a user name or password; pass an http_client that has them.",
            param="base_url",
        )
    path, question, query = url.raw_path.partition(b"?")
    path = path.rstrip(b"/").removesuffix(_PATH.encode()).rstrip(b"/")
    return url.copy_with(raw_path=path + question + query, fragment=None)


def request_timeout(value: float | httpx.Timeout | None) -> httpx.Timeout:
    """Return how long a server may be silent; connecting may take at most 10 seconds of it.

    Raises:
        InvalidRequestError: If it is no positive number of seconds, `httpx.Timeout` or None.
    """
    if isinstance(value, httpx.Timeout):
        return value
    if value is None:
        return httpx.Timeout(None)
    total = check_seconds("timeout", value)
    return httpx.Timeout(total, connect=min(total, _CONNECT_TIMEOUT))


def flag(param: str, value: bool) -> bool:
    """Return a switch.

    Raises:
        InvalidRequestError: If it is no boolean; "no" would count as yes.
    """
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{param} must be True or False.", param=param)
    return value


def model_name(value: str | None) -> str | None:
    """Return the name of a model.

    Raises:
        InvalidRequestError: If it is an empty text, or none at all.
    """
    if value is not None and (not isinstance(value, str) or not value or not _encodable(value)):
        raise InvalidRequestError(
            f"model must be a non-empty text or None, got {shown(value)}.", param="model"
        )
    return value


def form_fields(values: Mapping[str, FormValue] | None, taken: tuple[str, ...]) -> dict[str, str]:
    """Return a server's own fields as a form carries them.

    Args:
        values: The fields.
        taken: The names that are set otherwise.

    Raises:
        InvalidRequestError: If a name is taken, or a value is no string, number or boolean.
    """
    if not isinstance(values or {}, Mapping):
        raise InvalidRequestError("extra_fields must be a mapping.", param="extra_fields")
    form = {}
    for name, value in (values or {}).items():
        if name in taken:
            raise InvalidRequestError(
                f"extra_fields must not hold {name!r}, which is set otherwise.",
                param="extra_fields",
            )
        text = str(value).lower() if isinstance(value, bool) else str(value)
        plain = isinstance(name, str) and isinstance(value, str | int | float)
        if not plain or not _encodable(name + text):
            raise InvalidRequestError(
                f"extra_fields must hold strings, numbers and booleans by name, got "
                f"{shown(value)} as {shown(name)}.",
                param="extra_fields",
            )
        form[name] = text
    return form


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _encodable(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
