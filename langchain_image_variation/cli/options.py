"""Options that several commands share: the engine, how to fit an image, the output folder."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    OutputError,
)
from langchain_image_variation.output import make_output_dir
from langchain_image_variation.source import Fit

__all__ = [
    "OUTPUT_DIR",
    "add_engine",
    "add_fit",
    "engine_options",
    "make_output_folder",
    "translate_import_errors",
]

OUTPUT_DIR = "variations"
"""The default folder for results."""

_ENGINE_OPTIONS = ("seed", "strength", "light", "server", "base_url", "prompt")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the engine and its options."""
    add = parser.add_argument
    add(
        "--engine",
        default="local",
        help="the engine; `image-variation engines` lists them (default: local)",
    )
    add("--seed", type=int, help="make the same variations again")
    add("--strength", type=float, help="how much to change, 0 (almost a copy) to 1 (default: 0.5)")
    add(
        "--light",
        action=argparse.BooleanOptionalAction,
        help="also vary tone and color slightly (default: yes)",
    )
    add("--server", help="with --engine variations: deepinfra, lemonade, stdapi or xinference")
    add("--base-url", metavar="URL", help="with a hosted engine: the address of its server")
    add("--prompt", help="with --engine gpt-image: the prompt for the model")


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the argument for images that do not fit the contract."""
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="what to do with an image that is not a square PNG under 4 MB: refuse it, crop it, "
        "pad it with its mirror image, or keep its shape in the results (default: crop)",
    )


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the engine options that the user has set."""
    options = {name: getattr(arguments, name) for name in _ENGINE_OPTIONS}
    return {name: value for name, value in options.items() if value is not None}


def make_output_folder(path: str | Path) -> Path:
    """Create the output folder before the work begins, so that no result is lost.

    Raises:
        InvalidRequestError: If it cannot be created or written to.
    """
    if path == "":
        raise InvalidRequestError("--output-dir is empty; pass a folder.", param="output_dir")
    try:
        return make_output_dir(path)
    except OutputError as error:
        raise InvalidRequestError(error.message, param="output_dir") from None


@contextmanager
def translate_import_errors(extra: str) -> Iterator[None]:
    """Name the extra to install if an import in the block fails.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError.for_package(
            "This command", error.name, f"langchain-image-variation[{extra}]"
        ) from None
