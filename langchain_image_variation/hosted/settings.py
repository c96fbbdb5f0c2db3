"""Checks of a client's settings. Each function returns a setting, or refuses it."""

import os
import re
import sys
from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import VARIATIONS_PATH
from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    excerpt,
)
from langchain_image_variation.hosted.headers import is_header_text
from langchain_image_variation.hosted.parameters import is_encodable
from langchain_image_variation.numbers import check_seconds

__all__ = [
    "FormValue",
    "check_base_url",
    "check_extra_fields",
    "check_header",
    "check_key",
    "check_model",
    "check_timeout",
    "read_environment",
]

FormValue = str | int | float | bool

_CONNECT_TIMEOUT = 10.0
# The labels of a name (RFC 1123, section 2.1, plus underscores, which container hosts have), or an
# IPv6 address, whose syntax httpx has already checked.
_HOST = re.compile(
    r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|[0-9a-f.]*:[0-9a-f:.]+", re.IGNORECASE
)
_MAX_HOST_LENGTH = 253


def read_environment(name: str) -> str | None:
    """Return an environment variable without surrounding blanks; None if it is unset or empty."""
    return os.environ.get(name, "").strip() or None


def check_key(api_key: str | SecretStr | None, variable: str | None) -> SecretStr:
    """Return the key, which is empty if there is none.

    Args:
        api_key: The setting. None reads the environment.
        variable: The environment variable to read, if any.

    Raises:
        InvalidRequestError: If it is not a string.
        AuthenticationError: If a header cannot carry it.
    """
    name = "api_key"
    if api_key is None and variable is not None:
        api_key, name = read_environment(variable), variable
    kind = type(api_key).__name__
    # From here on, no variable holds the plain key. Some tools record the variables of a traceback.
    api_key = SecretStr(api_key or "") if isinstance(api_key, str | None) else api_key
    if not isinstance(api_key, SecretStr):
        api_key = None
        raise InvalidRequestError(f"api_key must be a string, got {kind}.", param="api_key")
    if not is_header_text(api_key.get_secret_value()):
        raise AuthenticationError(
            f"{name} must consist of printable ASCII characters without blanks at either end."
        )
    return api_key


def check_header(param: str, value: str | None, variable: str) -> str:
    """Return the value of a header, which is empty if it is not to be sent.

    Args:
        param: The setting.
        value: Its value. None reads the environment.
        variable: The environment variable to read.

    Raises:
        InvalidRequestError: If it is not a string, or a header cannot carry it.
    """
    name = param
    if value is None:
        value, name = read_environment(variable), variable
    if value is not None and (not isinstance(value, str) or not is_header_text(value)):
        raise InvalidRequestError(
            f"{name} must be a string of printable ASCII characters without blanks at either end.",
            param=param,
        )
    return value or ""


def check_base_url(value: str | httpx.URL) -> httpx.URL:
    """Return the address of a server, without the path of the call.

    Raises:
        InvalidRequestError: If it is not an http or https URL, or has a user name.
    """
    failure = InvalidRequestError(
        "base_url must be an http or https URL, such as 'http://127.0.0.1:8000/v1'.",
        param="base_url",
    )
    try:
        url = httpx.URL(value.strip() if isinstance(value, str) else value)
        port = url.port
        host = url.raw_host.decode("ascii")
        # Reading `host` decodes IDNA, which fails for an invalid name.
        is_name = bool(url.host) and len(host) <= _MAX_HOST_LENGTH
    except (httpx.InvalidURL, TypeError, UnicodeError):
        raise failure from None
    if url.scheme not in ("http", "https") or not is_name or not _HOST.fullmatch(host):
        raise failure
    if port is not None and not 0 < port < 65536:
        raise failure
    if url.userinfo:
        raise InvalidRequestError(
            "base_url must not contain a user name or password; pass an http_client with auth.",
            param="base_url",
        )
    path, question, query = url.raw_path.partition(b"?")
    path = path.rstrip(b"/").removesuffix(VARIATIONS_PATH.encode()).rstrip(b"/")
    return url.copy_with(raw_path=path + question + query, fragment=None)


def check_timeout(value: object) -> httpx.Timeout:
    """Return how long a server may be silent. For a number, connecting may take at most 10 s of it.

    Args:
        value: Seconds, an `httpx.Timeout`, the `Timeout` of the vendor's SDK, or None for no limit.

    Raises:
        InvalidRequestError: If it is none of these, or a number in it is not positive.
    """
    if value is None:
        return httpx.Timeout(None)
    # The vendor's SDK has its own copy of httpx. Its class exists only once it is imported.
    sdk_httpx = sys.modules.get("httpx2")
    if sdk_httpx is not None and isinstance(value, sdk_httpx.Timeout):
        value = httpx.Timeout(**value.as_dict())
    if isinstance(value, httpx.Timeout):
        for phase, limit in value.as_dict().items():
            if limit is not None:
                check_seconds(f"timeout.{phase}", limit, param="timeout")
        return value
    total = check_seconds("timeout", value)
    return httpx.Timeout(total, connect=min(total, _CONNECT_TIMEOUT))


def check_model(value: str | None) -> str | None:
    """Return the name of a model, or None.

    Raises:
        InvalidRequestError: If it is empty or not a string.
    """
    if value is not None and (not isinstance(value, str) or not value or not is_encodable(value)):
        raise InvalidRequestError(
            f"model must be a non-empty string or None, got {excerpt(value)}.", param="model"
        )
    return value


def check_extra_fields(
    values: Mapping[str, FormValue] | None, reserved_names: tuple[str, ...]
) -> dict[str, str]:
    """Return the form fields that a server takes beyond the contract, as texts.

    Args:
        values: The fields.
        reserved_names: The names of fields that other arguments set.

    Raises:
        InvalidRequestError: If a name is reserved, or a value is not a string, number or boolean.
    """
    if not isinstance(values or {}, Mapping):
        raise InvalidRequestError(
            "extra_fields must be a mapping of names to values.", param="extra_fields"
        )
    form = {}
    for name, value in (values or {}).items():
        if name in reserved_names:
            raise InvalidRequestError(
                f"extra_fields must not contain {name!r}; the call sets that field.",
                param="extra_fields",
            )
        text = str(value).lower() if isinstance(value, bool) else str(value)
        is_plain = isinstance(name, str) and isinstance(value, str | int | float)
        if not is_plain or not is_encodable(name + text):
            raise InvalidRequestError(
                f"extra_fields must map names to strings, numbers and booleans, got "
                f"{excerpt(value)} for {excerpt(name)}.",
                param="extra_fields",
            )
        form[name] = text
    return form
