"""Request targets in absolute form, such as `http://localhost:8000/v1/models`.

Clients send them to proxies, and a server must accept them too (RFC 9112, section 3.2.2). Some ASGI
servers pass on the path in them, others the whole target as the path.
"""

import re
from urllib.parse import unquote

from starlette.types import Scope

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["with_origin_form"]

_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?#]*)(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[^\[\]:@\s]+)(:[0-9]*)?")


def with_origin_form(scope: Scope) -> Scope:
    """Return a request's scope with the path of its target, if the target is absolute.

    The host in the target replaces the `Host` header, which the RFC tells servers to ignore.

    Raises:
        InvalidRequestError: If the target has no valid host, or there are several `Host` headers.
    """
    root_path = scope.get("root_path", "")
    target = (scope.get("raw_path") or b"").removeprefix(root_path.encode())
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    if len(scope["headers"]) - len(headers) > 1:
        raise InvalidRequestError("The request has several Host headers. Send only one.")
    if not _AUTHORITY.fullmatch(match["authority"]):
        raise InvalidRequestError(
            "The request target must have a host, and perhaps a port, after its scheme."
        )
    path = match["path"] or b"/"
    return {
        **scope,
        "headers": [(b"host", match["authority"]), *headers],
        "path": root_path + unquote(path.decode("latin-1")),
        "raw_path": root_path.encode() + path,
    }
