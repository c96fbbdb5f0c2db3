"""From a multipart body to a `CreateImageVariationRequest`, read as it streams in."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import anyio
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    PayloadTooLargeError,
    shown,
)
from langchain_image_variation.png import MAX_PNG_BYTES, SquarePNG

__all__ = ["MAX_BODY_BYTES", "UPLOAD_SECONDS", "Upload", "drain", "read_upload"]

MAX_BODY_BYTES = 2 * MAX_PNG_BYTES
"""A longer body cannot be a legal request, and is cut off while it comes in. A picture that is only
a little too large is read, and refused with its size."""

UPLOAD_SECONDS = 60.0
"""A body may take so long to come in."""

_FIELDS = ("image", "model", "n", "response_format", "size", "user")
_MAX_PARTS = 16
_MAX_FIELD_BYTES = 16 * 1024
_MAX_IN_MEMORY = 64 * 1024 * 1024
_ON_DISK = 64 * 1024
_in_memory = 0
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


class Upload:
    """A form that has come in: the picture, still in its temporary file, and the other fields."""

    def __init__(self, image: UploadFile, fields: Mapping[str, str]) -> None:
        self._image = image
        self._fields = fields

    async def request(self) -> CreateImageVariationRequest:
        """Check everything and return the request. The temporary file is closed.

        Raises:
            InvalidRequestError: If a field breaks a rule of the contract; `param` names it.
        """
        with self._image.file as file:
            return await anyio.to_thread.run_sync(lambda: _request(file.read(), self._fields))


async def read_upload(request: Request) -> Upload:
    """Read the form of a request.

    Raises:
        InvalidRequestError: If the body is no multipart form, has a field that is unknown or there
            twice, no `image`, or takes longer than `UPLOAD_SECONDS` to come in (408).
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        await drain(request)
        raise InvalidRequestError(
            "The body must be multipart/form-data, with the picture as the file part 'image', got "
            f"{shown(kind.partition(';')[0]) if kind else 'no content-type'}."
        )
    with _reserved(_announced(request) or MAX_BODY_BYTES + 1) as in_memory:
        form = await _form(request, in_memory)
    try:
        return _upload(form)
    except InvalidRequestError:
        await form.close()
        raise


async def drain(request: Request) -> None:
    """Read a body and drop it, so that the client is done sending when the answer comes.

    Raises:
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    with _in_time():
        async for _ in _pieces(request):
            pass


async def _form(request: Request, in_memory: bool) -> FormData:
    parser = _Parser(
        request.headers,
        _pieces(request),  # type: ignore[arg-type]  # any async iterator will do
        max_files=_MAX_PARTS,
        max_fields=_MAX_PARTS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    if in_memory:
        parser.spool_max_size = MAX_BODY_BYTES
    try:
        with _in_time():
            form = await parser.parse()
        # Some charsets yield text that UTF-8 cannot hold, so that no answer could name it.
        for name, value in form.multi_items():
            f"{name}{'' if isinstance(value, UploadFile) else value}".encode()
        return form
    except MultiPartException:
        raise InvalidRequestError(
            f"The body is no valid multipart form of at most {_MAX_PARTS} parts, with fields of at "
            f"most {_MAX_FIELD_BYTES:,} bytes."
        ) from None
    # Python's codecs raise what they like for a charset that a client made up.
    except (LookupError, UnicodeError, TypeError):
        raise InvalidRequestError("The form's charset cannot be decoded; use UTF-8.") from None


class _Parser(MultiPartParser):
    spool_max_size = _ON_DISK


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body piece by piece, within the limit of length."""
    too_large = PayloadTooLargeError(
        f"The body has more than {MAX_BODY_BYTES:,} bytes; the picture must have less than "
        f"{MAX_PNG_BYTES:,}.",
        param="image",
    )
    if (_announced(request) or 0) > MAX_BODY_BYTES:
        raise too_large
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > MAX_BODY_BYTES:
            raise too_large
        yield piece


@contextmanager
def _in_time() -> Iterator[None]:
    with anyio.move_on_after(UPLOAD_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        late = InvalidRequestError(f"The body did not come in within {UPLOAD_SECONDS:.0f} seconds.")
        late.status_code = 408
        raise late


def _announced(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length[:18]) if length.isdecimal() else None


@contextmanager
def _reserved(length: int) -> Iterator[bool]:
    """Say whether an upload of so many bytes may stay in memory, and count it while it comes in.

    Writing each piece to a file takes longer than all the rest, so this is only for when hundreds
    of uploads come at once.
    """
    global _in_memory
    if length > MAX_BODY_BYTES or _in_memory + length > _MAX_IN_MEMORY:
        yield False
        return
    _in_memory += length
    try:
        yield True
    finally:
        _in_memory -= length


def _upload(form: FormData) -> Upload:
    images: list[UploadFile] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name not in _FIELDS:
            raise InvalidRequestError(
                f"{shown(name)} is not a field of the request; the fields are "
                f"{', '.join(_FIELDS)}.",
                param=name[:40],
            )
        if name == "image" and isinstance(value, UploadFile):
            images.append(value)
        elif name == "image" or isinstance(value, UploadFile):
            kind = "a file, with a file name" if name == "image" else "a plain field, not a file"
            raise InvalidRequestError(f"{name} must be sent as {kind}.", param=name)
        elif name in fields:
            raise InvalidRequestError(f"{name} is there more than once.", param=name)
        elif value:
            fields[name] = value
    if len(images) != 1:
        what = "is missing" if not images else "is there more than once"
        raise InvalidRequestError(f"image {what}; send one picture as a file.", param="image")
    return Upload(images[0], fields)


def _request(picture: bytes, fields: Mapping[str, str]) -> CreateImageVariationRequest:
    values: dict[str, object] = dict(fields)
    if "n" in fields and _WHOLE_NUMBER.fullmatch(fields["n"]):
        # What is no whole number stays a string, and is refused with it in the message.
        values["n"] = int(fields["n"])
    return CreateImageVariationRequest.model_validate({**values, "image": SquarePNG(picture)})
