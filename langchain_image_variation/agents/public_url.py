"""`public_url`: the URLs or paths under which the user of an agent finds the results."""

import re
from pathlib import PureWindowsPath
from urllib.parse import quote, unquote, urlsplit

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["check_public_url", "result_path", "result_url"]

_URL_START = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOST = re.compile(r"[\w.~-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_UNQUOTED = "/:@!$&'()*+,;=~%"
"""The characters that stay as they are in the path of a URL. The percent signs of a developer's URL
begin escapes."""


def check_public_url(public_url: str) -> str:
    """Check the setting `public_url`, and escape its path if it is a URL.

    No error shows the value, because it may contain a password.

    Args:
        public_url: An http or https URL, or an absolute path.

    Returns:
        The URL with its path escaped, or the absolute path unchanged.

    Raises:
        InvalidRequestError: If it is neither, or if the URL has a user name, a query or a fragment.
    """
    if _URL_START.match(public_url) is None:
        is_path = public_url.startswith("/") or PureWindowsPath(public_url).is_absolute()
        if is_path and public_url.isprintable():
            return public_url
    elif public_url.isprintable():
        return _check_url(public_url)
    raise _invalid_error()


def result_url(public_url: str, path: str) -> str:
    """Return the URL or path of a result.

    Args:
        public_url: What `check_public_url` returned.
        path: The path of the result, relative to `output_dir`.
    """
    if _URL_START.match(public_url):
        return f"{public_url.rstrip('/')}/{quote(path)}"
    separator = _separator(public_url)
    return f"{public_url.rstrip(separator)}{separator}{path.replace('/', separator)}"


def result_path(public_url: str, url: str) -> str | None:
    """Return the path of the result at a URL, relative to `output_dir`.

    Returns None if the URL does not start with `public_url`.

    Args:
        public_url: What `check_public_url` returned.
        url: What a model wrote: perhaps a value of `result_url`.
    """
    separator = _separator(public_url)
    prefix = f"{public_url.rstrip(separator)}{separator}"
    if not url.startswith(prefix):
        return None
    path = url.removeprefix(prefix)
    return unquote(path) if _URL_START.match(public_url) else path.replace(separator, "/")


def _check_url(url: str) -> str:
    for part, is_present in (
        ("a user name or password", "@" in url.partition("://")[2].partition("/")[0]),
        ("a query", "?" in url),
        ("a fragment", "#" in url),
    ):
        if is_present:
            raise InvalidRequestError(
                f"public_url must not have {part}: the model sees the whole URL, and the path of "
                "each result is appended to it. Leave that part out.",
                param="public_url",
            )
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        host, port = parts.netloc, parts.port
    except ValueError:
        raise _invalid_error() from None
    name = host.removesuffix(f":{port}") if port is not None else host.removesuffix(":")
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(name) or "\\" in url:
        raise _invalid_error()
    return f"{parts.scheme}://{host}{quote(parts.path, safe=_UNQUOTED)}"


def _separator(public_url: str) -> str:
    return "\\" if "\\" in public_url and "/" not in public_url else "/"


def _invalid_error() -> InvalidRequestError:
    return InvalidRequestError(
        "public_url must be an http or https URL, such as 'https://files.example.com/variations', "
        "or an absolute path, such as '/mnt/images'.",
        param="public_url",
    )
