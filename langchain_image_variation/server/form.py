"""From a multipart body to a `CreateImageVariationRequest`, read as it streams in."""

import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, closing, contextmanager

import anyio
from starlette.requests import Request

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    PayloadTooLargeError,
    shown,
)
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG, chunks
from langchain_image_variation.server.multipart import MultipartForm

__all__ = ["MAX_BODY_BYTES", "drain", "read_request"]

MAX_BODY_BYTES = 2 * MAX_PNG_BYTES
"""A longer body cannot be a legal request, and is cut off while it comes in. A picture that is only
a little too large is read, and refused with its size."""

_MAX_IN_MEMORY = 64 * 1024 * 1024
_in_memory = 0
# Several apps of one process may run, each on a loop in a thread of its own.
_in_memory_lock = threading.Lock()
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


async def read_request(
    request: Request,
    *,
    timeout: float,
    loading: AbstractAsyncContextManager[object],
    admit: Callable[[], None],
) -> CreateImageVariationRequest:
    """Read the form of a request and check everything.

    Args:
        request: What comes in.
        timeout: The body may take so many seconds.
        loading: What is entered while the picture is loaded: so few may do so at once.
        admit: Called when the body has come in, before the picture takes memory; may refuse it.

    Raises:
        ImageVariationError: What `admit` raises.
        InvalidRequestError: If the body is no multipart form or takes too long to come in (408), or
            a field breaks a rule of the contract; `param` names it.
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        await drain(request, timeout=timeout)
        raise InvalidRequestError(
            "The body must be multipart/form-data, with the picture as the file part 'image', got "
            f"{shown(kind.partition(';')[0]) if kind else 'no content-type'}."
        )
    with _reserved(_announced(request) or MAX_BODY_BYTES + 1) as in_memory:
        try:
            form = MultipartForm(kind, in_memory=in_memory)
        except InvalidRequestError:
            await drain(request, timeout=timeout)
            raise
        with closing(form):
            await _fill(form, request, timeout)
            async with loading:
                admit()
                picture = await form.picture()
    # Most files are checked faster than a thread is woken.
    if chunks.has_few_chunks(picture):
        return _checked(picture, form.fields)
    return await anyio.to_thread.run_sync(_checked, picture, form.fields)


async def drain(request: Request, *, timeout: float) -> None:
    """Read a body that is refused unread, and drop it, so that the connection can be kept.

    Raises:
        InvalidRequestError: If it takes more than `timeout` seconds to come in (408).
        PayloadTooLargeError: As soon as the body is longer than `MAX_BODY_BYTES`.
    """
    with _in_time(timeout):
        async for _ in _pieces(request):
            pass


async def _fill(form: MultipartForm, request: Request, timeout: float) -> None:
    pieces = _pieces(request)
    with _in_time(timeout):
        try:
            async for piece in pieces:
                await form.feed(piece)
        except InvalidRequestError:
            # What is still on its way is read and dropped, as `drain` does.
            async for _ in pieces:
                pass
            raise


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
def _in_time(timeout: float) -> Iterator[None]:
    with anyio.move_on_after(timeout) as scope:
        yield
    if scope.cancelled_caught:
        late = InvalidRequestError(f"The body did not come in within {timeout:g} seconds.")
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
    with _in_memory_lock:
        fits = length <= MAX_BODY_BYTES and _in_memory + length <= _MAX_IN_MEMORY
        if fits:
            _in_memory += length
    if not fits:
        yield False
        return
    try:
        yield True
    finally:
        with _in_memory_lock:
            _in_memory -= length


def _checked(picture: bytes, fields: Mapping[str, str]) -> CreateImageVariationRequest:
    values: dict[str, object] = dict(fields)
    if _WHOLE_NUMBER.fullmatch(fields.get("n", "")):
        # What is no whole number stays a string, and is refused with it in the message.
        values["n"] = int(fields["n"])
    return CreateImageVariationRequest.model_validate({**values, "image": SquarePNG(picture)})
