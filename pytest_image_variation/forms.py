"""Multipart forms as a server reads them (RFC 7578), and the facts of the picture in one."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import open_image
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG
from pytest_image_variation.scenarios import Flaw

__all__ = ["Form", "Part", "Picture", "aiohttp_form", "body_of", "form_of", "headers_of"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: a field, or if it has a file name, a file."""

    name: str
    content: bytes
    file_name: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form, in order. What is no multipart form has none."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def parse(cls, content_type: str | None, body: bytes) -> "Form":
        """Read a body. What cannot be read is left out, so this raises nothing."""
        header = Message()
        header["content-type"] = content_type or ""
        boundary = header.get_param("boundary")
        if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
            return cls()
        # The first delimiter may stand at the very beginning.
        pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
        found = (_part(piece) for piece in pieces[1:] if not piece.startswith(b"--"))
        return cls(tuple(part for part in found if part is not None))

    def encode(self, boundary: str) -> bytes:
        """Return the body of the form."""
        lines: list[str | bytes] = []
        for part in self.parts:
            file_name = "" if part.file_name is None else f'; filename="{part.file_name}"'
            lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"')
            lines.append(f"{file_name}\r\n")
            if part.content_type is not None:
                lines.append(f"Content-Type: {part.content_type}\r\n")
            lines.append("\r\n")
            lines.append(part.content)
            lines.append("\r\n")
        lines.append(f"--{boundary}--\r\n")
        return b"".join(line if isinstance(line, bytes) else line.encode() for line in lines)

    @property
    def fields(self) -> Mapping[str, str]:
        """The parts that are no files, as text; of several with a name, the last."""
        return {
            part.name: part.content.decode("utf-8", "replace")
            for part in self.parts
            if part.file_name is None
        }

    @property
    def image(self) -> Part | None:
        """The file part `image`, if there is one."""
        return next((p for p in self.parts if p.name == "image" and p.file_name is not None), None)


def _part(piece: bytes) -> Part | None:
    # What follows the delimiter on its line is white space (RFC 2046, section 5.1.1).
    head, separator, content = piece.partition(b"\r\n\r\n")
    name, file_name, content_type = _headers(head.lstrip())
    if not separator or name is None:
        return None
    return Part(name, content, file_name, content_type)


@lru_cache(maxsize=256)
def _headers(head: bytes) -> tuple[str | None, str | None, str | None]:
    """Return the name, file name and content type of a part; those of one program repeat."""
    headers = BytesHeaderParser().parsebytes(head)
    name = headers.get_param("name", header="content-disposition")
    return (
        name if isinstance(name, str) else None,
        headers.get_filename(),
        headers.get("content-type"),
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of the picture of a request."""

    length: int
    """The bytes of the file."""
    sha256: str
    """Of the file's bytes, in hex."""
    size: tuple[int, int] | None
    """Width and height in pixels, or None if no picture can be made out."""
    mode: str | None
    """Pillow's name for its colours, such as "RGB" or "RGBA"."""
    flaw: Flaw | None
    """Which rule of the contract it breaks, or None."""
    file_name: str | None
    content_type: str | None

    @classmethod
    def of(cls, part: Part) -> "Picture":
        """Return the facts of a part; its pixels are not decoded."""
        size, mode = _seen(part.content)
        return cls(
            length=len(part.content),
            sha256=hashlib.sha256(part.content).hexdigest(),
            size=size,
            mode=mode,
            flaw=_flaw(part.content),
            file_name=part.file_name,
            content_type=part.content_type,
        )


def _seen(data: bytes) -> tuple[tuple[int, int], str] | tuple[None, None]:
    """Return a picture's size and mode, if Pillow makes one out."""
    try:
        with open_image(data) as image:
            return image.size, image.mode
    # What Pillow raises for broken files differs by format.
    except (InvalidImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _flaw(data: bytes) -> Flaw | None:
    if not data.startswith(_SIGNATURE):
        return "not_png"
    if len(data) >= MAX_PNG_BYTES:
        return "too_large"
    try:
        SquarePNG(data)
    except InvalidImageError:
        # Width and height are the first eight bytes of the first chunk, IHDR.
        return "not_square" if data[16:20] != data[20:24] else "corrupt"
    return None


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
