"""Reads a multipart body, as it arrives, into a `VariationForm`."""

import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from typing import NamedTuple

import anyio
from starlette.requests import Request

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    PayloadTooLargeError,
    excerpt,
)
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG, chunks
from langchain_image_variation.server.multipart import MultipartForm

__all__ = ["MAX_BODY_BYTES", "VariationForm", "read_form"]

MAX_BODY_BYTES = 2 * MAX_PNG_BYTES
"""A longer body cannot be valid, and is rejected while it arrives. An image that is only a little
too large is read, so that the error can name its size."""

_MAX_BYTES_IN_MEMORY = 64 * 1024 * 1024
_bytes_in_memory = 0
# A process can run several apps, each in a thread with its own event loop.
_memory_lock = threading.Lock()
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DECIMAL_NUMBER = re.compile(r"-?[0-9]{0,18}\.?[0-9]{1,18}", re.ASCII)


class VariationForm(NamedTuple):
    """A valid form: the request of the contract, and options for the engine."""

    request: CreateImageVariationRequest
    options: Mapping[str, object]
    """Options of the engine for this request only, for example `{"seed": 7}`. The engine checks
    their values."""


async def read_form(
    request: Request,
    *,
    option_names: Sequence[str],
    timeout: float,
    loading_slot: AbstractAsyncContextManager[object],
    admit: Callable[[], None],
) -> VariationForm:
    """Read and validate the form of a request.

    Args:
        request: The request.
        option_names: The options of the engine that the form may contain.
        timeout: How many seconds the body may take to arrive.
        loading_slot: Entered while the image is loaded into memory. Limits how many are loaded at
            once.
        admit: Called when the body has arrived, before the image is loaded. May refuse the request.

    Raises:
        ImageVariationError: If `admit` raises one.
        InvalidRequestError: If the body is not a multipart form, takes too long to arrive (408), or
            breaks a rule of the contract. `param` names the field.
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise InvalidRequestError(
            "The body must be multipart/form-data, with the image as the file part 'image', got "
            f"{excerpt(media_type) if content_type else 'no content type'}."
        )
    with _reserve_memory(_content_length(request) or MAX_BODY_BYTES + 1) as in_memory:
        with closing(
            MultipartForm(content_type, in_memory=in_memory, option_names=option_names)
        ) as form:
            with _time_limit(timeout):
                async for piece in _body_pieces(request):
                    await form.feed(piece)
            async with loading_slot:
                admit()
                image = await form.image()
    # Checking most files takes less time than waking a thread.
    if chunks.has_few_chunks(image):
        return _validate(image, form.fields, option_names)
    return await anyio.to_thread.run_sync(_validate, image, form.fields, option_names)


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


def _content_length(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length[:18]) if length.isdecimal() else None


@contextmanager
def _reserve_memory(length: int) -> Iterator[bool]:
    """Yield whether an upload of this length may stay in memory, and count it during the block.

    Writing each piece to a file takes longer than everything else, so uploads only go to files when
    hundreds of them arrive at once.
    """
    global _bytes_in_memory
    with _memory_lock:
        fits = length <= MAX_BODY_BYTES and _bytes_in_memory + length <= _MAX_BYTES_IN_MEMORY
        if fits:
            _bytes_in_memory += length
    if not fits:
        yield False
        return
    try:
        yield True
    finally:
        with _memory_lock:
            _bytes_in_memory -= length


def _validate(
    image: bytes, fields: Mapping[str, str], option_names: Sequence[str]
) -> VariationForm:
    values = {name: value for name, value in fields.items() if name not in option_names}
    # Any other text stays a string, and the error shows it.
    whole_numbers = {"n": int(values["n"])} if _WHOLE_NUMBER.fullmatch(values.get("n", "")) else {}
    request = CreateImageVariationRequest.model_validate(
        {**values, **whole_numbers, "image": SquarePNG(image)}
    )
    options = {name: _number(fields[name]) for name in option_names if name in fields}
    return VariationForm(request, options)


def _number(text: str) -> int | float | str:
    """Return the number that a field contains, or any other text as it is."""
    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL_NUMBER.fullmatch(text) else text
