"""Multipart forms (RFC 7578), parsed from a body or from a request that vcrpy holds."""

import hashlib
import io
import re
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
from langchain_image_variation.images.png.chunks import SIGNATURE
from pytest_image_variation.scenarios import Flaw

__all__ = ["Form", "Part", "SentImage", "aiohttp_form", "body_of", "form_of", "headers_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form."""

    name: str
    content: bytes
    file_name: str | None = None
    content_type: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the part is a file. Some clients send images without a file name."""
        kind = (self.content_type or "").partition(";")[0].strip().lower()
        is_image = kind == "application/octet-stream" or kind.startswith("image/")
        return self.file_name is not None or (self.name == "image" and is_image)


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form, in order. A body that is not a multipart form has none."""

    parts: tuple[Part, ...] = ()
    is_closed: bool = True
    """False if the body is a form that ends before its closing boundary. Its last part may then be
    cut off."""

    @classmethod
    def parse(cls, content_type: str | None, body: bytes) -> "Form":
        """Parse a body. Raises nothing: parts that cannot be parsed are left out."""
        header = Message()
        header["content-type"] = content_type or ""
        boundary = header.get_param("boundary")
        if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
            return cls()
        # White space may follow a delimiter on its line (RFC 2046, section 5.1.1).
        delimiter = re.compile(
            b"\r\n--%b(?:(?P<end>--)|[ \t]*\r\n)" % re.escape(boundary.encode("latin-1", "replace"))
        )
        # The first delimiter may be at the very beginning, or after a preamble.
        body = b"\r\n" + body.lstrip(b"\r\n")
        parts = []
        match = delimiter.search(body)
        while match is not None and not match["end"]:
            # A part without headers begins with an empty line.
            head_end = body.find(b"\r\n\r\n", match.end() - 2)
            if head_end < 0:
                match = None
                break
            head, start = body[match.end() : head_end], head_end + 4
            match = delimiter.search(body, start)
            content = body[start : None if match is None else match.start()]
            if (part := _parse_part(head, content)) is not None:
                parts.append(part)
        return cls(tuple(parts), is_closed=match is not None) if parts else cls()

    def encode(self, boundary: str) -> bytes:
        """Return the form as a request body."""
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
        if self.is_closed:
            lines.append(f"--{boundary}--\r\n")
        elif lines:
            # This line break belongs to the delimiter that would follow.
            lines.pop()
        return b"".join(line if isinstance(line, bytes) else line.encode() for line in lines)

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields as text. If a name occurs more than once, the last value counts."""
        return {
            part.name: part.content.decode("utf-8", "replace")
            for part in self.parts
            if not part.is_file
        }

    @property
    def image(self) -> Part | None:
        """The file part `image`, or None if the form has none."""
        return next((p for p in self.parts if p.name == "image" and p.is_file), None)


def _parse_part(head: bytes, content: bytes) -> Part | None:
    name, file_name, content_type = _parse_headers(head)
    return None if name is None else Part(name, content, file_name, content_type)


@lru_cache(maxsize=256)
def _parse_headers(head: bytes) -> tuple[str | None, str | None, str | None]:
    """Return a part's name, file name and content type. Cached, since clients repeat them."""
    headers = BytesHeaderParser().parsebytes(head)
    name = headers.get_param("name", header="content-disposition")
    return (
        name if isinstance(name, str) else None,
        headers.get_filename(),
        headers.get("content-type"),
    )


@dataclass(frozen=True, slots=True)
class SentImage:
    """Facts about the image in a request."""

    length: int
    """The size of the file in bytes."""
    sha256: str
    """The SHA-256 of the file, in hex."""
    size: tuple[int, int] | None
    """Width and height in pixels, or None if the file is not a readable image."""
    mode: str | None
    """Pillow's color mode, such as "RGB" or "RGBA"."""
    flaw: Flaw | None
    """The rule of the contract that the image breaks, or None."""
    file_name: str | None
    content_type: str | None

    @classmethod
    def from_part(cls, part: Part) -> "SentImage":
        """Read the facts of a file part. Pixels are not decoded."""
        size, mode = _size_and_mode(part.content)
        return cls(
            length=len(part.content),
            sha256=hashlib.sha256(part.content).hexdigest(),
            size=size,
            mode=mode,
            flaw=_find_flaw(part.content),
            file_name=part.file_name,
            content_type=part.content_type,
        )


def _size_and_mode(data: bytes) -> tuple[tuple[int, int], str] | tuple[None, None]:
    try:
        with open_image(data) as image:
            return image.size, image.mode
    # Pillow's exceptions for corrupt files differ by format.
    except (InvalidImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _find_flaw(data: bytes) -> Flaw | None:
    if not data.startswith(SIGNATURE):
        return "not_png"
    if len(data) >= MAX_PNG_BYTES:
        return "too_large"
    try:
        SquarePNG(data)
    except InvalidImageError:
        # Width and height are the first eight bytes of the first chunk, IHDR.
        return "not_square" if data[16:20] != data[20:24] else "corrupt"
    return None


# Requests as vcrpy holds them. vcrpy has no types, and their bodies differ by client.

# aiohttp empties a form when it sends it, so each form is kept as it was before.
_AIOHTTP_FORMS = WeakKeyDictionary[Any, Form]()


def form_of(request: Any) -> Form:
    """Return the form of a vcrpy request, whichever client sent it."""
    form = aiohttp_form(getattr(request, "body", None))
    if form is not None:
        return form
    return Form.parse(headers_of(request).get("content-type"), body_of(request))


def body_of(request: Any) -> bytes:
    """Return the body of a vcrpy request, or no bytes if it is neither bytes nor text."""
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
    """Return the headers of a vcrpy request as text, with names in lower case."""
    return {name.lower(): _to_text(value) for name, value in dict(request.headers).items()}


def _to_text(value: Any) -> str:
    value = value[0] if isinstance(value, list | tuple) else value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def aiohttp_form(body: Any) -> Form | None:
    """Return the form in an aiohttp body, or None if the body is not a form.

    aiohttp takes a `FormData`, a mapping or a list of pairs, and encodes it only when it sends it.
    """
    if type(body).__name__ == "FormData" and hasattr(body, "_fields"):
        if body not in _AIOHTTP_FORMS:
            _AIOHTTP_FORMS[body] = Form(tuple(_aiohttp_part(*field) for field in body._fields))
        return _AIOHTTP_FORMS[body]
    pairs = list(body.items()) if isinstance(body, dict) else body
    if not isinstance(pairs, list) or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        return None
    if not any(isinstance(value, bytes | io.IOBase) for _, value in pairs):
        # Without a file it is not a multipart form, and a mapping may be JSON.
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
