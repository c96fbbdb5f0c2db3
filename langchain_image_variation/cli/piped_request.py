"""A request on standard input, as the vendor's command `images create-variation` takes it."""

import argparse
import sys
from typing import Any, get_args

from langchain_image_variation.contract import SIZES, ResponseFormat
from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = ["use_piped_request"]

MAX_REQUEST_BYTES = 64 * 1024
"""The maximum length of a request on standard input, in bytes. It names the image, and does not
contain it."""

_FIELDS = ("image", "model", "n", "response_format", "size", "user")


def use_piped_request(arguments: argparse.Namespace) -> None:
    """Read the request from standard input, if the command line names no image.

    If it names one, standard input is not read: in a shell's loop over the lines of a file, it is
    that file.

    Args:
        arguments: The arguments of `create`, in which options that were not passed are None.
            Options that were passed take precedence over the fields of the request.

    Raises:
        InvalidRequestError: If standard input is not a request, as YAML or JSON.
    """
    if arguments.photos:
        return
    if sys.stdin is None or sys.stdin.isatty():
        arguments.parser.error("the following arguments are required: PHOTO")
    for name, value in _read_request(arguments).items():
        if name == "image":
            arguments.photos = [str(value)]
        elif getattr(arguments, name) is None and (value != "null" or name == "user"):
            setattr(arguments, name, value)


def _read_request(arguments: argparse.Namespace) -> dict[str, Any]:
    # Imported here because few runs need it.
    import yaml

    data = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
    if not data.strip():
        arguments.parser.error("the following arguments are required: PHOTO")
    if len(data) > MAX_REQUEST_BYTES:
        raise _invalid_request_error(f"it has more than {MAX_REQUEST_BYTES:,} bytes")
    try:
        request = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _invalid_request_error("it is neither YAML nor JSON") from None
    if not isinstance(request, dict):
        raise _invalid_request_error("it has no fields")
    for name, value in request.items():
        if name not in _FIELDS:
            raise _invalid_request_error(f"{excerpt(name)} is not a field of the request")
        if name != "n" and not isinstance(value, str | None):
            raise _invalid_request_error(f'"{name}" must be text, got {excerpt(value)}')
    for name, choices in (("size", SIZES), ("response_format", get_args(ResponseFormat))):
        if request.get(name) not in (None, "null", *choices):
            raise _invalid_request_error(f'"{name}" must be one of {", ".join(choices)}')
    if request.get("image") in (None, "", "-"):
        raise _invalid_request_error('"image" must be the path of an image')
    return request


def _invalid_request_error(reason: str) -> InvalidRequestError:
    fields = ", ".join(f'"{name}"' for name in _FIELDS)
    return InvalidRequestError(
        f"Standard input is not a request: {reason}. Name an image on the command line, or pass "
        f"YAML or JSON with the fields {fields}. To pass an image on standard input, add - as "
        "PHOTO."
    )
