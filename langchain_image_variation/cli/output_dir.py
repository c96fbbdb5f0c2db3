"""The option `--output-dir`, and the folder that it names."""

import argparse
from pathlib import Path

from langchain_image_variation.cli.messages import name_path
from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.output import make_output_dir

__all__ = ["OUTPUT_DIR", "add_output_dir", "make_output_folder"]

OUTPUT_DIR = "variations"
"""The default folder for results."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_output_dir(
    container: argparse._ActionsContainer, help: str, default: str | None = None
) -> None:
    """Add the argument for the output folder to a parser or a group."""
    container.add_argument("-o", "--output-dir", metavar="DIR", default=default, help=help)


def make_output_folder(directory: str | Path) -> Path:
    """Create the output folder before the work begins, so that no result is lost.

    Raises:
        InvalidRequestError: If it cannot be created or written to, or was meant as a file.
    """
    if directory == "":
        raise InvalidRequestError("--output-dir is empty; pass a folder.", param="output_dir")
    path = Path(directory)
    if path.suffix.lower() in _IMAGE_SUFFIXES and not path.exists():
        raise InvalidRequestError(
            f"--output-dir takes a folder, and {str(directory)!r} looks like a file. Pass --name "
            f"for the names of files, or -o - > {path.name} for one image.",
            param="output_dir",
        )
    try:
        return make_output_dir(path)
    except OutputError as error:
        message = name_path(error.message, str(directory))
        raise InvalidRequestError(message, param="output_dir") from None
