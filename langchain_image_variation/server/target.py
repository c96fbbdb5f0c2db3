"""Request targets in absolute form, such as `http://localhost:8000/v1/models`.

Clients send them to proxies, and a server must accept them too (RFC 9112, section 3.2.2). Some ASGI
servers pass on the path in them, others the whole target as the path.
"""

import re
from urllib.parse import unquote

from starlette.types import Scope

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["with_origin_form"]

_ABSOLUTE = re.compile(
    rb"(?P<scheme>https?)://(?P<host>[^/?#]*)(?P<path>/.*)?", re.IGNORECASE | re.DOTALL
)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def with_origin_form(scope: Scope) -> Scope:
    """Return a request's scope with the path of its target, if the target is absolute.

    Raises:
        InvalidRequestError: If the target names another host than the `Host` header. By the RFC,
            the target counts. But a proxy on the way may have decided by the header, so the request
            is refused.
    """
    root_path = scope.get("root_path", "")
    target = (scope.get("raw_path") or b"").removeprefix(root_path.encode())
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return scope
    default_port = _DEFAULT_PORTS[match["scheme"].lower()]
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    names = {host.lower().removesuffix(default_port) for host in (match["host"], *hosts)}
    if len(hosts) != 1 or len(names) != 1:
        raise InvalidRequestError(
            "The request target names another host than its Host header. Send the same in both."
        )
    path = match["path"] or b"/"
    return {
        **scope,
        "path": root_path + unquote(path.decode("latin-1")),
        "raw_path": root_path.encode() + path,
    }
