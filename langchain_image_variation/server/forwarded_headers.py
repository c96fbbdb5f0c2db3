"""Which headers of a forwarded request and of its answer are passed on."""

from collections.abc import Iterable

from starlette.types import Scope

__all__ = ["answer_headers", "request_headers"]

_Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        # They concern one connection only (RFC 9110, section 7.6.1).
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade"),
        # They are for a proxy (RFC 9110, section 11.7).
        *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
    }
)
_NOT_FOR_THE_UPSTREAM = _HOP_BY_HOP | {
    # These are set here. This server answers "Expect" itself.
    *(b"content-length", b"expect", b"host"),
    # A browser sends the cookies of every server on this machine.
    b"cookie",
    # This server has checked them, or a server in front of it has set them.
    *(b"forwarded", b"origin", b"referer", b"x-real-ip"),
    # Some servers take the path from these.
    *(b"x-original-url", b"x-rewrite-url"),
}
_NOT_FOR_THE_UPSTREAM_PREFIXES = (b"access-control-", b"sec-", b"x-forwarded-")
_ACCOUNT = {
    *(b"api-key", b"authorization", b"openai-organization", b"openai-project", b"x-api-key"),
}
"""The headers that name the account that pays."""
_NOT_FOR_THE_CLIENT = _HOP_BY_HOP | {
    # They are about the upstream's host, and a browser would apply them to this server.
    *(b"accept-ch", b"alt-svc", b"clear-site-data", b"critical-ch", b"nel", b"report-to"),
    *(b"reporting-endpoints", b"service-worker-allowed", b"set-cookie"),
    b"strict-transport-security",
    # The ASGI server sets them.
    *(b"date", b"server"),
    # It is set here.
    b"x-content-type-options",
}
# This server decides which web pages may read an answer.
_NOT_FOR_THE_CLIENT_PREFIXES = (b"access-control-",)


def request_headers(scope: Scope, *, host: bytes, via: str, account: _Headers | None) -> _Headers:
    """Return the headers to send to the upstream.

    Args:
        scope: The client's request.
        host: The upstream's name.
        via: The name that this server marks requests with (RFC 9110, section 7.6.3).
        account: The headers that replace the client's key and account, or None to keep these.
    """
    headers = [(b"host", host)]
    dropped_names = _NOT_FOR_THE_UPSTREAM if account is None else _NOT_FOR_THE_UPSTREAM | _ACCOUNT
    headers += _filter(scope["headers"], dropped_names, _NOT_FOR_THE_UPSTREAM_PREFIXES)
    headers += account or []
    headers.append((b"via", f"1.1 {via}".encode()))
    return headers + _framing(scope)


def answer_headers(headers: Iterable[tuple[bytes, bytes]]) -> _Headers:
    """Return the headers of the upstream's answer that the client gets, and two for browsers.

    A browser that opens an answer as a page must not run it as a page of this server: it could
    then call the server as the server's own page does.
    """
    return [
        *_filter(headers, _NOT_FOR_THE_CLIENT, _NOT_FOR_THE_CLIENT_PREFIXES),
        (b"content-security-policy", b"sandbox"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _filter(
    headers: Iterable[tuple[bytes, bytes]], names: Iterable[bytes], prefixes: tuple[bytes, ...]
) -> _Headers:
    """Return the headers without those that are dropped by name, prefix or `Connection`."""
    lower_case = [(name.lower(), value) for name, value in headers]
    dropped_names = {*names}
    for name, value in lower_case:
        if name == b"connection":
            # RFC 9110, section 7.6.1: headers that it names concern this connection only.
            dropped_names.update(option.strip().lower() for option in value.split(b","))
    return [
        (name, value)
        for name, value in lower_case
        if name not in dropped_names and not name.startswith(prefixes)
    ]


def _framing(scope: Scope) -> _Headers:
    """Return the header that says where the body ends: its length, chunks, or none."""
    values = {name.lower(): value for name, value in scope["headers"]}
    # The body of HTTP/2 ends without a header.
    is_framed_below = scope["http_version"][:1] not in ("0", "1")
    has_length = values.get(b"content-length", b"").isdigit()
    # Chunks override a length (RFC 9112, section 6.3).
    if has_length and b"transfer-encoding" not in values:
        return [(b"content-length", values[b"content-length"])]
    if b"transfer-encoding" in values or (
        is_framed_below and scope["method"] not in ("GET", "HEAD", "OPTIONS")
    ):
        return [(b"transfer-encoding", b"chunked")]
    return []
