"""Which engine a command uses, and what it is told."""

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

__all__ = ["OUTPUT_DIR", "add_engine", "add_fit", "engine_options", "extra", "output_dir"]

OUTPUT_DIR = "variations"
"""Where results go by default."""

_ENGINE_OPTIONS = ("seed", "strength", "light", "server", "base_url", "prompt")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which engine to use, and what it is told."""
    add = parser.add_argument
    add("--engine", default="local", help="see `image-variation engines` (default: local)")
    add("--seed", type=int, help="make the same variations again")
    add("--strength", type=float, help="0 (nearly a copy) to 1 (default: 0.5)")
    add(
        "--light",
        action=argparse.BooleanOptionalAction,
        help="vary tone and colour a little too (default: yes)",
    )
    add("--server", help="with --engine variations: deepinfra, lemonade, stdapi or xinference")
    add("--base-url", metavar="URL", help="with a hosted engine: where its server is")
    add("--prompt", help="with --engine gpt-image: what to tell the model")


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says what to do with a picture that does not fit the contract."""
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="what to do with a picture that is no square PNG under 4 MB (default: crop)",
    )


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the engine that were given."""
    named = {name: getattr(arguments, name) for name in _ENGINE_OPTIONS}
    return {name: value for name, value in named.items() if value is not None}


def output_dir(named: str | Path) -> Path:
    """Make the output folder before any work is done, so that none is lost.

    Raises:
        InvalidRequestError: If it cannot be made or written to.
    """
    if named == "":
        raise InvalidRequestError("--output-dir is empty; name a folder.", param="output_dir")
    try:
        return make_output_dir(named)
    except OutputError as error:
        raise InvalidRequestError(error.message, param="output_dir") from None


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra brings the package that an import in the block misses.

    Raises:
        MissingExtraError: If one is missing.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError.for_package(
            "This command", error.name, f"langchain-image-variation[{name}]"
        ) from None
