"""A request as YAML or JSON, in a file or on standard input, as the vendor's command takes it."""

import argparse
import os
import stat
import sys
from typing import Any, get_args

from langchain_image_variation.cli.photo import STREAM
from langchain_image_variation.contract import SIZES, ResponseFormat
from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.files.shown_names import shown_path

__all__ = ["use_request_file"]

MAX_REQUEST_BYTES = 64 * 1024
"""The maximum length of a request, in bytes. It names the image, and does not contain it."""

_FIELDS = ("image", "model", "n", "response_format", "size", "user")


def use_request_file(arguments: argparse.Namespace) -> None:
    """Read the request, and set what the command line leaves to it.

    `--request` names its file. Without this option, standard input is the request if the command
    line names no image. If the command line names one, standard input is not read: in a shell's
    loop over the lines of a file, it is that file.

    Args:
        arguments: The arguments of `create`, in which options that were not passed are None.
            Options and images that were passed take precedence over the fields of the request.

    Raises:
        InvalidRequestError: If the file cannot be read or is not a request, if standard input would
            be both the request and an image, or if it is a request that nothing would read.
    """
    path: str | None = arguments.request
    photos: list[str] = arguments.photos
    if path is None and photos:
        _refuse_unread_request(photos)
        return
    if path == STREAM and STREAM in photos:
        raise InvalidRequestError(
            "Standard input cannot be both the request and an image. Pass one of them as a file."
        )
    path = STREAM if path is None else path
    request = _parse(_read(path, arguments), path)
    if not photos and request.get("image") in (None, "", STREAM if path == STREAM else ""):
        raise _invalid_request_error(path, '"image" must be the path of an image')
    for name, value in request.items():
        if name == "image":
            arguments.photos = photos or [str(value)]
        elif getattr(arguments, name) is None and (value != "null" or name == "user"):
            setattr(arguments, name, value)


def _read(path: str, arguments: argparse.Namespace) -> bytes:
    """Return the content of a file, or of standard input. It may be one byte too long.

    Raises:
        InvalidRequestError: If it cannot be read, or is a terminal.
    """
    if path != STREAM:
        try:
            with open(path, "rb") as file:
                return file.read(MAX_REQUEST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is invalid"
            raise InvalidRequestError(
                f"--request: the file {shown_path(path)!r} cannot be read: {reason}."
            ) from None
    has_input = sys.stdin is not None and not sys.stdin.isatty()
    data = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if has_input else b""
    if data.strip():
        return data
    if arguments.request is None:
        parser: argparse.ArgumentParser = arguments.parser
        parser.error("the following arguments are required: PHOTO")
    raise InvalidRequestError(
        "--request - reads YAML or JSON from standard input, which is "
        f"{'empty' if has_input else 'a terminal'}. Pipe or redirect a file into it."
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
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _invalid_request_error(path, "it is neither YAML nor JSON") from None
    if not isinstance(request, dict):
        raise _invalid_request_error(path, "it has no fields")
    for name, value in request.items():
        if name not in _FIELDS:
            raise _invalid_request_error(path, f"{excerpt(name)} is not a field of the request")
        if name != "n" and not isinstance(value, str | None):
            raise _invalid_request_error(path, f'"{name}" must be text, got {excerpt(value)}')
    for name, choices in (("size", SIZES), ("response_format", get_args(ResponseFormat))):
        if request.get(name) not in (None, "null", *choices):
            raise _invalid_request_error(path, f'"{name}" must be one of {", ".join(choices)}')
    return request


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
        data = os.pread(descriptor, MAX_REQUEST_BYTES + 1, 0)
    except (OSError, ValueError):
        # It has no descriptor, or is closed.
        return
    try:
        if not data.strip() or not _parse(data, STREAM):
            return
    except InvalidRequestError:
        # Another file does not matter.
        return
    raise InvalidRequestError(
        "Standard input is a request, which is not read if the command line names an image. Add "
        "--request - to use both, or leave out the image."
    )


def _invalid_request_error(path: str, reason: str) -> InvalidRequestError:
    fields = ", ".join(f'"{name}"' for name in _FIELDS)
    origin, hint = f"The file {shown_path(path)!r}", ""
    if path == STREAM:
        origin, hint = "Standard input", " To pass an image on standard input, add - as PHOTO."
    return InvalidRequestError(
        f"{origin} is not a request: {reason}. Name an image on the command line, or pass YAML or "
        f"JSON with the fields {fields}.{hint}"
    )
