"""A request of the server probe, and the curl command line that sends the same bytes."""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.forms import Form, Part

__all__ = ["BOUNDARY", "WRONG_KEY", "Field", "File", "Key", "ProbeRequest"]

BOUNDARY = "image-variation-conformance"
"""No image of the kit contains it."""
_FORM = f"multipart/form-data; boundary={BOUNDARY}"

Key = Literal["right", "none", "wrong", "lower case", "basic"]
"""The key to send: the server's own, none, a wrong one, or the server's own with the scheme in
lower case or with the scheme Basic."""

_VARIABLE = "IMAGE_VARIATION_API_KEY"
_SCHEMES = {"right": "Bearer", "lower case": "bearer", "basic": "Basic"}
WRONG_KEY = "sk-conformance-wrong-key"
"""A key that no server accepts."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of the form."""

    image: str
    """The name of the image in `images.IMAGES`."""
    name: str = "image"
    file_name: str | None = "image.png"
    content_type: str = "image/png"

    def curl(self, source: str) -> str:
        """Return the argument of curl's option -F.

        Args:
            source: The file with the image, or - for standard input.
        """
        if self.file_name is None:
            # With <, curl sends the content without a file name.
            return f"{self.name}=\\<{source}{shlex.quote(f';type={self.content_type}')}"
        rest = f';filename="{self.file_name}";type={self.content_type}'
        return f"{self.name}=@{source}{shlex.quote(rest)}"


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A request. The probe sends equal requests only once."""

    method: str = "POST"
    path: str = "/images/variations"
    """Relative to the base URL, or a whole URL."""
    parts: tuple[Field | File, ...] = ()
    """The parts of the form. Without parts, `body` is sent."""
    is_closed: bool = True
    """Whether the form ends with its closing boundary."""
    body: str | None = None
    content_type: str | None = None
    """The content type of `body`."""
    key: Key = "right"
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    """Whether the body is sent in chunks, without Content-Length."""
    attempt: int = 0
    """Set another number to send an equal request again."""

    def url(self, base_url: str) -> str:
        """Return the whole URL."""
        return self.path if "://" in self.path else f"{base_url}{self.path}"

    def content(self) -> bytes | None:
        """Return the body, or None if there is none."""
        if not self.parts:
            return None if self.body is None else self.body.encode()
        return Form(tuple(map(_form_part, self.parts)), self.is_closed).encode(BOUNDARY)

    def all_headers(self, api_key: str | None) -> dict[str, str]:
        """Return all headers that the kit sets."""
        headers = dict(self.headers)
        kind = _FORM if self.parts else self.content_type
        if kind is not None:
            headers["content-type"] = kind
        if self.key == "wrong":
            headers["authorization"] = f"Bearer {WRONG_KEY}"
        elif self.key != "none" and api_key:
            headers["authorization"] = f"{_SCHEMES[self.key]} {api_key}"
        return headers

    def curl(self, base_url: str, *, with_key: bool) -> str:
        """Return a command line that sends the same. It takes the key from the environment."""
        words = ["curl", "-i", shlex.quote(self.url(base_url))]
        if self.method not in ("GET", "POST") or (self.method == "POST" and not self._has_body):
            words += ["-X", self.method]
        if self.key == "wrong":
            words += ["-H", shlex.quote(f"authorization: Bearer {WRONG_KEY}")]
        elif self.key != "none" and with_key:
            # In double quotes, so that the shell inserts the key.
            words += ["-H", f'"authorization: {_SCHEMES[self.key]} ${_VARIABLE}"']
        headers = list(self.headers)
        if self.chunked:
            headers.append(("transfer-encoding", "chunked"))
        if self.content_type is not None:
            headers.append(("content-type", self.content_type))
        for name, value in headers:
            words += ["-H", shlex.quote(f"{name}: {value}")]
        if self.body is not None:
            words += ["--data-binary", _quote(self.body)]
        if not self.is_closed:
            return self._curl_unclosed(words)
        files = [part for part in self.parts if isinstance(part, File)]
        # A pipe can deliver only one file.
        source = "-" if len(files) == 1 else "image.png"
        for part in self.parts:
            if isinstance(part, Field):
                words += ["--form-string", shlex.quote(f"{part.name}={part.value}")]
            else:
                words += ["-F", part.curl(source)]
        line = " ".join(words)
        if not files:
            return line
        write = f"{_python()} -m pytest_image_variation.conformance.images {files[0].image}"
        return f"{write} | {line}" if source == "-" else f"{write} > {source} && {line}"

    def _curl_unclosed(self, words: list[str]) -> str:
        """Return a command line that sends an unclosed form, which curl itself cannot write."""
        (file,) = (part for part in self.parts if isinstance(part, File))
        start, _, end = (self.content() or b"").partition(make_image(file.image))
        image = f"{_python()} -m pytest_image_variation.conformance.images {file.image}"
        lines = [f"printf %s {_quote(text.decode())}" for text in (start, end)]
        words = [*words, "-H", shlex.quote(f"content-type: {_FORM}"), "--data-binary", "@-"]
        return f"{{ {lines[0]}; {image}; {lines[1]}; }} | {' '.join(words)}"

    @property
    def _has_body(self) -> bool:
        return bool(self.parts) or self.body is not None


def _python() -> str:
    """Return a command for this Python that works without an activated environment too."""
    on_path = shutil.which("python")
    if on_path is not None and Path(on_path).parent == Path(sys.executable).parent:
        return "python"
    try:
        return shlex.quote(os.path.relpath(sys.executable))
    except ValueError:
        # On Windows it may be on another drive.
        return "python"


def _form_part(part: Field | File) -> Part:
    if isinstance(part, Field):
        return Part(part.name, part.value.encode())
    return Part(part.name, make_image(part.image), part.file_name, part.content_type)


def _quote(text: str) -> str:
    """Quote a text for bash, including line breaks."""
    if "\r" not in text and "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + escaped.replace("\r", "\\r").replace("\n", "\\n") + "'"
