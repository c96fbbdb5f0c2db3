"""What is taken out of requests and responses before vcrpy writes them.

Headers and query values are kept by name, so that one nobody thought of is not written. In texts,
what looks like a key, an id or a signature is replaced, and so is every key that a request was sent
with, wherever a server repeats it.
"""

import re
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
_LIMITS = "x-ratelimit-"
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
# A header or a query value whose name says so is a secret wherever else it is found.
_SECRET_NAME = re.compile("key|token|auth|cookie|secret|password|organization|project|sig", re.I)
_SHORTEST = 6

_FIELD = re.compile("|".join(_SECRET_FIELDS), re.I)
_JSON_FIELD = re.compile(rf'("(?:{"|".join(_SECRET_FIELDS)})"\s*:\s*")(?:[^"\\]|\\.)*"', re.I)
# & as JSON of Go and .NET has it, and as HTML has it.
_AND = r"(?:\?|&amp;|&|\\u0026)"
_QUERY_VALUE = re.compile(
    rf"(?P<name>{_AND}(?P<key>[\w.~%-]+)(?:=|\\u003d))"
    r"(?:[^&\"'\s<>\\]|\\u(?!0026)[0-9a-f]{4}|\\/)*",
    re.I,
)
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*:(?:\\?/){2})[^/@\s\"'<>\\]+@", re.I)
_BEARER = re.compile(r"\b(Bearer\s+)(?!realm|error|scope)[\w.~+/*=-]{6,}", re.I)
# Keys as vendors write and mask them, and the ids of accounts and requests.
_IDS = re.compile(
    r"\b(sk-)[\w*-]{8,}"
    r"|\b(org-|user-|proj_|req_)[A-Za-z0-9]{16,}"
    r"|(?<=\")(org-|user-|proj_|req_)[\w-]+(?=\"(?!\s*:))"
    r"|(?<=organization )(org-)[\w-]+"
)
_PICTURES = (b"\x89PNG", b"\xff\xd8", b"RIFF")


class Redaction:
    """Takes the secrets out of what one recorder writes.

    It learns the keys of the requests that it sees, and hides them in whatever follows. Keys of
    fewer than 6 characters are too short to be told from other text.

    Args:
        secrets: Keys that are known beforehand.
    """

    def __init__(self, *secrets: str) -> None:
        self._known: set[str] = set()
        for secret in secrets:
            self._learn(secret)

    def request(self, request: Any) -> Any:
        """Return a request of vcrpy with nothing secret in address, headers and body.

        For `before_record_request`; the request that is sent stays as it is.

        Raises:
            ValueError: If the body is a form of aiohttp that was sent already, as vcrpy has it when
                it records.
        """
        self._learn_from(request)
        headers = {
            name: value
            for name, value in dict(request.headers).items()
            if name.lower() in _REQUEST_HEADERS
        }
        form = aiohttp_form(request.body)
        if form is not None and not form.parts:
            raise ValueError(
                "vcrpy cannot record an aiohttp.FormData, which is empty once it is sent; send it "
                "with another client, or record with --image-variation-record."
            )
        kind = headers_of(request).get("content-type", "")
        read = form or Form.parse(kind, body_of(request))
        hidden = Form(tuple(self._part(part) for part in read.parts))
        if form is not None or hidden != read:
            headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
            body: Any = hidden.encode(_BOUNDARY)
        elif read.parts:
            body = body_of(request)
        else:
            body = self._body(request, kind)
        return type(request)(request.method, self._address(request.uri), body, headers)

    def response(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return a response of vcrpy with nothing secret in headers and text.

        For `before_record_response`. Pictures are left as they are.
        """
        headers = {
            name: [self.text(v) for v in value] if isinstance(value, list) else self.text(value)
            for name, value in response["headers"].items()
            if name.lower() in _RESPONSE_HEADERS or name.lower().startswith(_LIMITS)
        }
        body = dict(response["body"])
        content = body.get("string")
        if isinstance(content, str):
            body["string"] = self.text(content)
        elif isinstance(content, bytes) and not content.startswith(_PICTURES):
            body["string"] = self._bytes(content)
        return {**response, "headers": headers, "body": body}

    def text(self, text: str) -> str:
        """Return a text with everything secret in it replaced."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        text = _USER_INFO.sub(r"\1", text)
        text = _QUERY_VALUE.sub(_query_value, text)
        text = _JSON_FIELD.sub(rf'\g<1>{REDACTED}"', text)
        text = _BEARER.sub(rf"\g<1>{REDACTED}", text)
        return _IDS.sub(lambda found: next(filter(None, found.groups())) + REDACTED, text)

    def _body(self, request: Any, kind: str) -> Any:
        """Return a body that is no multipart form."""
        if isinstance(request.body, dict | list | tuple):
            # JSON, or the fields of a form, as aiohttp takes them.
            return self._values(request.body)
        body = body_of(request)
        if kind.lower().startswith("application/x-www-form-urlencoded"):
            return self._urlencoded(body)
        if not body:
            return request.body
        return body if body.startswith(_PICTURES) else self._bytes(body)

    def _values(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._field(name, each) for name, each in value.items()}
        if isinstance(value, tuple) and len(value) == 2:
            return value[0], self._field(*value)
        if isinstance(value, list | tuple):
            return [self._values(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def _field(self, name: object, value: Any) -> Any:
        if isinstance(value, str) and value and _FIELD.fullmatch(str(name)):
            return REDACTED
        return self._values(value)

    def _bytes(self, content: bytes) -> bytes:
        return self.text(content.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )

    def _address(self, uri: str) -> str:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        return self.text(urlunsplit(parts._replace(netloc=host)))

    def _part(self, part: Part) -> Part:
        if part.file_name is not None:
            return part
        secret = _FIELD.fullmatch(part.name) and part.content
        content = REDACTED.encode() if secret else self._bytes(part.content)
        return Part(part.name, content, None, part.content_type)

    def _urlencoded(self, body: bytes) -> bytes:
        pairs = parse_qsl(body.decode("utf-8", "surrogateescape"), keep_blank_values=True)
        hidden = [(name, self._field(name, value)) for name, value in pairs]
        # What has nothing to hide stays as it was written.
        return body if hidden == pairs else urlencode(hidden).encode()

    def _learn_from(self, request: Any) -> None:
        address = urlsplit(request.uri)
        self._learn(address.password or "")
        kept = _REQUEST_HEADERS | _QUERY
        named = [*dict(request.headers).items(), *parse_qsl(address.query)]
        for name, value in named:
            if name.lower() not in kept and _SECRET_NAME.search(name):
                for one in value if isinstance(value, list | tuple) else [value]:
                    text = one.decode("latin-1") if isinstance(one, bytes) else str(one)
                    # "Bearer KEY", "Basic KEY" and the key alone.
                    self._learn((text.split() or [""])[-1])

    def _learn(self, secret: str) -> None:
        if len(secret) >= _SHORTEST and secret != REDACTED:
            # In one step, since clients record from several threads.
            self._known.update((secret, quote(secret, safe="")))


def _query_value(found: re.Match[str]) -> str:
    return found[0] if found["key"].lower() in _QUERY else found["name"] + REDACTED
