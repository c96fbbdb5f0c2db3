"""`assert_images_response`: checks a response against the contract, including its images."""

import base64
import binascii
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_args
from urllib.parse import urlsplit

from langchain_image_variation.contract import ResponseFormat, Size
from langchain_image_variation.exceptions import ImageVariationError, InvalidImageError
from langchain_image_variation.images.png import SquarePNG

__all__ = ["assert_images_response"]

_Rows = list[tuple[str, str, str]]
"""Each violation as a row: the field, what was expected, what was found."""

_LONGEST_VALUE = 60


def assert_images_response(
    response: Any,
    *,
    n: int = 1,
    size: Size = "1024x1024",
    response_format: ResponseFormat = "url",
    read: Callable[[str], bytes] | None = None,
) -> None:
    """Check that a response is what a request for `n` images must get.

    The checks cover the status, `created`, the number of entries, that each entry has its image in
    the requested format and in no other, and that each image is a PNG of exactly the requested
    size. The key of the other format may be present if it is null.

    Args:
        response: The response, as the vendor's SDK, our client or an HTTP library returns it, or
            its JSON, parsed or not.
        n: The number of images in the request.
        size: The size in the request.
        response_format: The format in the request.
        read: Downloads the image at a URL; its exceptions are not caught. Without it, only the
            form of URLs is checked, except in the results of our own client, which can download
            their images.

    Raises:
        ValueError: If `size` or `response_format` is not in the contract, or `n` is not a positive
            integer.
        AssertionError: If the response breaks a rule. The message lists each field with what was
            expected and what was found.
    """
    __tracebackhide__ = True
    for name, value, legal in (
        ("size", size, get_args(Size)),
        ("response_format", response_format, get_args(ResponseFormat)),
    ):
        if value not in legal:
            raise ValueError(f"{name} must be one of {', '.join(legal)}, got {str(value)[:60]!r}.")
    if type(n) is not int or n < 1:
        raise ValueError(f"n must be a positive integer, got {str(n)[:60]!r}.")
    rows: _Rows = []
    content = _read_content(response, rows)
    if content is not None:
        _check_content(content, n, rows)
        entries = content.get("data")
        images = getattr(response, "data", None)
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            image = images[index] if isinstance(images, list) and len(images) > index else None
            _check_entry(f"data[{index}]", entry, image, (size, response_format, read), rows)
    if rows:
        raise AssertionError(_report(rows))


def _read_content(response: Any, rows: _Rows) -> Mapping[str, Any] | None:
    """Return the JSON object of a response, whatever type the response has."""
    status = getattr(response, "status_code", getattr(response, "status", 200))
    if status != 200:
        rows.append(("status", "200", repr(status)))
    content = response
    if hasattr(response, "model_dump"):
        content = response.model_dump(mode="json")
    elif hasattr(response, "content") and hasattr(response, "json"):
        content = response.content
    if isinstance(content, str | bytes | bytearray):
        try:
            content = json.loads(content)
        except ValueError:
            content = None
    if inspect.iscoroutinefunction(getattr(response, "json", None)):
        rows.append(("body", "a JSON object", "an unread response: pass `await response.json()`"))
        return None
    if not isinstance(content, Mapping):
        rows.append(("body", "a JSON object", _shorten(content, "no JSON")))
        return None
    return content


def _check_content(content: Mapping[str, Any], n: int, rows: _Rows) -> None:
    created = content.get("created")
    if type(created) is not int:
        rows.append(("created", "an integer, in seconds", _shorten(created)))
    entries = content.get("data")
    if not isinstance(entries, list):
        rows.append(("data", "a list", _shorten(entries)))
    elif len(entries) != n:
        rows.append(("data", f"{n} entries", f"{len(entries)}"))


def _check_entry(
    field: str,
    entry: Any,
    image: Any,
    expected: tuple[Size, ResponseFormat, Callable[[str], bytes] | None],
    rows: _Rows,
) -> None:
    size, response_format, read = expected
    if not isinstance(entry, Mapping):
        rows.append((field, "an object", _shorten(entry)))
        return
    other = "url" if response_format == "b64_json" else "b64_json"
    if entry.get(other) is not None:
        rows.append((f"{field}.{other}", "nothing", _shorten(entry[other])))
    value = entry.get(response_format)
    field = f"{field}.{response_format}"
    if not isinstance(value, str):
        rows.append((field, "a string", _shorten(value)))
        return
    try:
        data = _read_image(value, response_format, image, read)
    except (ImageVariationError, ValueError) as error:
        rows.append((field, f"a PNG of {size}", str(error)))
        return
    if data is not None:
        _check_image(field, data, size, rows)


def _read_image(
    value: str, response_format: ResponseFormat, image: Any, read: Callable[[str], bytes] | None
) -> bytes | None:
    """Return the file of an entry, or None if there is no way to download it.

    Raises:
        ValueError: If the value does not have the requested format.
        ImageVariationError: If our own client could not download it.
    """
    if response_format == "b64_json":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ValueError("invalid base64") from None
    if value.startswith("data:image/png;base64,"):
        return base64.b64decode(value.partition(",")[2])
    address = urlsplit(value)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"not an http or https URL: {value[:60]!r}")
    if read is not None:
        return read(value)
    return image.read() if hasattr(image, "read") else None


def _check_image(field: str, data: bytes, size: Size, rows: _Rows) -> None:
    try:
        side = SquarePNG(data).side
    except InvalidImageError as error:
        rows.append((field, f"a PNG of {size}", error.message))
        return
    if f"{side}x{side}" != size:
        rows.append((field, f"a PNG of {size}", f"one of {side}x{side}"))


def _shorten(value: object, if_none: str = "nothing") -> str:
    if value is None:
        return if_none
    text = repr(value)
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[:40]}… ({type(value).__name__})"


def _report(rows: _Rows) -> str:
    table = [("field", "expected", "got"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in table]
    return "\n".join(["The response does not match the request.", *lines])
