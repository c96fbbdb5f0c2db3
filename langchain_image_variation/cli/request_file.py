"""A request as YAML or JSON, in a file or on standard input, as the vendor's command takes it."""

import argparse
import os
import stat
import sys
from typing import Any, get_args

from langchain_image_variation.cli.photo import STREAM
from langchain_image_variation.contract import MAX_N, SIZES, ResponseFormat
from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.files.shown_names import shown_path
from langchain_image_variation.numbers import check_whole_number

__all__ = ["use_request_file"]

MAX_REQUEST_BYTES = 64 * 1024
"""The maximum length of a request, in bytes. It names the image, and does not contain it."""

_MAX_UNREAD_BYTES = 4096
"""Up to which length `create` looks for a request that nothing would read, in bytes. Parsing a
larger file would take longer than the start of the program."""

_FIELDS = ("image", "model", "n", "response_format", "size", "user")
_FIELD_LIST = ", ".join(f'"{name}"' for name in _FIELDS)


def use_request_file(arguments: argparse.Namespace) -> None:
    """Read the request, and set what the command line leaves to it.

    `--request` names its file. Without this option, standard input is the request if the command
    line names no image. If the command line names one, standard input is not read: in a shell's
    loop over the lines of a file, it is that file.

    Args:
        arguments: The arguments of `create`, in which options that were not passed are None.
            Options and images that were passed take precedence over the fields of the request.
            `request_fields` gets the names of the fields that the request set.

    Raises:
        InvalidRequestError: If the file cannot be read or is not a request, if standard input would
            be both the request and an image, or if it is a request that nothing would read.
    """
    path: str | None = arguments.request
    photos: list[str] = arguments.photos
    arguments.request_fields = set()
    if path is None and photos:
        _refuse_unread_request(photos)
        return
    if path == STREAM and STREAM in photos:
        raise InvalidRequestError(
            "Standard input cannot be both the request and an image. Pass one of them as a file."
        )
    path = STREAM if path is None else path
    request = _parse(_read(path, arguments), path)
    _check_fields(request, path, arguments.parser)
    if not photos and request.get("image") in (None, "", STREAM if path == STREAM else ""):
        raise _invalid_request_error(
            path,
            '"image" must be the path of an image',
            'Name an image on the command line, or in the field "image".',
        )
    for name, value in request.items():
        if name == "image":
            arguments.photos = photos or [str(value)]
        elif getattr(arguments, name) is None and (value != "null" or name == "user"):
            setattr(arguments, name, value)
            arguments.request_fields.add(name)


def _read(path: str, arguments: argparse.Namespace) -> bytes:
    """Return the content of a file, or of standard input. It may be one byte too long.

    Raises:
        InvalidRequestError: If it cannot be read, or is a terminal.
    """
    if path != STREAM:
        try:
            with open(path, "rb") as file:
                return file.read(MAX_REQUEST_BYTES + 1)
        except FileNotFoundError:
            raise InvalidRequestError(
                f"--request: there is no file {shown_path(path)!r}; check the path."
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is invalid"
            raise InvalidRequestError(
                f"--request: the file {shown_path(path)!r} cannot be read: {reason}."
            ) from None
    problem, data = "closed", b""
    if sys.stdin is not None and sys.stdin.isatty():
        problem = "a terminal"
    elif sys.stdin is not None:
        problem, data = "empty", sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
    if data.strip():
        return data
    if arguments.request is None:
        parser: argparse.ArgumentParser = arguments.parser
        parser.error("the following arguments are required: PHOTO")
    raise InvalidRequestError(
        f"--request - reads YAML or JSON from standard input, which is {problem}. Pipe or redirect "
        "a file into it."
    )


def _parse(data: bytes, path: str) -> dict[str, Any]:
    """Return the fields of a request.

    Raises:
        InvalidRequestError: If it is not one.
    """
    # Imported here because few runs need it.
    import yaml

    if len(data) > MAX_REQUEST_BYTES:
        raise _invalid_request_error(path, f"it has more than {MAX_REQUEST_BYTES:,} bytes")
    try:
        request = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):
        # A tag that its value does not fit, such as `!!int x`, raises errors of any of these types.
        raise _invalid_request_error(path, "it is not one document of YAML or JSON") from None
    if not isinstance(request, dict):
        raise _invalid_request_error(path, "it has no fields")
    return request


def _check_fields(request: dict[str, Any], path: str, parser: argparse.ArgumentParser) -> None:
    """Check the names and the values of a request's fields.

    Raises:
        InvalidRequestError: If a field does not exist, or has an invalid value.
    """
    origin = _describe_origin(path)
    options = [option for action in parser._actions for option in action.option_strings]
    for name, value in request.items():
        field = f'"{name}" in {origin}'
        if name not in _FIELDS:
            option = f"--{str(name).replace('_', '-')}"
            raise InvalidRequestError(
                f"{excerpt(name)} in {origin} is an option, not a field of the request. Pass "
                f"{option} on the command line."
                if option in options
                else f"{excerpt(name)} in {origin} is not a field of the request. Its fields are "
                f"{_FIELD_LIST}."
            )
        if name == "n":
            if value not in (None, "null"):
                check_whole_number(field, value, 1, MAX_N, param="n")
        elif not isinstance(value, str | None):
            raise InvalidRequestError(f"{field} must be text, got {excerpt(value)}.", param=name)
    for name, choices in (("size", SIZES), ("response_format", get_args(ResponseFormat))):
        value = request.get(name)
        if value not in (None, "null", *choices):
            raise InvalidRequestError(
                f'"{name}" in {origin} must be one of {", ".join(choices)}, got {excerpt(value)}.',
                param=name,
            )


def _refuse_unread_request(photos: list[str]) -> None:
    """Refuse a request on standard input that nothing would read.

    Only a file that nobody has read from is looked at, without moving its position. The file of a
    loop has been read from, and reading a pipe would take away another program's input.

    Raises:
        InvalidRequestError: If standard input is a file with a request.
    """
    if STREAM in photos or sys.stdin is None or not hasattr(os, "pread"):
        return
    try:
        descriptor = sys.stdin.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not is_file or os.lseek(descriptor, 0, os.SEEK_CUR) != 0:
            return
        data = os.pread(descriptor, _MAX_UNREAD_BYTES + 1, 0)
    except (OSError, ValueError):
        # It has no descriptor, or is closed.
        return
    try:
        is_small = len(data) <= _MAX_UNREAD_BYTES
        request = _parse(data, STREAM) if is_small and data.strip() else {}
        if not request.keys() <= set(_FIELDS) or not request:
            return
    except InvalidRequestError:
        # Another file does not matter.
        return
    raise InvalidRequestError(
        "Standard input is a request, which is not read if the command line names an image. Add "
        "--request - to use both, or leave out the image."
    )


def _describe_origin(path: str) -> str:
    """Return where a request comes from, for the middle of a sentence."""
    return "standard input" if path == STREAM else f"the file {shown_path(path)!r}"


def _invalid_request_error(
    path: str, reason: str, advice: str = f"Pass YAML or JSON with the fields {_FIELD_LIST}."
) -> InvalidRequestError:
    """Return the error for what is not a request, or names no image."""
    origin = _describe_origin(path)
    hint = " To pass an image on standard input, add - as PHOTO." if path == STREAM else ""
    return InvalidRequestError(
        f"{origin[0].upper()}{origin[1:]} is not a request: {reason}. {advice}{hint}"
    )
