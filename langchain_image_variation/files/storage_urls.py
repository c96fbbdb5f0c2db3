"""URLs of folders and files in a store, such as "s3://bucket/prefix"."""

import re

__all__ = ["has_password", "hide_password", "is_url", "strip_trailing_slashes", "url_kind"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::[^/]*)?://")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")


def is_url(path: object) -> bool:
    """Return whether a path is a URL, and not a path on this machine."""
    return isinstance(path, str) and _URL.match(path) is not None


def url_kind(url: str) -> str:
    """Return the kind of a URL in lower case, such as "s3", or "" if it is a path."""
    match = _URL.match(url)
    return match[1].lower() if match else ""


def has_password(url: str) -> bool:
    """Return whether a URL contains a password."""
    return _PASSWORD.search(url) is not None


def hide_password(url: str) -> str:
    """Return a URL with its password hidden."""
    return _PASSWORD.sub(r"\1:***", url)


def strip_trailing_slashes(url: str) -> str:
    """Return a URL without slashes at its end, unless it is a root such as "file:///"."""
    trimmed_url = url.rstrip("/")
    return url if trimmed_url.endswith(":") else trimmed_url
