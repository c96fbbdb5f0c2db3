"""Removes secrets from requests and responses before vcrpy writes them.

Headers and query values are written only if their name is on a list, so unknown ones are dropped.
In text, everything that looks like a key, an id or a signature is replaced. So is every key that a
request was sent with, wherever the server repeats it.
"""

import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pytest_image_variation.forms import Form, Part, aiohttp_form, body_of, headers_of

__all__ = ["REDACTED", "Redaction"]

REDACTED = "REDACTED"

_BOUNDARY = "image-variation"
_REQUEST_HEADERS = {"content-type"}
_RESPONSE_HEADERS = {
    "content-type",
    "location",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "www-authenticate",
    "x-ms-error-code",
    "x-should-retry",
}
_RATE_LIMIT_PREFIX = "x-ratelimit-"
_QUERY = {
    "api-version",
    "expires",
    "model",
    "n",
    "response_format",
    "se",
    "size",
    "x-amz-date",
    "x-amz-expires",
}
_SECRET_FIELDS = (
    "user",
    "api[_-]?key",
    "x-api-key",
    "access[_-]?token",
    "refresh[_-]?token",
    "authorization",
    "organization(?:_id)?",
    "org_id",
    "password",
    "client_secret",
    "request_id",
)
# The value of a header or query parameter with such a name is a secret wherever else it occurs.
_SECRET_NAME = re.compile("key|token|auth|cookie|secret|password|organization|project|sig", re.I)
_SHORTEST_SECRET = 6

_FIELD = re.compile("|".join(_SECRET_FIELDS), re.I)
_JSON_FIELD = re.compile(rf'("(?:{"|".join(_SECRET_FIELDS)})"\s*:\s*")(?:[^"\\]|\\.)*"', re.I)
# Go and .NET escape & in JSON, and HTML has its own escape.
_AND = r"(?:\?|&amp;|&|\\u0026)"
_QUERY_VALUE = re.compile(
    rf"(?P<name>{_AND}(?P<key>[\w.~%-]+)(?:=|\\u003d))"
    r"(?:[^&\"'\s<>\\]|\\u(?!0026)[0-9a-f]{4}|\\/)*",
    re.I,
)
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*:(?:\\?/){2})[^/@\s\"'<>\\]+@", re.I)
_BEARER = re.compile(r"\b(Bearer\s+)(?!realm|error|scope)[\w.~+/*=-]{6,}", re.I)
# API keys, whole or masked, and the ids of accounts and requests.
_IDS = re.compile(
    r"\b(sk-)[\w*-]{8,}"
    r"|\b(org-|user-|proj_|req_)[A-Za-z0-9]{16,}"
    r"|(?<=\")(org-|user-|proj_|req_)[\w-]+(?=\"(?!\s*:))"
    r"|(?<=organization )(org-)[\w-]+"
)
_IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF")


class Redaction:
    """Removes secrets from everything that one recorder writes.

    It remembers the keys in the requests that it sees, and replaces them in everything after.
    Keys with fewer than 6 characters cannot be distinguished from other text, and are kept.

    Args:
        secrets: Keys to replace from the start.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets: set[str] = set()
        for secret in secrets:
            self._remember(secret)

    def redact_request(self, request: Any) -> Any:
        """Return a copy of a vcrpy request without secrets in its address, headers and body.

        Use it as `before_record_request`. The request that is sent does not change.

        Raises:
            ValueError: If the body is an aiohttp form that was sent already. That is the case
                whenever vcrpy itself records.
        """
        self._remember_keys(request)
        headers = {
            name: value
            for name, value in dict(request.headers).items()
            if name.lower() in _REQUEST_HEADERS
        }
        form = aiohttp_form(request.body)
        if form is not None and not form.parts:
            raise ValueError(
                "vcrpy cannot record an aiohttp.FormData, because aiohttp empties it when it sends "
                "it. Use another client, or record with --image-variation-record."
            )
        kind = headers_of(request).get("content-type", "")
        original = form or Form.parse(kind, body_of(request))
        redacted = replace(original, parts=tuple(map(self._redact_part, original.parts)))
        if form is not None or redacted != original:
            headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
            body: Any = redacted.encode(_BOUNDARY)
        elif original.parts:
            body = body_of(request)
        else:
            body = self._redact_body(request, kind)
        return type(request)(request.method, self._redact_address(request.uri), body, headers)

    def redact_response(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a vcrpy response without secrets in its headers and text.

        Use it as `before_record_response`. Images do not change.
        """
        headers = {
            name: [self.redact_text(v) for v in value]
            if isinstance(value, list)
            else self.redact_text(value)
            for name, value in response["headers"].items()
            if name.lower() in _RESPONSE_HEADERS or name.lower().startswith(_RATE_LIMIT_PREFIX)
        }
        body = dict(response["body"])
        content = body.get("string")
        if isinstance(content, str):
            body["string"] = self.redact_text(content)
        elif isinstance(content, bytes) and not content.startswith(_IMAGE_SIGNATURES):
            body["string"] = self._redact_bytes(content)
        return {**response, "headers": headers, "body": body}

    def redact_text(self, text: str) -> str:
        """Return a text with every secret replaced by `REDACTED`."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        text = _USER_INFO.sub(r"\1", text)
        text = _QUERY_VALUE.sub(_redact_query_value, text)
        text = _JSON_FIELD.sub(rf'\g<1>{REDACTED}"', text)
        text = _BEARER.sub(rf"\g<1>{REDACTED}", text)
        return _IDS.sub(lambda match: next(filter(None, match.groups())) + REDACTED, text)

    def _redact_body(self, request: Any, kind: str) -> Any:
        """Redact a body that is not a multipart form."""
        if isinstance(request.body, dict | list | tuple):
            # aiohttp takes JSON and form fields as Python objects.
            return self._redact_values(request.body)
        body = body_of(request)
        if kind.lower().startswith("application/x-www-form-urlencoded"):
            return self._redact_urlencoded(body)
        if not body:
            return request.body
        return body if body.startswith(_IMAGE_SIGNATURES) else self._redact_bytes(body)

    def _redact_values(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._redact_field(name, each) for name, each in value.items()}
        if isinstance(value, tuple) and len(value) == 2:
            return value[0], self._redact_field(*value)
        if isinstance(value, list | tuple):
            return [self._redact_values(each) for each in value]
        return self.redact_text(value) if isinstance(value, str) else value

    def _redact_field(self, name: object, value: Any) -> Any:
        if isinstance(value, str) and value and _FIELD.fullmatch(str(name)):
            return REDACTED
        return self._redact_values(value)

    def _redact_bytes(self, content: bytes) -> bytes:
        return self.redact_text(content.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )

    def _redact_address(self, uri: str) -> str:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        return self.redact_text(urlunsplit(parts._replace(netloc=host)))

    def _redact_part(self, part: Part) -> Part:
        if part.is_file:
            return part
        secret = _FIELD.fullmatch(part.name) and part.content
        content = REDACTED.encode() if secret else self._redact_bytes(part.content)
        return Part(part.name, content, None, part.content_type)

    def _redact_urlencoded(self, body: bytes) -> bytes:
        pairs = parse_qsl(body.decode("utf-8", "surrogateescape"), keep_blank_values=True)
        redacted = [(name, self._redact_field(name, value)) for name, value in pairs]
        # A body without secrets keeps its exact encoding.
        return body if redacted == pairs else urlencode(redacted).encode()

    def _remember_keys(self, request: Any) -> None:
        address = urlsplit(request.uri)
        self._remember(address.password or "")
        harmless = _REQUEST_HEADERS | _QUERY
        for name, value in [*dict(request.headers).items(), *parse_qsl(address.query)]:
            if name.lower() not in harmless and _SECRET_NAME.search(name):
                for one in value if isinstance(value, list | tuple) else [value]:
                    text = one.decode("latin-1") if isinstance(one, bytes) else str(one)
                    # The value is "Bearer KEY", "Basic KEY", or the key itself.
                    self._remember((text.split() or [""])[-1])

    def _remember(self, secret: str) -> None:
        if len(secret) >= _SHORTEST_SECRET and secret != REDACTED:
            # One call, because clients may record from several threads.
            self._secrets.update((secret, quote(secret, safe="")))


def _redact_query_value(match: re.Match[str]) -> str:
    return match[0] if match["key"].lower() in _QUERY else match["name"] + REDACTED
