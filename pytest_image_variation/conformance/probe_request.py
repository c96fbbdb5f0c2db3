"""A request of the kit: what is sent byte by byte, and the curl command line that sends it."""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_image_variation.conformance.images import picture
from pytest_image_variation.forms import Form, Part

__all__ = ["BOUNDARY", "WRONG_KEY", "Field", "File", "Key", "Question"]

BOUNDARY = "image-variation-conformance"
"""No picture of the kit has it inside."""

Key = Literal["right", "none", "wrong", "lower case", "basic"]
"""Which key is sent: the server's own, with the scheme in lower case or another scheme, another
key, or none."""

_VARIABLE = "IMAGE_VARIATION_API_KEY"
_SCHEMES = {"right": "Bearer", "lower case": "bearer", "basic": "Basic"}
WRONG_KEY = "sk-conformance-wrong-key"
"""A key that no server has."""


@dataclass(frozen=True, slots=True)
class Field:
    """A plain field of the form."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of the form."""

    picture: str
    """Its name in `pictures.PICTURES`."""
    name: str = "image"
    file_name: str = "image.png"
    content_type: str = "image/png"

    def curl(self, source: str) -> str:
        """Return what curl's option -F takes.

        Args:
            source: The file that holds the picture, or - for the standard input.
        """
        rest = f';filename="{self.file_name}";type={self.content_type}'
        return f"{self.name}=@{source}{shlex.quote(rest)}"


@dataclass(frozen=True, slots=True)
class Question:
    """A request; the same question is asked once."""

    method: str = "POST"
    path: str = "/images/variations"
    """Below the base URL, or a whole address."""
    parts: tuple[Field | File, ...] = ()
    """The form; without parts, `body` is sent."""
    body: str | None = None
    content_type: str | None = None
    """Of `body`."""
    key: Key = "right"
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    """Whether the length is not said in advance."""
    again: int = 0
    """Makes a question that is to be asked once more another one."""

    def url(self, base_url: str) -> str:
        """Return the whole address."""
        return self.path if "://" in self.path else f"{base_url}{self.path}"

    def content(self) -> bytes | None:
        """Return the body, or None for none."""
        if not self.parts:
            return None if self.body is None else self.body.encode()
        return Form(tuple(map(_part, self.parts))).encode(BOUNDARY)

    def all_headers(self, api_key: str | None) -> dict[str, str]:
        """Return the headers that it sets itself."""
        headers = dict(self.headers)
        kind = f"multipart/form-data; boundary={BOUNDARY}" if self.parts else self.content_type
        if kind is not None:
            headers["content-type"] = kind
        if self.key == "wrong":
            headers["authorization"] = f"Bearer {WRONG_KEY}"
        elif self.key != "none" and api_key:
            headers["authorization"] = f"{_SCHEMES[self.key]} {api_key}"
        return headers

    def curl(self, base_url: str, *, with_key: bool) -> str:
        """Return a command line that sends the same; the key is taken from the environment."""
        words = ["curl", "-i", shlex.quote(self.url(base_url))]
        if self.method not in ("GET", "POST") or (self.method == "POST" and not self._has_body):
            words += ["-X", self.method]
        if self.key == "wrong":
            words += ["-H", shlex.quote(f"authorization: Bearer {WRONG_KEY}")]
        elif self.key != "none" and with_key:
            # In double quotes, so that the shell puts the key in.
            words += ["-H", f'"authorization: {_SCHEMES[self.key]} ${_VARIABLE}"']
        headers = list(self.headers)
        if self.chunked:
            headers.append(("transfer-encoding", "chunked"))
        if self.content_type is not None:
            headers.append(("content-type", self.content_type))
        for name, value in headers:
            words += ["-H", shlex.quote(f"{name}: {value}")]
        if self.body is not None:
            words += ["--data-binary", _quoted(self.body)]
        files = [part for part in self.parts if isinstance(part, File)]
        # Only one can come from a pipe.
        source = "-" if len(files) == 1 else "picture.png"
        for part in self.parts:
            if isinstance(part, Field):
                words += ["--form-string", shlex.quote(f"{part.name}={part.value}")]
            else:
                words += ["-F", part.curl(source)]
        line = " ".join(words)
        if not files:
            return line
        made = f"{_python()} -m pytest_image_variation.conformance.images {files[0].picture}"
        return f"{made} | {line}" if source == "-" else f"{made} > {source} && {line}"

    @property
    def _has_body(self) -> bool:
        return bool(self.parts) or self.body is not None


def _python() -> str:
    """Return how to start this Python from here, in a shell where nothing is activated either."""
    found = shutil.which("python")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "python"
    try:
        return shlex.quote(os.path.relpath(sys.executable))
    except ValueError:
        # It is on another disk of Windows.
        return "python"


def _part(part: Field | File) -> Part:
    if isinstance(part, Field):
        return Part(part.name, part.value.encode())
    return Part(part.name, picture(part.picture), part.file_name, part.content_type)


def _quoted(text: str) -> str:
    """Quote for bash, line breaks too."""
    if "\r" not in text and "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + escaped.replace("\r", "\\r").replace("\n", "\\n") + "'"
