"""Error messages for users of the command line.

The library's messages name parameters of Python functions, and show only the name of a file. The
functions here replace these with the options of the command, and with the path that the user typed.
"""

import argparse
import os
import re
from urllib.parse import urlsplit

from langchain_image_variation.files.shown_names import shown_name

__all__ = ["display_name", "name_options", "name_path"]

_ONLY_IN_PYTHON = (
    # `create --api-key` shows the key in process lists, and `serve --api-key` is another key.
    (r"pass api_key or set (\w+)", r"set \1"),
    (r"; pass an http_client with auth", ""),
    (r", or raise max_answer_bytes|raise max_answer_bytes, or ", ""),
    (r"storage_options(?: or fsspec's configuration)?", "fsspec's configuration"),
    (r"allow_storage=\[[^]]*\] in Python, (--allow-storage \S+) on the command line", r"\1"),
    (r"store_dir, or --store-dir", "--store-dir"),
    (r"^signing_key\b", "IMAGE_VARIATION_SIGNING_KEY"),
    (r"pass upstream='\S+'", "pass --upstream URL"),
    (r", or pass download=True", ""),
    (r"urls=URLPolicy\(hosts=\[\.\.\.\]\)", "--allow-host HOST"),
    (r"add it to URLPolicy\(hosts=\[\.\.\.\]\)", "add --allow-host HOST"),
)
"""Advice that only applies in Python, and what to say instead."""

_PARAMETERS = {
    "--accept-field": "accept_fields",
    "--allow-host": "hosts",
    "--allowed-host": "hosts",
    "--cors-origin": "cors_origins",
}
"""The parameters of Python whose names differ from their options."""

_MAX_PATH_LENGTH = 200
"""A longer path would hide the rest of the message."""

_VERBS = "contains|does|has|is|must|names"
_START = r"(?<![\w/?&.\"-])"
"""Matches where a name begins that is neither quoted nor part of a URL or a path."""


def name_options(message: str, arguments: argparse.Namespace) -> str:
    """Return a message with the options of a command instead of the parameters of Python.

    A parameter is recognized where it begins the message, has an underscore, follows "pass", or
    has a value (`fit='crop'` becomes `--fit crop`, and `safety=False` becomes `--no-safety`).

    Args:
        message: The message of an error.
        arguments: The parsed arguments of the command, with its `parser`.
    """
    for pattern, replacement in _ONLY_IN_PYTHON:
        message = re.sub(pattern, replacement, message)
    options = _options(arguments.parser)
    message = re.sub(r"Its options are ([\w, ]+)", lambda match: _list(match[1], options), message)
    for name, option in options.items():
        origin = _origin(name, option, arguments)
        if f"no_{name}" in options:
            message = re.sub(rf"{_START}{name}=True\b", option, message)
            message = re.sub(rf"{_START}{name}=False\b", options[f"no_{name}"], message)
        message = re.sub(
            rf"{_START}{name}=(?:'([^']*)'|(\w+)(?!\w|\.\w))", rf"{option} \1\2", message
        )
        message = re.sub(rf"^{name}(?=:| (?:{_VERBS})\b)", origin, message)
        message = re.sub(rf"\b(pass|Pass|option) '?{name}\b'?", rf"\1 {option}", message)
        if "_" in name:
            message = re.sub(rf"{_START}{name}\b(?!\.\w|/|=)", origin, message)
    return message


def _options(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the long form of each option by the parameter of Python that it sets."""
    # argparse has no public list of its options.
    names = [name for action in parser._actions for name in action.option_strings]
    options = [name for name in names if name.startswith("--")]
    return {_PARAMETERS.get(name, name[2:].replace("-", "_")): name for name in options}


def _origin(name: str, option: str, arguments: argparse.Namespace) -> str:
    """Return where a setting comes from: an option, or the environment if it is not passed."""
    variable = f"OPENAI_{name.upper()}"
    is_passed = getattr(arguments, name, None) is not None
    return option if is_passed or not os.environ.get(variable) else variable


def _list(names: str, options: dict[str, str]) -> str:
    """Return the sentence about an engine's options, without those that only Python can set."""
    listed_options = [options[name] for name in names.split(", ") if name in options]
    if not listed_options:
        return "It has no options on the command line"
    return f"Its options are {', '.join(listed_options)}"


def name_path(message: str, path: str) -> str:
    """Return a message about a file with the path that the user typed instead of its name."""
    if len(path) > _MAX_PATH_LENGTH:
        return message
    return message.replace(repr(shown_name(path)), repr(path), 1)


def display_name(photo: str) -> str:
    """Return an image's argument as messages show it: in one line, without the secrets of a URL."""
    if photo == "-":
        return "standard input"
    if photo[:5].lower() == "data:":
        return "the data: URL"
    if "://" in photo:
        try:
            url = urlsplit(photo)
        except ValueError:
            return "the URL"
        photo = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    if len(photo) > _MAX_PATH_LENGTH:
        photo = f"...{photo[-_MAX_PATH_LENGTH:]}"
    return photo if photo.isprintable() else repr(photo)
