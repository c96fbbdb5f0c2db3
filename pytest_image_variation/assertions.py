"""`assert_images_response`: an answer checked against the contract, each picture included."""

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

_Broken = list[tuple[str, str, str]]


def assert_images_response(
    response: Any,
    *,
    n: int = 1,
    size: Size = "1024x1024",
    response_format: ResponseFormat = "url",
    read: Callable[[str], bytes] | None = None,
) -> None:
    """Check that an answer is what a request for `n` pictures must get.

    Checked are the status, `created`, the number of entries, that each has its picture in the form
    asked for and in no other, and that each picture is a PNG of exactly the size. A key of another
    form may be there as null.

    Args:
        response: The answer, as the vendor's SDK, our client, or an HTTP library returns it, or as
            the parsed or unparsed JSON.
        n: How many pictures were asked for.
        size: Which size was asked for.
        response_format: Which form was asked for.
        read: Fetches the picture of a url. Without it, only the form of urls is checked, except
            for the results of our own client, which are there already. What it raises is raised.

    Raises:
        ValueError: If `size` or `response_format` is none of the contract's, or `n` no whole number
            from 1.
        AssertionError: If a rule is broken; the message lists each field, what was expected there
            and what was found.
    """
    __tracebackhide__ = True
    for name, value, legal in (
        ("size", size, get_args(Size)),
        ("response_format", response_format, get_args(ResponseFormat)),
    ):
        if value not in legal:
            raise ValueError(f"{name} must be one of {', '.join(legal)}, got {str(value)[:60]!r}.")
    if type(n) is not int or n < 1:
        raise ValueError(f"n must be a whole number from 1, got {str(n)[:60]!r}.")
    broken: _Broken = []
    content = _content(response, broken)
    if content is not None:
        _check_content(content, n, broken)
        entries = content.get("data")
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            own = getattr(response, "data", None)
            picture = own[index] if isinstance(own, list) and len(own) > index else None
            _check_entry(f"data[{index}]", entry, picture, (size, response_format, read), broken)
    if broken:
        raise AssertionError(_report(broken))


def _content(response: Any, broken: _Broken) -> Mapping[str, Any] | None:
    """Return the JSON object of an answer in whatever shape it came."""
    status = getattr(response, "status_code", getattr(response, "status", 200))
    if status != 200:
        broken.append(("status", "200", repr(status)))
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
        broken.append(("the body", "a JSON object", "an answer not read yet: await its json()"))
        return None
    if not isinstance(content, Mapping):
        broken.append(("the body", "a JSON object", _shown(content, "no JSON")))
        return None
    return content


def _check_content(content: Mapping[str, Any], n: int, broken: _Broken) -> None:
    created = content.get("created")
    if type(created) is not int:
        broken.append(("created", "a whole number of seconds", _shown(created)))
    entries = content.get("data")
    if not isinstance(entries, list):
        broken.append(("data", "a list", _shown(entries)))
    elif len(entries) != n:
        broken.append(("data", f"{n} entries", f"{len(entries)}"))


def _check_entry(
    where: str,
    entry: Any,
    picture: Any,
    wanted: tuple[Size, ResponseFormat, Callable[[str], bytes] | None],
    broken: _Broken,
) -> None:
    size, response_format, read = wanted
    if not isinstance(entry, Mapping):
        broken.append((where, "an object", _shown(entry)))
        return
    other = "url" if response_format == "b64_json" else "b64_json"
    if entry.get(other) is not None:
        broken.append((f"{where}.{other}", "none", _shown(entry[other])))
    value = entry.get(response_format)
    where = f"{where}.{response_format}"
    if not isinstance(value, str):
        broken.append((where, "a string", _shown(value)))
        return
    try:
        data = _read(value, response_format, picture, read)
    except (ImageVariationError, ValueError) as error:
        broken.append((where, f"a PNG of {size}", str(error)))
        return
    if data is not None:
        _check_picture(where, data, size, broken)


def _read(
    value: str, response_format: ResponseFormat, picture: Any, read: Callable[[str], bytes] | None
) -> bytes | None:
    """Return the file of an entry, or None where it cannot be had.

    Raises:
        ValueError: If the value is not of the form that was asked for.
        ImageVariationError: If our own client could not download it.
    """
    if response_format == "b64_json":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ValueError("no base64") from None
    if value.startswith("data:image/png;base64,"):
        return base64.b64decode(value.partition(",")[2])
    address = urlsplit(value)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"no address: {value[:60]!r}")
    if read is not None:
        return read(value)
    return picture.read() if hasattr(picture, "read") else None


def _check_picture(where: str, data: bytes, size: Size, broken: _Broken) -> None:
    try:
        side = SquarePNG(data).side
    except InvalidImageError as error:
        broken.append((where, f"a PNG of {size}", error.message))
        return
    if f"{side}x{side}" != size:
        broken.append((where, f"a PNG of {size}", f"one of {side}x{side}"))


def _shown(value: object, otherwise: str = "nothing") -> str:
    if value is None:
        return otherwise
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({type(value).__name__})"


def _report(broken: _Broken) -> str:
    rows = [("field", "expected", "got"), *broken]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join(["The answer is not what was asked for.", *lines])
