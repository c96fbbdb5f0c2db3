"""Where requests are forwarded: below one fixed URL, and never anywhere else."""

import re
from urllib.parse import quote, unquote

import httpcore
import httpx
from starlette.types import Scope

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["UpstreamAddress"]

_PREFIX = b"/v1/"
_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f:.]+")
_TARGET = re.compile(rb"[!\"$-~]*")
"""What the path and the query of a target may contain: visible ASCII characters but "#". Some
servers read a "#" as the start of a fragment, others as part of the path."""
_MAX_DECODINGS = 4
"""How many times a path may be percent-encoded. A name that contains a "%" is encoded twice."""


class UpstreamAddress:
    """The URL of the upstream, and the addresses below it.

    Scheme, host and port never come from a request: a request only adds to the path.

    Args:
        url: What clients of the upstream would set as `OPENAI_BASE_URL`.

    Raises:
        InvalidRequestError: If it is not an http or https URL, or has a user name, a query or a
            fragment. The message does not show it, because it may contain a password.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = httpx.URL(url)
            # Reading the host decodes it, which may fail.
            is_valid = self.url.scheme in ("http", "https") and bool(self.url.host)
            is_valid = is_valid and _HOST.fullmatch(self.url.raw_host) is not None
            is_valid = is_valid and 0 < (self.url.port or 1) < 65536
        except (httpx.InvalidURL, TypeError, ValueError):
            is_valid = False
        if not is_valid or self.url.userinfo or self.url.query or "#" in url or "?" in url:
            raise InvalidRequestError(
                "upstream must be a URL such as https://api.openai.com/v1, without a user name, a "
                "query or a fragment.",
                param="upstream",
            )
        self._base_path = self.url.raw_path.rstrip(b"/")
        self.host = self.url.netloc
        """The value of the header `Host`."""

    def for_scope(self, scope: Scope) -> httpcore.URL | None:
        """Return the address that a request is forwarded to.

        Returns:
            The address, or None if the path is not below `/v1/`, or if a server could read it as a
            path above the upstream's: one with dot segments, empty segments, backslashes or control
            characters, encoded or not, with a plain "#", or with bytes that are not UTF-8.
        """
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        # Some ASGI servers leave the query in it.
        path = path.partition(b"?")[0]
        path = path.removeprefix(quote(scope.get("root_path", "").rstrip("/")).encode())
        query = scope["query_string"]
        if not path.startswith(_PREFIX) or not _TARGET.fullmatch(path + query):
            return None
        if not _is_plain(path.decode("ascii")):
            return None
        return self._address(path.removeprefix(_PREFIX), query)

    def models(self, query: bytes) -> httpcore.URL:
        """Return the address of the upstream's list of models."""
        return self._address(b"models", query)

    def _address(self, path: bytes, query: bytes) -> httpcore.URL:
        """Return the upstream's address of a path below its own."""
        target = self._base_path + b"/" + path
        if query:
            target += b"?" + query
        return httpcore.URL(
            scheme=self.url.raw_scheme, host=self.url.raw_host, port=self.url.port, target=target
        )


def _is_plain(path: str) -> bool:
    """Return whether every server reads a path as the same segments, however it decodes them."""
    for _ in range(_MAX_DECODINGS):
        # Some servers ignore what follows a semicolon.
        segments = [segment.partition(";")[0] for segment in path.split("/")[1:]]
        if any(segment in (".", "..", "") for segment in segments[:-1]):
            return False
        if segments[-1] in (".", "..") or "\\" in path or not path.isprintable():
            return False
        try:
            # Some servers read dots and slashes from encodings that are too long, such as %c0%ae.
            decoded = unquote(path, errors="strict")
        except UnicodeDecodeError:
            return False
        if decoded == path:
            return True
        path = decoded
    return False
