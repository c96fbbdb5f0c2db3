"""Form and headers of a request as vcrpy holds it, whichever client sent it."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pytest_image_variation.form import Form, Part

__all__ = ["aiohttp_form", "body_of", "form_of", "headers_of"]

# aiohttp empties a form when it sends it, so what was in it is kept from before.
_READ = WeakKeyDictionary[Any, Form]()


def form_of(request: Any) -> Form:
    """Return the form of a request as vcrpy holds it, for any of the clients that it serves."""
    body = getattr(request, "body", None)
    form = aiohttp_form(body)
    if form is not None:
        return form
    return Form.parse(headers_of(request).get("content-type"), body_of(request))


def body_of(request: Any) -> bytes:
    """Return the body of a request of vcrpy; one that is no bytes or text is empty."""
    body = request.body
    if hasattr(body, "read"):
        body = body.read()
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    if isinstance(body, Iterator):
        body = list(body)
    is_bytes = isinstance(body, list) and all(isinstance(piece, bytes) for piece in body)
    return b"".join(body) if is_bytes else b""


def headers_of(request: Any) -> dict[str, str]:
    """Return the headers of a request of vcrpy as text, by their names in lower case."""
    return {name.lower(): _text(value) for name, value in dict(request.headers).items()}


def _text(value: Any) -> str:
    value = value[0] if isinstance(value, list | tuple) else value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def aiohttp_form(body: Any) -> Form | None:
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
