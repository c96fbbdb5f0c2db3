"""A multipart form with one image, parsed piece by piece.

Forms follow RFC 7578: they are in UTF-8, and a part with a file name is a file. Some clients send
an image without a file name. So a part `image` of type `image/*` or `application/octet-stream` is a
file too.
"""

import re
from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = ["FIELDS", "MAX_PREAMBLE_BYTES", "MultipartForm"]

FIELDS = ("image", "model", "n", "response_format", "size", "user")
"""The fields of the contract, in wire order."""

MAX_PREAMBLE_BYTES = 16 * 1024
"""The maximum length of the text before the first delimiter, in bytes. Mail programs write a line
there. If there is more, the boundary is wrong, and the rest of the body need not be read."""

_NULLABLE_FIELDS = ("model", "n", "response_format", "size")
"""The fields that can be null in the vendor's API description. Forms have no null, so SDKs send the
text `null` instead."""

_FILE_TYPE = re.compile(rb"[ \t]*(?:image/|application/octet-stream[ \t]*(?:;|$))", re.IGNORECASE)
_WRONG_BOUNDARY = "It must use the boundary that its Content-Type names."
_MAX_FIELD_BYTES = 16 * 1024
_MIN_PIECE_BYTES = 4096
"""Shorter pieces of an image are joined, because each separate piece costs 300 bytes."""


class MultipartForm:
    """A form, while and after its pieces arrive.

    Args:
        content_type: The `Content-Type` header.
        option_names: The fields that are allowed besides those of the contract.

    Raises:
        InvalidRequestError: If the header has no valid boundary.
    """

    def __init__(self, content_type: str, *, option_names: Sequence[str] = ()) -> None:
        self._field_names = (*FIELDS, *option_names)
        self.fields: dict[str, str] = {}
        """The fields except `image`. Empty ones are left out, and so are those that are null."""
        # Joining them copies each byte only once. New memory is the largest cost of an upload.
        self._image_pieces: list[memoryview | bytearray] = []
        self._has_image = False
        self._is_closed = False
        self._names: set[str] = set()
        self._headers: dict[bytes, bytes] = {}
        self._header = bytearray(), bytearray()
        self._name = ""
        self._value = bytearray()
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _boundary_error()
        self._preamble: bytearray | None = bytearray()
        """What has arrived before the first delimiter, or None once that has arrived."""
        self._boundary = boundary
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
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise _boundary_error() from None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body.

        Raises:
            InvalidRequestError: If the form is invalid or breaks a rule of the contract. `param`
                names the field.
        """
        try:
            self._parser.write(piece if self._preamble is None else self._skip_preamble(piece))
        except FormParserError:
            raise _invalid_form_error(
                "The headers of a part are malformed or too long, or a boundary is not followed by "
                "CRLF. Let a library write the form."
            ) from None

    def image(self) -> bytes:
        """Return the bytes of `image`. Call this once, after the whole body has been fed.

        Raises:
            InvalidRequestError: If the form has no closing boundary or no `image`.
        """
        if self._preamble is not None:
            raise _invalid_form_error(_WRONG_BOUNDARY)
        if not self._is_closed:
            # RFC 2046, section 5.1.1. Its last field may be cut off, or missing.
            raise InvalidRequestError(
                "The multipart form ends before its closing boundary, so part of it may be "
                "missing. Send the whole form."
            )
        if not self._has_image:
            raise InvalidRequestError("image is missing. Send one image as a file.", param="image")
        pieces, self._image_pieces = self._image_pieces, []
        return b"".join(pieces)

    def _skip_preamble(self, piece: bytes) -> bytes:
        """Return the form from its first delimiter on, or no bytes if that has not arrived.

        RFC 2046, section 5.1.1, allows a preamble, and white space after a delimiter. The parser
        knows neither at the beginning of a form.
        """
        assert self._preamble is not None
        if not self._preamble and piece.startswith(b"--%b\r\n" % self._boundary):
            # Most forms begin so. Compiling an expression for each form would take longer than
            # reading a small one.
            self._preamble = None
            return piece
        self._preamble += piece
        # White space may follow a delimiter. Line breaks may come before the first one.
        delimiter = rb"(?:^[\r\n]*|\r\n)(--%b(?:--|(?=[ \t]*\r\n)))[ \t]*"
        match = re.search(delimiter % re.escape(self._boundary), self._preamble)
        start = len(self._preamble) if match is None else match.start(1)
        if start > MAX_PREAMBLE_BYTES:
            raise _invalid_form_error(_WRONG_BOUNDARY)
        if match is None:
            return b""
        form = match[1] + self._preamble[match.end() :]
        self._preamble = None
        return bytes(form)

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        # Programs disagree about which of two equal headers counts. They also disagree about
        # whether a bare LF ends a line.
        if name in self._headers or b"\n" in value:
            raise _invalid_form_error(
                "Each header of a part must come once, on a line that ends with CRLF."
            )
        self._headers[name] = value
        self._header = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise _invalid_form_error(
                "Each part needs a header with its name, as in 'Content-Disposition: form-data; "
                'name="n"\'.'
            )
        self._name = name = _text(options[b"name"])
        # Some clients send only the extended form of the name. Its value does not matter.
        is_file = b"filename" in options or "filename*=" in disposition
        if name not in self._field_names:
            raise InvalidRequestError(
                f"{excerpt(name)} is not a field of this request. The fields are: "
                f"{', '.join(self._field_names)}.",
                param=name[:40],
            )
        if name == "image":
            if not is_file and not _FILE_TYPE.match(self._headers.get(b"content-type", b"")):
                raise InvalidRequestError(
                    "image must be sent as a file. Give the part a file name, as in "
                    '\'Content-Disposition: form-data; name="image"; filename="image.png"\', or '
                    "the type image/png. With curl, write -F image=@image.png.",
                    param=name,
                )
        elif is_file:
            raise InvalidRequestError(
                f"{name} must be sent as a plain field, not a file.", param=name
            )
        if name in self._names:
            raise InvalidRequestError(f"{name} was sent more than once.", param=name)
        self._names.add(name)
        self._value.clear()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "image":
            self._add_to_image(memoryview(data)[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise InvalidRequestError(
                f"{self._name} must have at most {_MAX_FIELD_BYTES:,} bytes.",
                param=self._name,
            )

    def _add_to_image(self, piece: memoryview) -> None:
        if len(piece) >= _MIN_PIECE_BYTES:
            self._image_pieces.append(piece)
            return
        if not self._image_pieces or not isinstance(self._image_pieces[-1], bytearray):
            self._image_pieces.append(bytearray())
        self._image_pieces[-1] += piece  # type: ignore[operator]  # it is a bytearray

    def _on_part_end(self) -> None:
        if self._name == "image":
            self._has_image = True
        elif self._value and not (self._value == b"null" and self._name in _NULLABLE_FIELDS):
            self.fields[self._name] = _text(self._value)

    def _on_end(self) -> None:
        self._is_closed = True


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeError:
        raise InvalidRequestError("The multipart form must be encoded in UTF-8.") from None


def _boundary_error() -> InvalidRequestError:
    return InvalidRequestError(
        "The Content-Type multipart/form-data must name a valid boundary. Leave that header out, "
        "and your HTTP client sets it."
    )


def _invalid_form_error(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"The body is not a valid multipart form. {reason}")
