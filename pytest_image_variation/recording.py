"""For suites that record their own cassettes with vcrpy: a matcher, redaction, and our cassettes.

`settings` puts them together for pytest-recording's `vcr_config` and for `vcr.VCR`. Nothing here
imports vcrpy: its requests and responses are taken as they come.
"""

import copy
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from PIL import Image

from pytest_image_variation.form import Form, Part

__all__ = [
    "cassette_dir",
    "form_of",
    "multipart",
    "multipart_pixels",
    "redact_request",
    "redact_response",
    "settings",
]

Pictures = Literal["bytes", "pixels"]

REDACTED = "REDACTED"
_BOUNDARY = "image-variation"
# aiohttp empties a form when it sends it, so what was in it is kept from before.
_READ = WeakKeyDictionary[Any, Form]()

_SECRET_REQUEST_HEADERS = {
    "api-key",
    "authorization",
    "cookie",
    "idempotency-key",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "x-api-key",
}
_SECRET_RESPONSE_HEADERS = {
    "cf-ray",
    "openai-organization",
    "openai-project",
    "set-cookie",
    "x-client-request-id",
    "x-request-id",
}
# Keys as vendors write and mask them, the ids of accounts and requests, signatures of addresses.
_SECRET_TEXT = re.compile(
    rb"\b(?P<kind>sk-|org-|user-|proj_|req_)(?:(?<=sk-)[\w*-]{8,}|(?<!sk-)[A-Za-z0-9]{16,})"
    rb"|(?P<sig>[?&]sig=)[^&\"'\s<]+"
)
_USER = re.compile(rb'("user"\s*:\s*")(?:[^"\\]|\\.)*"')


def cassette_dir() -> Path:
    """Return the folder of the recorded scenarios, one `<scenario>.yaml` each.

    Raises:
        FileNotFoundError: If the installation lacks them.
    """
    here = Path(__file__).parent
    # The wheel has them inside the package; an editable install finds them in its checkout.
    for folder in (here / "cassettes", here.parent / "cassettes"):
        if (folder / "endpoint_removed.yaml").is_file():
            return folder
    raise FileNotFoundError("The cassettes are missing from this installation; install it anew.")


def settings(pictures: Pictures = "bytes") -> dict[str, Any]:
    """Return what to pass to vcrpy, or to return from pytest-recording's fixture `vcr_config`.

    Requests are matched by method, path and form. Keys, organisation, cookies, request ids and
    `user` are taken out of requests and responses before anything is written.

    Args:
        pictures: Whether pictures are the same by their "bytes", or by their "pixels".

    Raises:
        ValueError: If `pictures` is neither.
    """
    if pictures not in get_args(Pictures):
        raise ValueError(f"pictures must be 'bytes' or 'pixels', got {str(pictures)[:60]!r}.")
    form = "multipart" if pictures == "bytes" else "multipart_pixels"
    return {
        "match_on": ["method", "path", form],
        "before_record_request": redact_request,
        "before_record_response": redact_response,
        "decode_compressed_response": True,
    }


def multipart(first: Any, second: Any) -> None:
    """Compare the forms of two requests of vcrpy: a matcher, to be registered as "multipart".

    The boundary, which clients draw by chance, and the order of the parts are no difference; the
    names, file names and contents of the parts are. What is no form is compared byte by byte.

    Raises:
        AssertionError: If they differ; the message says in which fields, vcrpy shows it.
    """
    _compare(first, second, lambda content: content)


def multipart_pixels(first: Any, second: Any) -> None:
    """Compare as `multipart` does, but pictures by their size, mode and pixels.

    Raises:
        AssertionError: If they differ.
    """
    _compare(first, second, _pixels)


def _compare(first: Any, second: Any, content: Callable[[bytes], object]) -> None:
    here, there = form_of(first), form_of(second)
    if not here.parts and not there.parts:
        assert _body(first) == _body(second), "the bodies are no forms, and differ"
        return
    differing = _differing(_by_name(here), _by_name(there), content)
    assert not differing, "; ".join(differing)


def _by_name(form: Form) -> dict[str, list[Part]]:
    named: dict[str, list[Part]] = {}
    for part in form.parts:
        named.setdefault(part.name, []).append(part)
    return named


def _differing(
    here: dict[str, list[Part]], there: dict[str, list[Part]], content: Callable[[bytes], object]
) -> list[str]:
    found = []
    for name in sorted(here.keys() | there.keys()):
        mine, yours = here.get(name, []), there.get(name, [])
        if [p.file_name for p in mine] != [p.file_name for p in yours]:
            shown = _named
        elif [content(p.content) for p in mine] != [content(p.content) for p in yours]:
            shown = _held
        else:
            continue
        one, other = (", ".join(map(shown, parts)) or "none" for parts in (mine, yours))
        found.append(f"{name[:40]}: {one} against {other}")
    return found


def _named(part: Part) -> str:
    return _held(part) if part.file_name is None else repr(part.file_name)


def _held(part: Part) -> str:
    if part.file_name is None:
        return repr(part.content[:40].decode("utf-8", "replace"))
    return f"a file of {len(part.content):,} bytes"


def _pixels(content: bytes) -> object:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size, image.mode, image.convert("RGBA").tobytes()
    except Exception:  # Whatever Pillow makes of what is no picture.
        return content


def form_of(request: Any) -> Form:
    """Return the form of a request as vcrpy holds it, for any of the clients that it serves."""
    body = getattr(request, "body", None)
    form = _aiohttp_form(body)
    if form is not None:
        return form
    return Form.parse(_header(request.headers, "content-type"), _body(request))


def _body(request: Any) -> bytes:
    body = getattr(request, "body_bytes", request.body)
    if hasattr(body, "read"):
        body = body.read()
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    return b"".join(body) if isinstance(body, list) else b""


def _header(headers: Any, name: str) -> str | None:
    for key, value in dict(headers).items():
        if key.lower() == name:
            found = value[0] if isinstance(value, list | tuple) else value
            return found.decode("latin-1") if isinstance(found, bytes) else str(found)
    return None


def _aiohttp_form(body: Any) -> Form | None:
    """Return the form that aiohttp has not written yet: its `FormData`, a mapping or pairs."""
    if type(body).__name__ == "FormData" and hasattr(body, "_fields"):
        if body not in _READ:
            _READ[body] = Form(tuple(_aiohttp_part(*field) for field in body._fields))
        return _READ[body]
    pairs = list(body.items()) if isinstance(body, dict) else body
    if not isinstance(pairs, list) or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        return None
    if not any(isinstance(value, bytes | io.IOBase) for _, value in pairs):
        # Without a file it is no multipart form, and a mapping may be JSON.
        return None
    return Form(tuple(_aiohttp_part({"name": str(name)}, {}, value) for name, value in pairs))


def _aiohttp_part(options: Any, headers: Any, value: Any) -> Part:
    name, file_name, content = options["name"], options.get("filename"), value
    if isinstance(value, bytes | io.IOBase) and file_name is None:
        file_name = Path(str(getattr(value, "name", name))).name
    if isinstance(value, io.IOBase):
        start = value.tell()
        content = value.read()
        value.seek(start)
    content = content if isinstance(content, bytes) else str(content).encode()
    return Part(name, content, file_name, headers.get("Content-Type"))


def redact_request(request: Any) -> Any:
    """Return a request of vcrpy without keys, organisation and cookies, and with `user` hidden.

    For `before_record_request`; the request that is sent stays as it is.

    Raises:
        ValueError: If the body is a form of aiohttp that was sent already, as vcrpy has it when it
            records.
    """
    kept = copy.copy(request)
    headers = {
        name: value
        for name, value in dict(request.headers).items()
        if name.lower() not in _SECRET_REQUEST_HEADERS
    }
    form = _aiohttp_form(request.body)
    if form is not None:
        if not form.parts:
            raise ValueError(
                "vcrpy cannot record an aiohttp.FormData, which is empty once it is sent; send it "
                "with another client, or record with --image-variation-record."
            )
        headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        kept.body = form.encode(_BOUNDARY)
    user = form_of(request).fields.get("user")
    body = _body(kept)
    if user:
        kept.body = _without_user(body, user.encode())
    elif body.lstrip().startswith(b"{"):
        kept.body = _without_json_user(body)
    if _body(kept) != _body(request):
        headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
    kept.headers = headers
    return kept


def _without_user(body: bytes, user: bytes) -> bytes:
    field = re.compile(rb'(name="?user"?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n)' + re.escape(user))
    return field.sub(rb"\g<1>" + REDACTED.encode(), body)


def _without_json_user(body: bytes) -> bytes:
    return _USER.sub(rb"\g<1>" + REDACTED.encode() + b'"', body)


def redact_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response of vcrpy without cookies, organisation and request id.

    Keys, the ids of accounts and the signatures of addresses are replaced in its text too. For
    `before_record_response`.
    """
    headers = {
        name: value
        for name, value in response["headers"].items()
        if name.lower() not in _SECRET_RESPONSE_HEADERS
    }
    body = dict(response["body"])
    content = body.get("string")
    if isinstance(content, bytes) and not content.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF")):
        body["string"] = _without_json_user(_SECRET_TEXT.sub(_hidden, content))
    return {**response, "headers": headers, "body": body}


def _hidden(found: re.Match[bytes]) -> bytes:
    return bytes(found["kind"] or found["sig"]) + REDACTED.encode()
