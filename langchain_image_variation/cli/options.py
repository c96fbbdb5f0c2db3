"""Arguments that several commands have."""

import argparse
from typing import get_args

from langchain_image_variation.contract import MAX_N, SIZES
from langchain_image_variation.exceptions import excerpt
from langchain_image_variation.source import Fit

__all__ = ["add_fit", "add_n", "add_quiet", "add_size", "number", "text_or_null", "whole_number"]

_NULL = "null"
"""Stands for a field that is left out, as in the vendor's command line."""


def text_or_null(text: str) -> str | None:
    """Return the value of an argument, or None for the text "null"."""
    return None if text == _NULL else text


def whole_number(text: str) -> int:
    """Return the whole number that an argument is."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {excerpt(text)}") from None


def number(text: str) -> float:
    """Return the number that an argument is."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {excerpt(text)}") from None


def _whole_number_or_null(text: str) -> int:
    return 1 if text == _NULL else whole_number(text)


def add_n(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the number of variations."""
    parser.add_argument(
        "-n",
        "--n",
        type=_whole_number_or_null,
        default=1,
        metavar="N",
        help=f"the number of variations of each image, 1 to {MAX_N} (default: 1)",
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the size of the variations."""
    parser.add_argument(
        "--size",
        type=lambda text: SIZES[-1] if text == _NULL else text,
        choices=SIZES,
        default=SIZES[-1],
        help=f"the size of the variations in pixels (default: {SIZES[-1]})",
    )


def add_quiet(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the argument for less output."""
    parser.add_argument("-q", "--quiet", action="store_true", help=help)


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the argument for images that do not fit the contract."""
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="what to do with an image that is not a square PNG under 4 MB: refuse it, crop it, "
        "pad it with its mirror image, or keep its shape in the results (default: crop)",
    )
