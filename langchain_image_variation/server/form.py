"""Reads a multipart body, as it arrives, into a `VariationForm`."""

import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import anyio
from starlette.requests import Request

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import (
    InvalidImageError,
    InvalidRequestError,
    PayloadTooLargeError,
    excerpt,
)
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG, chunks
from langchain_image_variation.numbers import check_number, check_whole_number
from langchain_image_variation.server.multipart import MultipartForm

__all__ = ["MAX_BODY_BYTES", "MAX_DIGITS", "VariationForm", "max_body_length", "read_form"]

MAX_BODY_BYTES = 2 * MAX_PNG_BYTES
"""A longer body cannot be valid, and is rejected while it arrives. An image that is only a little
too large is read, so that the error can name its size."""

MAX_DIGITS = 18
"""The maximum number of digits of a whole number. Any number of this length fits into 64 bits."""
_WHOLE_NUMBER = re.compile(rf"-?[0-9]{{1,{MAX_DIGITS}}}", re.ASCII)
_LONG_NUMBER = re.compile(rf"-?[0-9]{{{MAX_DIGITS + 1},}}", re.ASCII)
_DECIMAL_NUMBER = re.compile(r"-?[0-9]{0,18}\.[0-9]{1,18}", re.ASCII)


class VariationForm(NamedTuple):
    """A valid form: the request of the contract, and options for the engine."""

    request: CreateImageVariationRequest
    options: Mapping[str, object]
    """Options of the engine for this request only, for example `{"seed": 7}`. `seed` and `strength`
    have been checked. The engine checks all others."""


async def read_form(
    request: Request, *, option_names: Sequence[str], timeout: float, max_pixels: int
) -> VariationForm:
    """Read and validate the form of a request.

    Args:
        request: The request.
        option_names: The options of the engine that the form may contain.
        timeout: How many seconds the body may take to arrive.
        max_pixels: The maximum number of pixels of the image.

    Raises:
        InvalidRequestError: If the body is empty or not a multipart form, takes too long to arrive
            (408), or breaks a rule of the contract. `param` names the field.
        InvalidImageError: If the image is invalid, or has too many pixels.
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    if not _may_have_body(request):
        raise _empty_body_error()
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise InvalidRequestError(
            "The body must be multipart/form-data, with the image as the file part 'image', got "
            f"{excerpt(media_type) if content_type else 'no content type'}."
        )
    form = MultipartForm(content_type, option_names=option_names)
    is_empty = True
    with _time_limit(timeout):
        async for piece in _body_pieces(request):
            is_empty = is_empty and not piece
            form.feed(piece)
    if is_empty:
        raise _empty_body_error()
    image = form.image()
    # Checking most files takes less time than waking a thread.
    if chunks.has_few_chunks(image):
        return _validate(image, form.fields, option_names, max_pixels)
    return await anyio.to_thread.run_sync(_validate, image, form.fields, option_names, max_pixels)


def max_body_length(request: Request) -> int:
    """Return the maximum length of a request's body, in bytes."""
    length = _content_length(request)
    return MAX_BODY_BYTES if length is None else min(length, MAX_BODY_BYTES)


async def _body_pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the pieces of the body, up to the limit of its length."""
    error = PayloadTooLargeError(
        f"The body has more than {MAX_BODY_BYTES:,} bytes. The image must have fewer than "
        f"{MAX_PNG_BYTES:,}.",
        param="image",
    )
    if (_content_length(request) or 0) > MAX_BODY_BYTES:
        raise error
    length = 0
    async for piece in request.stream():
        length += len(piece)
        if length > MAX_BODY_BYTES:
            raise error
        yield piece


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        error = InvalidRequestError(f"The body did not arrive within {seconds:g} seconds.")
        error.status_code = 408
        raise error


def _may_have_body(request: Request) -> bool:
    """Return whether a body may follow the headers of a request (RFC 9112, section 6.3)."""
    if "content-length" in request.headers or "transfer-encoding" in request.headers:
        return _content_length(request) != 0
    # Since HTTP/2, a body needs no header.
    return not request.scope["http_version"].startswith("1")


def _empty_body_error() -> InvalidRequestError:
    return InvalidRequestError(
        "The body is empty. It must be multipart/form-data, with the image as the file part "
        "'image'. Some SDK releases send no body when they retry: then send the request again."
    )


def _content_length(request: Request) -> int | None:
    if "transfer-encoding" in request.headers:
        # Content-Length is then ignored (RFC 9112, section 6.3).
        return None
    length = request.headers.get("content-length", "")
    return int(length[:18]) if length.isdecimal() else None


def _validate(
    image: bytes, fields: Mapping[str, str], option_names: Sequence[str], max_pixels: int
) -> VariationForm:
    png = SquarePNG(image)
    if png.side**2 > max_pixels:
        raise InvalidImageError(
            f"image is {png.side}x{png.side} pixels; this server accepts up to {max_pixels:,} "
            f"pixels ({math.isqrt(max_pixels)}x{math.isqrt(max_pixels)}). Scale it down first."
        )
    values = {name: value for name, value in fields.items() if name not in option_names}
    # Any other text stays a string, so that the error shows it.
    whole_numbers = {"n": int(values["n"])} if _WHOLE_NUMBER.fullmatch(values.get("n", "")) else {}
    request = CreateImageVariationRequest.model_validate({**values, **whole_numbers, "image": png})
    options = {name: _option(name, fields[name]) for name in option_names if name in fields}
    return VariationForm(request, options)


def _option(name: str, text: str) -> int | float | str:
    """Return the value of an option, checked if `engines.traits` says what it means."""
    if name == "prompt":
        return text
    value = _number_or_text(name, text)
    if name == "seed":
        return check_whole_number(name, value, 0)
    return check_number(name, value, 0, 1) if name == "strength" else value


def _number_or_text(name: str, text: str) -> int | float | str:
    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    if _LONG_NUMBER.fullmatch(text):
        raise InvalidRequestError(
            f"{name} must have at most {MAX_DIGITS} digits, got {excerpt(text)}.", param=name
        )
    return float(text) if _DECIMAL_NUMBER.fullmatch(text) else text
