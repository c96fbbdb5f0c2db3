"""The fields of a multipart form and its one picture, taken in piece by piece.

The form is RFC 7578's: in UTF-8, a file being a part with a file name.
"""

import tempfile
from typing import IO

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from langchain_image_variation.exceptions import InvalidRequestError, shown

__all__ = ["FIELDS", "MultipartForm"]

FIELDS = ("image", "model", "n", "response_format", "size", "user")
"""The fields of a request, in wire order."""

_MAX_FIELD_BYTES = 16 * 1024


class MultipartForm:
    """A form while it comes in, and afterwards.

    Args:
        content_type: The header of that name.
        in_memory: Whether the picture stays in memory while it comes in, or goes to a temporary
            file: writing each piece takes longer than all the rest.

    Raises:
        InvalidRequestError: If the header names no boundary.
    """

    def __init__(self, content_type: str, *, in_memory: bool) -> None:
        self.fields: dict[str, str] = {}
        """The fields beside `image`, without those that are empty."""
        # Joined, it is copied once; fresh memory is what an upload costs most.
        self._picture: list[memoryview] = []
        self._file: IO[bytes] | None = None if in_memory else tempfile.TemporaryFile()
        self._complete = False
        self._seen: set[str] = set()
        self._headers: dict[bytes, bytes] = {}
        self._header = bytearray(), bytearray()
        self._name = ""
        self._part = bytearray()
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            self.close()
            raise _broken()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                },
            )
        except FormParserError:
            self.close()
            raise _broken() from None

    async def feed(self, piece: bytes) -> None:
        """Take in the next piece of the body.

        Raises:
            InvalidRequestError: If it breaks a rule of forms or of the contract; `param` names the
                field.
        """
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _broken() from None
        if self._file is not None and (written := self._taken()):
            await anyio.to_thread.run_sync(self._file.write, written)

    async def picture(self) -> bytes:
        """Return the bytes of `image`, and forget them.

        Raises:
            InvalidRequestError: If the form has no `image`.
        """
        if not self._complete:
            raise InvalidRequestError(
                "image is missing; send one picture as a file.", param="image"
            )
        if self._file is not None:
            self._file.seek(0)
            return await anyio.to_thread.run_sync(self._file.read)
        return self._taken()

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._file is not None:
            self._file.close()

    def _taken(self) -> bytes:
        """Return what of the picture is in memory, and forget it."""
        picture, self._picture = self._picture, []
        return b"".join(picture)

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise _broken()
        self._name = name = _text(options[b"name"])
        # Some clients send no other form of the name; what it says does not matter.
        is_file = b"filename" in options or "filename*=" in disposition
        if name not in FIELDS:
            raise InvalidRequestError(
                f"{shown(name)} is not a field of the request; the fields are {', '.join(FIELDS)}.",
                param=name[:40],
            )
        if is_file != (name == "image"):
            kind = "a file, with a file name" if name == "image" else "a plain field, not a file"
            raise InvalidRequestError(f"{name} must be sent as {kind}.", param=name)
        if name in self._seen:
            raise InvalidRequestError(f"{name} is there more than once.", param=name)
        self._seen.add(name)
        self._part.clear()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "image":
            self._picture.append(memoryview(data)[start:end])
            return
        self._part += data[start:end]
        if len(self._part) > _MAX_FIELD_BYTES:
            raise InvalidRequestError(
                f"{self._name} has more than {_MAX_FIELD_BYTES:,} bytes, the limit.",
                param=self._name,
            )

    def _on_part_end(self) -> None:
        if self._name == "image":
            self._complete = True
        elif self._part:
            self.fields[self._name] = _text(self._part)


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeError:
        raise InvalidRequestError("The multipart form is not in UTF-8; send it so.") from None


def _broken() -> InvalidRequestError:
    return InvalidRequestError(
        "The body is no valid multipart form, with a boundary that its Content-Type names."
    )
